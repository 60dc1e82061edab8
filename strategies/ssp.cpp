// SPDX-License-Identifier: Apache-2.0
// Stale synchronous parallel (Ho et al. 2013): workers add their updates to the servers' vector at their own
// pace, but the fastest is never more than s clocks ahead of the slowest.
//   worker p, at clock c_p:   u <- -alpha * g(w);   w <- w + u;   c_p <- c_p + 1
//   a read at clock c_p waits until   c_p <= min_q c_q + s
// So it sees every update up to clock c_p - s - 1, its own (read-my-writes: its push arrives before its next
// pull), and whatever else is there. Between a read and the update made from it every other worker adds at
// most 2s + 1 updates: the measured staleness stays within (P - 1) * (2s + 1). Updates are added, not
// averaged: s = 0 is bulk-synchronous SGD with P times the rate of `sync`.
// The paper's workers may also skip a read while what they hold is fresh enough; here every step reads.

#include <algorithm>
#include <limits>

#include "parts/pull_push.h"

namespace dsgd {
namespace {

class SspRule final : public Rule {
 public:
  SspRule(const Settings& s, const Context& c)
      : optimizer_(c.optimizer, *c.space, c.parameters), s_(s.integer("s")), clock_(c.workers) {}
  void apply(Vec w, const Arrival& a, std::int64_t used) override {
    optimizer_.step(w, a.g, a.scale, used);
    ++clock_[a.worker];
  }
  bool admit(int worker, std::int64_t) const override {
    return clock_[worker] <= *std::min_element(clock_.begin(), clock_.end()) + s_;
  }
  void finished(int worker) override { clock_[worker] = std::numeric_limits<std::int64_t>::max() / 2; }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    for (std::size_t k = 0; k < clock_.size(); ++k) state.number("clock " + std::to_string(k), clock_[k]);
  }

 private:
  Optimizer optimizer_;
  std::int64_t s_;
  std::vector<std::int64_t> clock_;  // updates of each worker
};

}  // namespace

extern const StrategyEntry ssp_entry{
    .name = "ssp",
    .summary = "asynchronous SGD in which nobody is more than s steps ahead",
    .paper = "Ho et al. 2013",
    .kind = StrategyEntry::Kind::servers,
    .data_order = DataOrder::shard,
    .parameters = {Parameter::integer("s", 3, "steps that the fastest worker may be ahead of the slowest", 0,
                                      1e9)},
    .make = PullPush::make,
    .make_rule = [](const Settings& s, const Context& c) -> std::unique_ptr<Rule> {
      return std::make_unique<SspRule>(s, c);
    },
    .cost = PullPush::cost,
    .effective =
        [](const Settings& s, const Context& c) {
          return Facts{{"global_minibatch", double(c.minibatch)},
                       {"period", 1},
                       {"staleness_bound", double(c.workers - 1) * double(2 * s.integer("s") + 1)}};
        },
    .tests = {.conformance = {{"s", std::int64_t(1)}},
              .identities = {{.of = Identity::in_turn, .settings = {{"s", std::int64_t(0)}}}}}};

}  // namespace dsgd
