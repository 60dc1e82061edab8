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
  std::int64_t global_count = 0;       // samples of all workers in this step; own samples (next_own, at)
  bool last = false;                   // nothing is left of the budget after this one
  std::int64_t epoch = 0;              // how often the samples were used before
};

// What samplers of one process can share: permutations of all samples, each made once and kept as long as a
// sampler is in it, and how often they have used each sample.
class SharedOrders {
 public:
  using Order = std::shared_ptr<std::vector<std::uint32_t>>;
  SharedOrders(std::size_t samples, std::uint64_t seed) : uses(samples), seed_(seed) {}
  // order <- the permutation `stream` (see shuffled). Allocates where somebody else holds the old one.
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

// The order of the samples; depends on the settings alone, on every host. The last minibatch of an epoch and
// of the budget is short rather than dropped; its samples are spread evenly over the workers, so some may get
// none. With one worker, `shard` is the same order as `global`. Allocates at construction only, unless
// shared.
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
    std::vector<double> shares;  // global: of each worker in a step, adding up to 1; empty: equal
  };
  // Throws std::invalid_argument. `shared`: of the same samples and seed; null: its own.
  explicit Sampler(const Options& settings, std::shared_ptr<SharedOrders> shared = nullptr);

  // global: the worker's part of the next step. shard: likewise; all workers take equally many steps, so one
  // whose part is used up waits for the end of the epoch with empty minibatches. When the budget is spent,
  // returns an empty minibatch with global_count 0.
  Minibatch next();
  // shard without lock-step (parameter servers grant the work, so no budget here): the worker's next
  // min(most, minibatch, rest of its epoch) samples. Either this or next(), not both.
  Minibatch next_own(int most = std::numeric_limits<int>::max());
  // queue: samples [position, position + count) of the endless stream of shuffled epochs; count <= minibatch.
  // Ends with the epoch: the caller asks again for the rest.
  Minibatch at(std::int64_t position, int count);

  // How often this worker, or all that share, have used each sample: one count per sample.
  const std::vector<std::uint32_t>& uses() const { return shared_->uses; }
  // Minibatches handed out: the whole state of next(). A new sampler that is asked as often is in the same
  // place.
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
  std::int64_t done_ = 0;   // of this epoch: samples (global: of all workers); steps in next() of shard
  std::int64_t used_ = 0;   // samples of all workers
  std::int64_t steps_ = 0;
  std::int64_t round_ = 0;  // of next_draw()
};

// Permutes ids: Fisher-Yates, the same on every host. `stream` separates permutations of one seed.
void shuffled(std::uint64_t seed, std::uint64_t stream, std::span<std::uint32_t> ids);

}  // namespace dsgd
