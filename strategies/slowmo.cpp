// SPDX-License-Identifier: Apache-2.0
// Slow momentum (Wang et al. 2019): tau local steps, then a step of momentum along what they achieved
// together.
//   every tau steps:     u <- beta * u + (x - (1/P) * sum_k w_k) / gamma        gamma: the local rate
//                        x <- x - alpha * gamma * u;   w_k <- x
// beta = 0, alpha = 1 is averaging; alpha = 1 and a constant rate the block momentum of bmuf (classic); one
// worker with beta = 0, alpha < 1 Lookahead. The paper zeroes the local momentum at the end of a period
// (state = reset) and keeps Adam's moments (keep).

#include "parts/outer_loop.h"

namespace dsgd {
namespace {

class SlowMo final : public OuterLoop {
 public:
  SlowMo(const Settings& s, const Context& c)
      : OuterLoop(c, s.integer("tau"), s.text("state")),
        alpha_(float(s.number("alpha"))),
        beta_(float(s.number("beta"))),
        x_(*c.space, c.parameters),
        u_(*c.space, c.parameters) {}
  Vec master(Replica& r) override { return r.t == 0 ? r.w : x_.view(); }
  void visit(State& state) override {
    OuterLoop::visit(state);
    state.vector("x", x_);
    state.vector("u", u_);
  }

 private:
  void begin(ConstVec w) override { copy(w, x_); }
  void outer(Vec w, std::int64_t used) override {
    const float gamma = float(optimizer_.rate(used));
    axpy(-1, x_, w);
    scale(beta_, u_);
    if (gamma > 0) {
      axpy(-1 / gamma, w, u_);
      axpy(-alpha_ * gamma, u_, x_);
    } else {  // what there is at such a rate, which has no share in u
      axpy(alpha_, w, x_);
    }
    copy(x_, w);
  }

  float alpha_, beta_;
  Vector x_, u_;
};

}  // namespace

extern const StrategyEntry slowmo_entry{
    .name = "slowmo",
    .summary = "averaging with a slow momentum from period to period",
    .paper = "Wang et al. 2019",
    .data_order = DataOrder::shard,
    .parameters = {Parameter::integer("tau", 12, "local steps in a period", 1, 1e9),
                   Parameter::number("alpha", 1.0, "slow learning rate", 0, 100),
                   Parameter::number("beta", 0.7, "slow momentum", 0, 0.999), state_parameter("reset")},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<SlowMo>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          return double(periods(steps, s.integer("tau"))) * end_of_period_cost(s, c);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                       {"period", double(s.integer("tau"))},
                       {"effective_gain", s.number("alpha") / (1 - s.number("beta"))}};
        },
    .tests = {.conformance = {{"tau", std::int64_t(3)}, {"beta", 0.5}},
              .identities = {
                  {.of = Identity::one_worker,
                   .settings = {{"tau", std::int64_t(4)}, {"beta", 0.0}, {"state", std::string("keep")}},
                   .rounding = 1},
                  {.of = Identity::linear,
                   .settings = {{"tau", std::int64_t(1)}, {"beta", 0.0}, {"state", std::string("keep")}},
                   .rounding = 1}}}};

}  // namespace dsgd
