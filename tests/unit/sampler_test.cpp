// SPDX-License-Identifier: Apache-2.0
#include "sampler.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "allocations.h"
#include "random.h"

namespace dsgd {
namespace {

// The first numbers of the generator that its authors publish, seed 0.
TEST(Random, IsSplitMix64) {
  EXPECT_EQ(mixed(0), 0xe220a8397b1dcdaf);
  EXPECT_EQ(mixed(0x9e3779b97f4a7c15), 0x6e789e6aa1b965f4);
  EXPECT_EQ(finalised(1), 0x5692161d100b05e5);  // not of the counter's next value
}

using Ids = std::vector<std::uint32_t>;
Ids copy(const Minibatch& b) { return {b.ids.begin(), b.ids.end()}; }

Ids all_ids(std::size_t n) {
  Ids ids(n);
  std::iota(ids.begin(), ids.end(), 0u);
  return ids;
}

Ids sorted(Ids ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::vector<Sampler> team(Sampler::Options s, int workers) {
  std::vector<Sampler> samplers;
  for (s.worker = 0, s.workers = workers; s.worker < workers; ++s.worker) samplers.emplace_back(s);
  return samplers;
}

// Sizes, workers and minibatches that divide each other, that do not, and that leave workers with nothing.
struct Case {
  std::size_t samples;
  int workers, minibatch;
  std::int64_t budget;
};
const Case cases[] = {{64, 1, 8, 192}, {64, 2, 8, 192},   {64, 4, 8, 100},   {61, 2, 8, 183},
                      {61, 3, 7, 150}, {61, 4, 5, 1000},  {100, 7, 3, 333},  {5, 4, 32, 12},
                      {3, 5, 2, 10},   {1, 3, 4, 4},      {1000, 3, 128, 1}, {64, 2, 8, 64},
                      {8, 5, 1, 7},    {97, 16, 2, 1940}, {10, 2, 1, 7}};

TEST(Sampler, GlobalMinibatchesSideBySideAreThatOfOneWorker) {
  for (const auto& c : cases) {
    SCOPED_TRACE(fmt::format("{} samples, {} x {}, budget {}", c.samples, c.workers, c.minibatch, c.budget));
    auto workers =
        team({.samples = c.samples, .seed = 7, .minibatch = c.minibatch, .budget = c.budget}, c.workers);
    Sampler one({.samples = c.samples, .seed = 7, .minibatch = c.minibatch * c.workers, .budget = c.budget});
    std::int64_t used = 0;
    while (used < c.budget) {
      const Minibatch expected = one.next();
      ASSERT_EQ(expected.global_count, std::int64_t(expected.ids.size()));
      Ids together;
      std::size_t least = SIZE_MAX, most = 0;
      for (auto& worker : workers) {
        const Minibatch part = worker.next();
        ASSERT_EQ(part.global_count, expected.global_count);
        ASSERT_EQ(part.last, expected.last);
        ASSERT_LE(part.ids.size(), std::size_t(c.minibatch));
        least = std::min(least, part.ids.size());
        most = std::max(most, part.ids.size());
        together.insert(together.end(), part.ids.begin(), part.ids.end());
      }
      ASSERT_EQ(together, copy(expected));
      ASSERT_LE(most - least, 1u);
      used += expected.global_count;
      ASSERT_EQ(expected.last, used == c.budget);
      // As full as epoch and budget allow.
      const std::int64_t before = used - expected.global_count, n = std::int64_t(c.samples);
      ASSERT_EQ(expected.global_count,
                std::min({std::int64_t(c.workers) * c.minibatch, n - before % n, c.budget - before}));
    }
    EXPECT_EQ(used, c.budget);
  }
}

// Spark MLlib's miniBatchFraction: whoever shares the work, a step has the samples that one worker would
// draw.
TEST(Sampler, DrawsEachSampleByItself) {
  for (const auto order : {DataOrder::global, DataOrder::shard})
    for (const int workers : {1, 2, 3, 7}) {
      Sampler::Options s{.samples = 500, .order = order, .budget = 20000, .fraction = 0.1};
      Sampler alone(s);
      auto all = team(s, workers);
      double squares = 0;
      std::int64_t steps = 0, used = 0;
      std::vector<std::int64_t> uses(500);
      for (Minibatch one = alone.next(); one.global_count; one = alone.next(), ++steps) {
        Ids together;
        for (auto& sampler : all) {
          const Minibatch part = sampler.next();
          EXPECT_EQ(part.global_count, one.global_count);
          EXPECT_EQ(part.last, one.last);
          const Ids ids = copy(part);
          together.insert(together.end(), ids.begin(), ids.end());
        }
        EXPECT_EQ(sorted(together), copy(one));
        EXPECT_EQ(std::set<std::uint32_t>(one.ids.begin(), one.ids.end()).size(), one.ids.size());
        for (const std::uint32_t id : one.ids) ++uses[id];
        used += one.global_count;
        squares += std::pow(double(one.global_count) - 50, 2);
      }
      EXPECT_EQ(used, 20000);
      for (auto& sampler : all) EXPECT_EQ(sampler.next().global_count, 0);
      // Binomial: counts with a mean of 50 and a variance of 45, uses of about 400 steps with 40 and 36.
      EXPECT_NEAR(double(used) / double(steps), 50, 4 * std::sqrt(45.0 / double(steps)));
      EXPECT_NEAR(squares / double(steps), 45, 4 * 45 * std::sqrt(2.0 / double(steps)));
      double spread = 0;
      for (const std::int64_t count : uses) spread += std::pow(double(count) - 40, 2) / 500;
      EXPECT_NEAR(spread, 36, 4 * 36 * std::sqrt(2.0 / 500));
    }
}

// A round without samples is left out, and the whole set is all of it.
TEST(Sampler, DrawsNothingOrEverything) {
  Sampler few({.samples = 10, .budget = 30, .fraction = 0.01});
  for (int used = 0; used < 30;) {
    const auto count = few.next().global_count;
    ASSERT_GT(count, 0);
    used += int(count);
  }
  Sampler whole({.samples = 10, .budget = 20, .fraction = 1});
  for (int round = 0; round < 2; ++round) EXPECT_EQ(copy(whole.next()), all_ids(10));
}

TEST(Sampler, SharesPartTheGlobalMinibatch) {
  Sampler::Options s{.samples = 61, .minibatch = 8, .budget = 183};
  s.shares = {0.125, 0.625, 0.25};
  auto all = team(s, 3);
  s.shares.clear();
  auto equal = team(s, 3);
  for (;;) {
    Ids together, expected;
    std::int64_t count = 0;
    for (int k = 0; k < 3; ++k) {
      const Minibatch part = all[k].next(), other = equal[k].next();
      const Ids ids = copy(part), others = copy(other);
      together.insert(together.end(), ids.begin(), ids.end());
      expected.insert(expected.end(), others.begin(), others.end());
      count = part.global_count;
      const double share = k == 0 ? 0.125 : k == 1 ? 0.625 : 0.25;
      EXPECT_NEAR(double(ids.size()), share * double(count), 1);
    }
    EXPECT_EQ(together, expected) << "the global minibatch is what it was";
    if (count == 0) break;
  }
}

TEST(Sampler, EveryEpochIsAPermutationOfItsOwn) {
  Sampler sampler({.samples = 50, .minibatch = 8, .budget = 150});
  std::vector<Ids> epochs(3);
  for (auto& epoch : epochs)
    while (epoch.size() < 50)
      for (const auto id : sampler.next().ids) epoch.push_back(id);
  for (const auto& epoch : epochs) EXPECT_EQ(sorted(epoch), all_ids(50));
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  for (std::uint64_t e = 0; e < 3; ++e) {
    Ids expected = all_ids(50);
    shuffled(1, e, expected);
    EXPECT_EQ(epochs[e], expected);
  }
}

TEST(Sampler, TheEndIsEmptyForEver) {
  for (const auto order : {DataOrder::global, DataOrder::shard}) {
    Sampler sampler({.samples = 10, .order = order, .minibatch = 4, .budget = 6});
    EXPECT_FALSE(sampler.next().last);
    EXPECT_TRUE(sampler.next().last);
    for (int i = 0; i < 3; ++i) {
      const Minibatch end = sampler.next();
      EXPECT_TRUE(end.ids.empty());
      EXPECT_EQ(end.global_count, 0);
    }
    EXPECT_EQ(sampler.steps(), 2);
    Sampler nothing({.samples = 10, .order = order, .budget = 0});
    EXPECT_EQ(nothing.next().global_count, 0);
  }
}

TEST(Sampler, ShardsPartTheSetAndWorkersTakeEquallyManySteps) {
  for (const auto& c : cases) {
    SCOPED_TRACE(fmt::format("{} samples, {} x {}, budget {}", c.samples, c.workers, c.minibatch, c.budget));
    auto workers = team({.samples = c.samples,
                         .seed = 7,
                         .order = DataOrder::shard,
                         .minibatch = c.minibatch,
                         .budget = c.budget},
                        c.workers);
    const std::int64_t n = std::int64_t(c.samples), largest = (n + c.workers - 1) / c.workers;
    const std::int64_t steps_per_epoch = (largest + c.minibatch - 1) / c.minibatch;
    std::int64_t used = 0;
    std::vector<Ids> epoch(workers.size());
    for (std::int64_t step = 1; used < c.budget; ++step) {
      std::int64_t sum = 0;
      std::set<std::int64_t> counts;
      std::set<bool> lasts;
      for (std::size_t k = 0; k < workers.size(); ++k) {
        const Minibatch part = workers[k].next();
        counts.insert(part.global_count);
        lasts.insert(part.last);
        sum += std::int64_t(part.ids.size());
        ASSERT_LE(part.ids.size(), std::size_t(c.minibatch));
        epoch[k].insert(epoch[k].end(), part.ids.begin(), part.ids.end());
        const std::int64_t first = n * std::int64_t(k) / c.workers, end = n * std::int64_t(k + 1) / c.workers;
        ASSERT_LE(std::int64_t(epoch[k].size()), end - first);
      }
      ASSERT_EQ(counts, std::set{sum});
      used += sum;
      ASSERT_EQ(lasts, std::set{used == c.budget});
      if (used == c.budget) break;
      ASSERT_EQ(used % n == 0, step % steps_per_epoch == 0);
      if (used % n == 0) {  // the epoch is over: every worker has used its part, all together the set, once
        Ids together;
        for (auto& ids : epoch) {
          together.insert(together.end(), ids.begin(), ids.end());
          ids.clear();
        }
        ASSERT_EQ(sorted(together), all_ids(c.samples));
      }
    }
    EXPECT_EQ(used, c.budget);
    for (std::size_t id = 0; id < c.samples; ++id)  // nobody reads another one's part
      EXPECT_LE(std::count_if(workers.begin(), workers.end(), [&](auto& w) { return w.uses()[id] > 0; }), 1);
  }
}

TEST(Sampler, ShardBudgetCutIsSpreadOverTheWorkers) {
  auto workers = team({.samples = 40, .order = DataOrder::shard, .minibatch = 5, .budget = 26}, 4);
  std::vector<std::size_t> sizes;
  for (auto& worker : workers) worker.next();
  for (auto& worker : workers) sizes.push_back(worker.next().ids.size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{1, 2, 1, 2}));
}

TEST(Sampler, ShardIsReshuffledEveryEpochAndCutBySeed) {
  const auto epochs = [](std::uint64_t seed) {
    Sampler sampler({.samples = 40,
                     .seed = seed,
                     .order = DataOrder::shard,
                     .worker = 1,
                     .workers = 2,
                     .minibatch = 20,
                     .budget = 80});
    return std::pair{copy(sampler.next()), copy(sampler.next())};
  };
  const auto [first, second] = epochs(1);
  EXPECT_NE(first, second);
  EXPECT_EQ(sorted(first), sorted(second));
  EXPECT_NE(sorted(first), sorted(epochs(2).first));
}

TEST(Sampler, WorkersShuffleTheirShardsEachInItsOwnWay) {
  const int workers = 3, epochs = 4, each = 20;
  std::set<Ids> orders;  // as places in the sorted shard
  for (Sampler& worker :
       team({.samples = 60, .order = DataOrder::shard, .minibatch = each, .budget = 240}, workers))
    for (int epoch = 0; epoch < epochs; ++epoch) {
      const Ids ids = copy(worker.next()), shard = sorted(ids);
      Ids places;
      for (const auto id : ids)
        places.push_back(std::uint32_t(std::lower_bound(shard.begin(), shard.end(), id) - shard.begin()));
      orders.insert(places);
    }
  EXPECT_EQ(orders.size(), workers * epochs);
}

TEST(Sampler, OneWorkersShardIsTheGlobalOrder) {
  Sampler shard({.samples = 61, .order = DataOrder::shard, .minibatch = 8, .budget = 200});
  Sampler global({.samples = 61, .order = DataOrder::global, .minibatch = 8, .budget = 200});
  for (int i = 0; i < 30; ++i) EXPECT_EQ(copy(shard.next()), copy(global.next()));
}

TEST(Sampler, OwnEpochsHaveNoLockStepAndNoBudget) {
  const Sampler::Options settings{
      .samples = 41, .order = DataOrder::shard, .worker = 1, .workers = 2, .minibatch = 8, .budget = 1};
  Sampler own(settings);
  std::vector<Ids> epochs(3);
  for (auto& epoch : epochs)
    for (const std::size_t expected : {8u, 8u, 5u}) {  // worker 1 of 2 has 21 of 41
      const Minibatch b = own.next_own();
      EXPECT_EQ(b.ids.size(), expected);
      EXPECT_EQ(b.global_count, std::int64_t(expected));
      EXPECT_FALSE(b.last);
      epoch.insert(epoch.end(), b.ids.begin(), b.ids.end());
    }
  EXPECT_EQ(sorted(epochs[0]), sorted(epochs[1]));
  EXPECT_EQ(sorted(epochs[0]), sorted(epochs[2]));
  EXPECT_NE(epochs[0], epochs[1]);
  Sampler lock_step(
      {.samples = 41, .order = DataOrder::shard, .worker = 1, .workers = 2, .minibatch = 8, .budget = 1000});
  Ids first;
  while (first.size() < 21)
    for (const auto id : lock_step.next().ids) first.push_back(id);
  EXPECT_EQ(first, epochs[0]);  // the same order, whoever asks

  Sampler capped(settings);  // by what was granted
  EXPECT_EQ(copy(capped.next_own(3)), Ids(first.begin(), first.begin() + 3));
  EXPECT_EQ(capped.next_own(0).global_count, 0);
  EXPECT_EQ(copy(capped.next_own(100)), Ids(first.begin() + 3, first.begin() + 11));

  auto small = team({.samples = 1, .order = DataOrder::shard}, 2);  // one of them has nothing
  EXPECT_EQ(small[0].next_own().global_count + small[1].next_own().global_count, 1);
}

TEST(Sampler, QueueIsOneStreamCutAtTheEndsOfEpochs) {
  constexpr std::int64_t n = 23, budget = 5 * n;
  Sampler global({.samples = n, .seed = 3, .minibatch = 1, .budget = budget});
  Ids stream;
  for (int i = 0; i < budget; ++i) stream.push_back(global.next().ids[0]);
  for (const int minibatch : {1, 4, 23, 60}) {
    Sampler queue(
        {.samples = n, .seed = 3, .order = DataOrder::queue, .minibatch = minibatch, .budget = budget});
    for (std::int64_t first = 0; first < budget; ++first) {
      // Forwards, and in jumps that go to and fro over the epochs.
      for (const std::int64_t position : {first, first * 37 % budget}) {
        const int count = int(std::min<std::int64_t>(1 + position % minibatch, budget - position));
        const std::int64_t end = std::min(position + count, (position / n + 1) * n);
        const Minibatch b = queue.at(position, count);
        ASSERT_EQ(copy(b), Ids(stream.begin() + position, stream.begin() + end));
        ASSERT_EQ(b.global_count, end - position);
        ASSERT_EQ(b.epoch, position / n);
        ASSERT_EQ(b.last, end == budget);
      }
    }
  }
  Sampler queue({.samples = n, .order = DataOrder::queue, .minibatch = 4, .budget = budget});
  EXPECT_EQ(queue.at(5, 0).global_count, 0);
}

// Of every sample, wherever and by whomever it is read.
TEST(Sampler, TheEpochIsHowOftenTheSampleWasUsedBefore) {
  for (const auto order : {DataOrder::global, DataOrder::shard})
    for (const auto& c : cases) {
      std::vector<std::int64_t> uses(c.samples);
      auto workers = team(
          {.samples = c.samples, .order = order, .minibatch = c.minibatch, .budget = c.budget}, c.workers);
      for (bool more = true; more;) {
        more = false;
        for (auto& worker : workers) {
          const Minibatch b = worker.next();
          more = more || b.global_count;
          for (const auto id : b.ids) ASSERT_EQ(b.epoch, uses[id]++);
        }
      }
    }
  std::vector<std::int64_t> uses(41);
  Sampler own({.samples = 41, .order = DataOrder::shard, .worker = 1, .workers = 2, .minibatch = 8});
  for (int i = 0; i < 20; ++i) {
    const Minibatch b = own.next_own(i % 9);
    for (const auto id : b.ids) ASSERT_EQ(b.epoch, uses[id]++);
  }
}

TEST(Sampler, CountsUses) {
  auto workers = team({.samples = 10, .minibatch = 3, .budget = 25}, 2);
  for (auto& worker : workers)
    while (worker.next().global_count) {
    }
  std::uint32_t sum = 0;
  for (std::size_t id = 0; id < 10; ++id) {
    const std::uint32_t uses = workers[0].uses()[id] + workers[1].uses()[id];
    EXPECT_TRUE(uses == 2 || uses == 3);
    sum += uses;
  }
  EXPECT_EQ(sum, 25u);
}

TEST(Sampler, StepsAllocateNothing) {
  for (const auto order : {DataOrder::global, DataOrder::shard, DataOrder::queue}) {
    Sampler sampler(
        {.samples = 100, .order = order, .worker = 1, .workers = 3, .minibatch = 7, .budget = 1000});
    const std::size_t before = allocations;
    std::int64_t sum = 0;
    for (int i = 0; i < 60; ++i)
      sum += order == DataOrder::queue ? sampler.at(11 * i, 7).global_count : sampler.next().global_count;
    EXPECT_EQ(allocations, before);
    EXPECT_GT(sum, 350);
  }
  Sampler own({.samples = 100, .order = DataOrder::shard, .workers = 3, .minibatch = 7});
  const std::size_t before = allocations;
  for (int i = 0; i < 60; ++i) own.next_own();
  EXPECT_EQ(allocations, before);
  EXPECT_GT(before, 0u);  // the counter counts
}

TEST(Sampler, RefusesWhatMakesNoSense) {
  for (const Sampler::Options& bad :
       {Sampler::Options{.samples = 0}, Sampler::Options{.samples = std::size_t(1) << 32},
        Sampler::Options{.samples = 9, .worker = 2, .workers = 2},
        Sampler::Options{.samples = 9, .worker = -1}, Sampler::Options{.samples = 9, .workers = 0},
        Sampler::Options{.samples = 9, .minibatch = 0}})
    EXPECT_THROW(Sampler{bad}, std::invalid_argument);
  Sampler global({.samples = 9}), queue({.samples = 9, .order = DataOrder::queue, .minibatch = 4});
  EXPECT_THROW(global.at(0, 1), std::logic_error);
  EXPECT_THROW(global.next_own(), std::logic_error);
  EXPECT_THROW(queue.next(), std::logic_error);
  EXPECT_THROW(queue.at(0, 5), std::invalid_argument);
  EXPECT_THROW(queue.at(-1, 1), std::invalid_argument);
}

TEST(Shuffled, IsTheSameOnEveryHost) {
  Ids ids = all_ids(10);
  shuffled(1, 0, ids);
  EXPECT_EQ(ids, (Ids{9, 2, 5, 8, 0, 7, 3, 1, 4, 6}));
  shuffled(1, 0, std::span(ids).first(1));
  shuffled(1, 0, {});
}

TEST(Shuffled, SeedsAndStreamsGiveAllPermutationsAlike) {
  std::map<Ids, int> by_seed, by_stream;
  for (std::uint64_t i = 0; i < 6000; ++i) {
    Ids a = all_ids(3), b = all_ids(3);
    shuffled(i, 0, a);
    shuffled(0, i, b);
    ++by_seed[a];
    ++by_stream[b];
  }
  for (const auto* counts : {&by_seed, &by_stream}) {
    EXPECT_EQ(counts->size(), 6u);
    for (const auto& [ids, count] : *counts) EXPECT_NEAR(count, 1000, 120);  // 4 standard deviations
  }
}

TEST(Sampler, OrdersCanBeShared) {
  for (const DataOrder order : {DataOrder::global, DataOrder::shard}) {
    const auto shared = std::make_shared<SharedOrders>(50, 7);
    std::vector<Sampler> own, sharing;
    for (int worker = 0; worker < 3; ++worker) {
      const Sampler::Options s{.samples = 50,
                               .seed = 7,
                               .order = order,
                               .worker = worker,
                               .workers = 3,
                               .minibatch = 4,
                               .budget = 200};
      own.emplace_back(s);
      sharing.emplace_back(s, shared);
    }
    for (int step = 0; step < 20; ++step)
      for (int worker = 0; worker < 3; ++worker) {
        const Minibatch a = own[worker].next(), b = sharing[worker].next();
        ASSERT_TRUE(std::equal(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end())) << step;
      }
    for (std::size_t id = 0; id < 50; ++id)
      EXPECT_EQ(shared->uses[id], own[0].uses()[id] + own[1].uses()[id] + own[2].uses()[id]) << id;
  }
}

}  // namespace
}  // namespace dsgd
