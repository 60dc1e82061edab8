// SPDX-License-Identifier: Apache-2.0
// Delay-compensated asynchronous SGD (Zheng et al. 2017): the server corrects a gradient for the way that the
// model has gone since, with the outer product of the gradient, its diagonal, in place of the Hessian.
//   pull by worker m:   w_bak(m) <- w;  send w
//   push of g_m:        w <- w - eta * (g_m + lambda_t * g_m * g_m * (w - w_bak(m)))       (element-wise)
//   lambda_t = lambda                                              compensation = constant (DC-ASGD-c)
//            = lambda / sqrt(meansquare + epsilon)                 adaptive (DC-ASGD-a)
//   meansquare <- m * meansquare + (1 - m) * g_m^2                 (before it is used)
// The adaptive form and the constants (0.04, 2, 0.95, 1e-7) are those of re-implementations, not read in the
// paper. Weight decay (optimizer.l2) is of the w that is updated, so it needs no compensation.

#include "parts/pull_push.h"

namespace dsgd {
namespace {

bool adaptive(const Settings& s) { return s.text("compensation") == "adaptive"; }
double strength(const Settings& s) {
  return s.number("lambda") >= 0 ? s.number("lambda") : adaptive(s) ? 2 : 0.04;
}

class DcAsgdRule final : public Rule {
 public:
  DcAsgdRule(const Settings& s, const Context& c)
      : optimizer_(c.optimizer, *c.space, c.parameters),
        with_{float(strength(s)), float(s.number("m")), float(s.number("epsilon"))},
        meansquare_(*c.space, adaptive(s) ? c.parameters : 0),
        compensated_(*c.space, c.parameters) {
    for (int m = 0; m < c.workers; ++m) w_bak_.emplace_back(*c.space, c.parameters);
  }
  void sent(int m, ConstVec w) override { copy(w, w_bak_[m]); }
  void apply(Vec w, const Arrival& a, std::int64_t used) override {
    compensate(with_, a.g, w, w_bak_[a.worker], meansquare_, compensated_);
    optimizer_.step(w, compensated_, a.scale, used);
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.vector("meansquare", meansquare_);
    for (std::size_t m = 0; m < w_bak_.size(); ++m) state.vector("w_bak " + std::to_string(m), w_bak_[m]);
  }

 private:
  Optimizer optimizer_;
  Space::Compensation with_;
  Vector meansquare_, compensated_;
  std::vector<Vector> w_bak_;  // what each worker was sent last
};

}  // namespace

extern const StrategyEntry dc_asgd_entry{
    .name = "dc_asgd",
    .summary = "asynchronous SGD that corrects gradients for their delay",
    .paper = "Zheng et al. 2017",
    .kind = StrategyEntry::Kind::servers,
    .data_order = DataOrder::queue,
    .parameters = {Parameter::choice("compensation", "adaptive", {"constant", "adaptive"},
                                     "factor of the correction"),
                   Parameter::number("lambda", -1.0,
                                     "strength of the correction; negative: 2 (adaptive), 0.04 (constant)",
                                     -1, 1e6),
                   Parameter::number("m", 0.95, "share of the old mean square kept (adaptive)", 0, 0.999999),
                   Parameter::number("epsilon", 1e-7, "added to the mean square (adaptive)", 0, 1)},
    .make = PullPush::make,
    .make_rule = [](const Settings& s, const Context& c) -> std::unique_ptr<Rule> {
      return std::make_unique<DcAsgdRule>(s, c);
    },
    .cost = PullPush::cost,
    .effective =
        [](const Settings& s, const Context& c) {
          return Facts{{"global_minibatch", double(c.minibatch)}, {"period", 1}, {"lambda", strength(s)}};
        },
    .tolerates_loss = true,
    .tests = {.conformance = {{"lambda", 0.25}, {"m", 0.5}},
              .identities = {
                  {.of = Identity::in_turn},
                  {.of = Identity::in_turn, .settings = {{"compensation", std::string("constant")}}}}}};

}  // namespace dsgd
