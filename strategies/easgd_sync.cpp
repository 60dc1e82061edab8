// SPDX-License-Identifier: Apache-2.0
// Elastic averaging in lock-step, easgd_sync and eamsgd_sync (Zhang, Choromanska, LeCun 2015, equations 5 and
// 6, there with tau = 1; more in elastic.h): every tau local steps, and at the end,
//   d_i <- alpha * (x_i - c);   x_i <- x_i - d_i;   c <- c + sum_i d_i
// with d_i of the x_i before the local step. What is reported is c.

#include "parts/elastic.h"

namespace dsgd {
namespace {

class EasgdSync final : public Elastic {
 public:
  EasgdSync(const Settings& s, const Context& c)
      : Elastic(s, c), group_(*c.group), c_(*c.space, c.parameters) {}

  bool step(Replica& r) override {
    if (r.t == 0) copy(r.w, c_);
    const Batch batch = r.next();
    if (!batch) return false;
    const bool due = r.t > 0 && r.t % tau_ == 0;
    if (due) differ(r.w);
    if (batch.count()) local_step(r, batch, r.used);
    if (due) exchange(r);
    if (batch.last) {
      differ(r.w);
      exchange(r);
    }
    return true;
  }
  Vec master(Replica& r) override { return r.t == 0 ? r.w : c_.view(); }
  void visit(State& state) override {
    Elastic::visit(state);
    state.vector("c", c_);
  }

 private:
  void differ(ConstVec x) {  // d <- alpha * (x - c)
    copy(c_, d_);
    scale(-alpha_, d_);
    axpy(alpha_, x, d_);
  }
  void exchange(Replica& r) {
    axpy(-1, d_, r.w);
    copy(d_, r.g);  // the gradient has been used
    group_.sum(r.g);
    axpy(1, r.g, c_);
  }

  Group& group_;
  Vector c_;
};

StrategyEntry synchronous(const char* name, const char* summary, bool momentum) {
  StrategyEntry e = Elastic::entry(name, summary, momentum);
  e.make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
    return std::make_unique<EasgdSync>(s, c);
  };
  e.cost = [](const Settings& s, const Context& c, std::int64_t steps) {
    return double(periods(steps, s.integer("tau"))) * all_reduce_cost(c);
  };
  return e;
}

}  // namespace

extern const StrategyEntry easgd_sync_entry =
    synchronous("easgd_sync", "elastic averaging in lock-step", false);
extern const StrategyEntry eamsgd_sync_entry =
    synchronous("eamsgd_sync", "easgd_sync with Nesterov momentum in the local steps", true);

}  // namespace dsgd
