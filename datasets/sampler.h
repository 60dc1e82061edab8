// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "data_order.h"

namespace dsgd {

struct Minibatch {
  std::span<const std::uint32_t> ids;  // valid until the next call; all of one epoch
  std::int64_t global_count = 0;  // samples of all workers in this step; next_own(), at(): of this worker
  bool last = false;              // the budget is spent after this one
  std::int64_t epoch = 0;         // how often these samples were used before
};

// State that the samplers of one process share: how often they have used each sample, and the permutations of
// all samples. A permutation is computed once and kept as long as a sampler uses it.
class SharedOrders {
 public:
  using Order = std::shared_ptr<std::vector<std::uint32_t>>;
  SharedOrders(std::size_t samples, std::uint64_t seed) : uses(samples), seed_(seed) {}
  // order <- permutation number `stream` (see shuffled()). Allocates if another sampler still holds the old
  // one.
  void open(std::uint64_t stream, Order& order);
  std::vector<std::uint32_t> uses;

 private:
  struct Known {
    std::uint64_t stream;
    std::weak_ptr<std::vector<std::uint32_t>> order;
  };
  std::uint64_t seed_;
  std::vector<Known> known_;
};

// Decides which samples a worker reads, and in which order. This depends on the settings alone, on every
// host. The last minibatch of an epoch and of the budget is short; its samples are spread evenly over the
// workers, so some may get none. With one worker, `shard` gives the same order as `global`. Allocates only in
// the constructor, unless SharedOrders are shared.
class Sampler {
 public:
  struct Options {
    std::size_t samples = 0;  // size of the training set
    std::uint64_t seed = 1;
    DataOrder order = DataOrder::global;
    int worker = 0, workers = 1;
    int minibatch = 32;          // per worker
    std::int64_t budget = 0;     // samples of all workers together
    double fraction = 0;         // next() draws each sample with this probability; 0: minibatches
    std::vector<double> shares;  // global: each worker's share of a step, with sum 1; empty: equal shares
  };
  // Throws std::invalid_argument. shared: of the same samples and seed; null: the sampler has its own.
  explicit Sampler(const Options& settings, std::shared_ptr<SharedOrders> shared = nullptr);

  // The worker's part of the next step, for `global` and `shard`. With `shard` all workers make the same
  // number of steps: a worker whose part is used up gets empty minibatches until the epoch ends. When the
  // budget is spent, global_count is 0.
  Minibatch next();
  // `shard` without lock-step, where parameter servers keep the budget: the worker's next min(most,
  // minibatch, rest of its epoch) samples. Do not mix with next().
  Minibatch next_own(int most = std::numeric_limits<int>::max());
  // `queue`: samples [position, position + count) of the endless stream of shuffled epochs; count <=
  // minibatch. The result ends with the epoch; call again for the rest.
  Minibatch at(std::int64_t position, int count);

  // How often each sample was used, by this worker or by all that share.
  const std::vector<std::uint32_t>& uses() const { return shared_->uses; }
  // Minibatches returned by next(), which is its whole state: a new sampler continues here after as many
  // calls.
  std::int64_t steps() const { return steps_; }

 private:
  Minibatch next_global(std::int64_t rest);
  Minibatch next_shard(std::int64_t rest);
  Minibatch next_draw(std::int64_t rest);
  std::int64_t bound(std::int64_t count, int worker) const;  // where a worker's part of a global step begins
  Minibatch hand_out(std::span<const std::uint32_t> ids, std::int64_t global_count);
  void open_epoch(std::int64_t epoch);

  // All samples (shard: the worker's) in the order of the open epoch.
  std::span<const std::uint32_t> order() const { return all_ ? *all_ : own_; }

  Options settings_;
  std::shared_ptr<SharedOrders> shared_;
  SharedOrders::Order all_;  // not of shard
  std::vector<std::uint32_t> part_,
      own_;                 // shard: the worker's samples, ascending and in the epoch's order; or drawn
  std::int64_t open_ = -1;  // the epoch that is open
  std::int64_t epoch_ = 0;  // of the next step
  std::int64_t done_ = 0;   // of this epoch: samples of all workers (global), or steps (shard)
  std::int64_t used_ = 0;   // samples of all workers
  std::int64_t steps_ = 0;
  std::int64_t round_ = 0;  // of next_draw()
};

// Permutes ids by Fisher-Yates, with the same result on every host. stream: distinguishes permutations of one
// seed.
void shuffled(std::uint64_t seed, std::uint64_t stream, std::span<std::uint32_t> ids);

}  // namespace dsgd
