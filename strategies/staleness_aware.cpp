// SPDX-License-Identifier: Apache-2.0
// n-softsync with staleness-modulated rates (Zhang, Gupta, Lian, Liu 2015): the server updates whenever c
// gradients have arrived, from any learners.
//   c     = floor(lambda / n), at least 1            lambda: learners that have not left
//   w     <- w - (1/c) * sum_{l=1..c} alpha(tau_l) * g_l
//   alpha(tau) = alpha0 / tau  for tau > 0,  alpha0  for tau = 0        modulation = inverse (the paper)
//              = alpha0 / (tau + 1)                                     inverse_plus_one (FRED's code,
//              DynSGD) = alpha0                                                 none (n = lambda: Downpour)
// tau counts the updates between the version a gradient was computed at and the one it is applied to.
// 1-softsync is not hardsync: two of the c gradients may come from one learner.

#include <algorithm>

#include "parts/pull_push.h"

namespace dsgd {
namespace {

int arrivals_per_update(std::int64_t lambda, std::int64_t n) { return std::max(1, int(lambda / n)); }

class StalenessRule final : public Rule {
 public:
  StalenessRule(const Settings& s, const Context& c)
      : optimizer_(c.optimizer, *c.space, c.parameters),
        n_(s.integer("n")),
        lambda_(c.workers),
        modulation_(s.text("modulation")) {}
  void apply(Vec w, const Arrival& a, std::int64_t used) override { optimizer_.step(w, a.g, a.scale, used); }
  int arrivals() const override { return arrivals_per_update(lambda_, n_); }
  double weight(std::int64_t tau) const override {
    if (modulation_ == "inverse") return tau > 0 ? 1.0 / double(tau) : 1.0;
    if (modulation_ == "inverse_plus_one") return 1.0 / double(tau + 1);
    return 1;
  }
  void left(int) override { --lambda_; }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.number("lambda", lambda_);
  }

 private:
  Optimizer optimizer_;
  std::int64_t n_, lambda_;
  std::string modulation_;
};

}  // namespace

extern const StrategyEntry staleness_aware_entry{
    .name = "staleness_aware",
    .summary = "n-softsync with learning rates divided by staleness",
    .paper = "Zhang et al. 2015",
    .kind = StrategyEntry::Kind::servers,
    .data_order = DataOrder::queue,
    .parameters = {Parameter::integer(
                       "n", 1, "updates per round of all workers: c = floor(workers / n) gradients an update",
                       1),
                   Parameter::choice("modulation", "inverse", {"none", "inverse", "inverse_plus_one"},
                                     "what staleness does to the rate")},
    .make = PullPush::make,
    .make_rule = [](const Settings& s, const Context& c) -> std::unique_ptr<Rule> {
      return std::make_unique<StalenessRule>(s, c);
    },
    .cost = PullPush::cost,
    .effective =
        [](const Settings& s, const Context& c) {
          const int arrivals = arrivals_per_update(c.workers, s.integer("n"));
          return Facts{{"global_minibatch", double(c.minibatch * arrivals)},
                       {"arrivals_per_update", double(arrivals)},
                       {"period", 1}};
        },
    .tolerates_loss = true,
    .tests = {.conformance = {{"n", std::int64_t(2)}},
              .identities = {{.of = Identity::one_worker},
                             {.of = Identity::in_turn, .settings = {{"n", std::int64_t(4096)}}},
                             {.of = Identity::in_turn,
                              .settings = {{"n", std::int64_t(4096)},
                                           {"modulation", std::string("inverse_plus_one")}}}}}};

}  // namespace dsgd
