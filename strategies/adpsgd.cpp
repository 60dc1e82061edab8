// SPDX-License-Identifier: Apache-2.0
// Asynchronous decentralised parallel SGD (Lian, Zhang, Zhang, Liu 2018, algorithm 1): nobody waits for all
// the others. Worker i, again and again, at its own pace,
//   g <- gradient(x_i)                        while x_i travels to a neighbour j, drawn by the seed
//   x_i, x_j <- (x_i + x_j) / 2               atomic: neither changes in between
//   x_i <- x_i - gamma * g                    (or the optimizer's rule, each worker with its own state)
// Graphs are bipartite, as in the paper, against deadlock: workers of even rank ask, and those of odd rank,
// all of them neighbours, answer. The paper's workers answer from a thread of their own; here between two
// gradients. An average leaves the mean of the workers alone, which is what the paper reports.

#include "strategy.h"
#include "uniform.h"

namespace dsgd {
namespace {

class AdPsgd final : public Strategy {
 public:
  explicit AdPsgd(const Context& c)
      : group_(*c.group),
        pairs_(*c.pairs),
        optimizer_(c.optimizer, *c.space, c.parameters),
        stream_(finalised(c.seed) + std::uint64_t(c.group->rank())),
        mean_(*c.space, c.parameters) {}

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    const std::vector<int>& neighbours = pairs_.neighbours();
    if (!neighbours.empty()) pairs_.begin_average(neighbours[draw(neighbours.size())]);
    r.gradient(r.w, batch, r.g);
    pairs_.end_average();
    optimizer_.step(r.w, r.g, 1.0 / batch.count(), pairs_.used());
    return true;
  }
  Vec master(Replica& r) override {
    copy(r.w, mean_);
    group_.mean(mean_);
    return mean_;
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.number("draws", draws_);
  }

 private:
  std::size_t draw(std::size_t n) {
    return (finalised(finalised(stream_) + std::uint64_t(++draws_)) >> 32) * n >> 32;
  }

  Group& group_;
  Pairs& pairs_;
  Optimizer optimizer_;
  std::uint64_t stream_;
  std::int64_t draws_ = 0;
  Vector mean_;
};

}  // namespace

extern const StrategyEntry adpsgd_entry{
    .name = "adpsgd",
    .summary = "gossip without waiting: averages with one random neighbour",
    .paper = "Lian et al. 2018 (AD-PSGD)",
    .kind = StrategyEntry::Kind::pairs,
    .data_order = DataOrder::shard,
    .make = [](const Settings&, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<AdPsgd>(c);
    },
    .cost =
        [](const Settings&, const Context& c, std::int64_t steps) {
          // Of all workers on average: every step of one who asks is a message and its answer.
          if (c.workers == 1) return Cost{};
          const int asking = (c.workers + 1) / 2;
          const double sent = 2.0 * asking / c.workers * double(steps);
          return Cost{sent * (64 + 4 * double(c.parameters)), sent};
        },
    .effective =
        [](const Settings&, const Context& c) {
          return Facts{{"global_minibatch", double(c.minibatch)}, {"period", 1}};
        },
    .own_models = true,
    .collectives = 0,
    .tests = {.identities = {{.of = Identity::one_worker}}}};

}  // namespace dsgd
