// SPDX-License-Identifier: Apache-2.0
// Distributed low-communication training (Douillard et al. 2023): H local steps, then the mean of what the
// workers moved by is the gradient of an outer optimizer.
//   each worker:         H inner steps from theta          (AdamW in the paper: optimizer.rule = "adamw")
//   every H steps:       Delta <- theta - (1/P) * sum_k theta_k
//                        theta <- outer optimizer(theta, Delta)
//   outer = nesterov:    v <- mu * v + Delta;   theta <- theta - rate * (Delta + mu * v)      (the paper's)
// The inner optimizer's state stays with its worker. Rate 1 without momentum is averaging.

#include "parts/outer_loop.h"

namespace dsgd {
namespace {

class DiLoCo final : public OuterLoop {
 public:
  DiLoCo(const Settings& s, const Context& c)
      : OuterLoop(c, s.integer("H"), "keep"),
        outer_({.rule = optimizer_rule(s.text("outer")),
                .learning_rate = s.number("outer_rate"),
                .momentum = s.number("outer_momentum")},
               *c.space, c.parameters),
        theta_(*c.space, c.parameters) {}
  Vec master(Replica& r) override { return r.t == 0 ? r.w : theta_.view(); }
  void visit(State& state) override {
    OuterLoop::visit(state);
    state.optimizer(outer_, "outer");
    state.vector("theta", theta_);
  }

 private:
  void begin(ConstVec w) override { copy(w, theta_); }
  void outer(Vec w, std::int64_t used) override {
    scale(-1, w);
    axpy(1, theta_, w);  // Delta
    outer_.step(theta_, w, 1, used);
    copy(theta_, w);
  }

  Optimizer outer_;
  Vector theta_;
};

}  // namespace

extern const StrategyEntry diloco_entry{
    .name = "diloco",
    .summary = "averaging whose result is the gradient of an outer optimizer",
    .paper = "Douillard et al. 2023",
    .data_order = DataOrder::shard,
    .parameters = {Parameter::integer("H", 500, "local steps between two outer ones", 1, 1e9),
                   Parameter::choice("outer", "nesterov", {"sgd", "momentum", "nesterov"},
                                     "rule of the outer steps"),
                   Parameter::number("outer_rate", 0.7, "rate of the outer steps", 0, 100),
                   Parameter::number("outer_momentum", 0.9, "momentum of the outer steps", 0, 0.999)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<DiLoCo>(s, c);
    },
    .cost = [](const Settings& s, const Context& c,
               std::int64_t steps) { return double(periods(steps, s.integer("H"))) * all_reduce_cost(c); },
    .effective =
        [](const Settings& s, const Context& c) {
          const double mu = s.text("outer") == "sgd" ? 0 : s.number("outer_momentum");
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                       {"period", double(s.integer("H"))},
                       {"effective_gain", s.number("outer_rate") / (1 - mu)}};
        },
    .tests = {.conformance = {{"H", std::int64_t(3)}, {"outer_momentum", 0.5}},
              .identities = {
                  {.of = Identity::one_worker,
                   .settings = {{"H", std::int64_t(4)}, {"outer_rate", 1.0}, {"outer_momentum", 0.0}},
                   .rounding = 1},
                  {.of = Identity::linear,
                   .settings = {{"H", std::int64_t(1)}, {"outer", std::string("sgd")}, {"outer_rate", 1.0}},
                   .rounding = 1}}}};

}  // namespace dsgd
