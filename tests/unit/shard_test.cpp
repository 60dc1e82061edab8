// SPDX-License-Identifier: Apache-2.0
// One server's part, driven by scripts of pulls and arrivals: versions, staleness, sums of c arrivals,
// budget.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>

#include "strategy.h"

namespace dsgd {
namespace {

// A shard of two floats and the rule of a strategy, in this process.
struct Script {
  Script(const std::string& strategy, const std::map<std::string, Value>& given, int workers,
         std::int64_t budget = 1 << 20, const OptimizerSettings& optimizer = {.learning_rate = 0.5},
         bool first = true)
      : linear(optimizer.rule == OptimizerSettings::Rule::sgd), w(host_space(), 2), g(host_space(), 2) {
    const StrategyEntry& entry = *find_strategy(strategy);
    rule = entry.make_rule(Settings(entry.parameters, given), {.space = &host_space(),
                                                               .parameters = w.size(),
                                                               .workers = workers,
                                                               .servers = 1,
                                                               .minibatch = 4,
                                                               .optimizer = optimizer});
    shard.emplace(Shard::Options{.workers = workers, .minibatch = 4, .budget = budget, .first = first}, *rule,
                  w);
    held.resize(workers);
  }
  void pull(int worker) { held[worker] = shard->pull(worker, 4).value().version; }
  // A gradient of (x, -2x), computed at what the worker pulled last.
  void push(int worker, float x) {
    g.data()[0] = x;
    g.data()[1] = -2 * x;
    shard->push(worker, held[worker], 4, g);
    if (linear) {
      EXPECT_EQ(w.data()[1], -2 * w.data()[0]);
    }
  }
  float at() const { return w.data()[0]; }
  std::int64_t stale(std::size_t tau) const {
    return tau < shard->staleness().size() ? shard->staleness()[tau] : 0;
  }

  bool linear;  // the update is linear in the gradient
  Vector w, g;
  std::unique_ptr<Rule> rule;
  std::optional<Shard> shard;
  std::vector<std::int64_t> held;
};

Value integer(int n) { return std::int64_t(n); }
Value text(const char* s) { return std::string(s); }

TEST(Staleness, CountsUpdatesSinceThePull) {
  Script s("downpour", {}, 3);
  for (const int worker : {0, 1, 2}) s.pull(worker);
  s.push(0, 1);  // tau 0
  s.push(1, 1);  // tau 1: worker 0's came in between
  s.pull(0);
  s.push(0, 1);  // tau 0
  s.push(2, 1);  // tau 3
  s.push(2, 1);  // tau 4: no pull since
  s.pull(1);
  s.push(1, 1);  // tau 0
  EXPECT_EQ(s.stale(0), 3);
  EXPECT_EQ(s.stale(1), 1);
  EXPECT_EQ(s.stale(2), 0);
  EXPECT_EQ(s.stale(3), 1);
  EXPECT_EQ(s.stale(4), 1);
  const auto& counts = s.shard->staleness();
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t(0)), 6);
  EXPECT_EQ(s.shard->arrivals(), 6);
  EXPECT_EQ(s.shard->version(), 6);
  EXPECT_EQ(s.shard->used(), 6 * 4);
}

// With c arrivals to an update, arrivals of one sum see no update between them.
TEST(Staleness, CountsUpdatesNotArrivals) {
  Script s("staleness_aware", {{"n", integer(2)}, {"modulation", text("none")}}, 4);  // c = 2
  for (const int worker : {0, 1, 2, 3}) s.pull(worker);
  for (const int worker : {0, 1, 2, 3}) s.push(worker, 1);
  EXPECT_EQ(s.stale(0), 2);
  EXPECT_EQ(s.stale(1), 2);
  EXPECT_EQ(s.shard->version(), 2);
  EXPECT_EQ(s.shard->arrivals(), 4);
}

// c = floor(lambda / n), at least one.
TEST(Softsync, WaitsForItsArrivals) {
  for (const auto& [lambda, n, c] : std::vector<std::array<int, 3>>{
           {1, 1, 1}, {4, 1, 4}, {4, 2, 2}, {4, 3, 1}, {4, 4, 1}, {7, 2, 3}, {30, 4, 7}, {2, 5, 1}}) {
    Script s("staleness_aware", {{"n", integer(n)}, {"modulation", text("none")}}, lambda);
    EXPECT_EQ(s.rule->arrivals(), c) << "lambda " << lambda << ", n " << n;
    s.pull(0);
    for (int i = 1; i < c; ++i) {
      s.push(0, 1);
      EXPECT_EQ(s.shard->version(), 0);
      EXPECT_EQ(s.at(), 0);
      EXPECT_EQ(s.shard->unapplied(), 4 * i);
      EXPECT_EQ(s.shard->used(), 0);
    }
    s.push(0, 1);
    EXPECT_EQ(s.shard->version(), 1);
    EXPECT_FLOAT_EQ(s.at(), -0.5f);
    EXPECT_EQ(s.shard->unapplied(), 0);
    EXPECT_EQ(s.shard->used(), 4 * c);
  }
}

// 1-softsync takes lambda gradients from any learners: it is not hardsync.
TEST(Softsync, TakesTwoGradientsOfOneLearner) {
  Script s("staleness_aware", {{"n", integer(1)}}, 2);
  s.pull(0);
  s.pull(1);
  s.push(0, 4);
  s.push(0, 8);  // learner 1 has not been heard of
  EXPECT_EQ(s.shard->version(), 1);
  EXPECT_EQ(s.at(), -0.5f * (4 + 8) / 2);
  s.push(1, 16);
  EXPECT_EQ(s.stale(1), 1);
}

// w <- w - (1/c) * sum_l alpha(tau_l) * g_l at scripted tau = 0, 1, 2, 3, 4 for c = 1.
TEST(Modulation, ScalesTheRateByTheStaleness) {
  const std::map<std::string, std::vector<float>> factors{
      {"none", {1, 1, 1, 1, 1}},
      {"inverse", {1, 1, 1.0f / 2, 1.0f / 3, 1.0f / 4}},
      {"inverse_plus_one", {1, 1.0f / 2, 1.0f / 3, 1.0f / 4, 1.0f / 5}}};
  for (const auto& [modulation, factor] : factors) {
    Script s("staleness_aware", {{"n", integer(5)}, {"modulation", modulation}}, 5);
    for (int worker = 0; worker < 5; ++worker) s.pull(worker);
    float expected = 0;
    for (int worker = 0; worker < 5; ++worker) {
      s.push(worker, 12);
      expected -= 0.5f * factor[worker] * 12;
      EXPECT_FLOAT_EQ(s.at(), expected) << modulation << ", tau " << worker;
    }
  }
}

TEST(Modulation, IsInsideTheSumOfArrivals) {
  const std::map<std::string, float> expected{
      // the second update sums tau = 1 twice, the third tau = 2 and tau = 0
      {"none", -0.5f * (4 + (8 + 16) / 2 + (32 + 64) / 2)},
      {"inverse", -0.5f * (4 + (8 + 16) / 2 + (32 / 2 + 64) / 2)},
      {"inverse_plus_one", -0.5f * (4 + (8 / 2 + 16 / 2) / 2 + (32.0f / 3 + 64) / 2)}};
  for (const auto& [modulation, end] : expected) {
    Script s("staleness_aware", {{"n", integer(3)}, {"modulation", modulation}}, 6);  // c = 2
    for (int worker = 0; worker < 6; ++worker) s.pull(worker);
    s.push(0, 4), s.push(1, 4);
    s.push(2, 8), s.push(3, 16);
    s.push(4, 32);
    s.pull(5);
    s.push(5, 64);
    EXPECT_FLOAT_EQ(s.at(), end) << modulation;
    EXPECT_EQ(s.stale(0), 3);
    EXPECT_EQ(s.stale(1), 2);
    EXPECT_EQ(s.stale(2), 1);
  }
}

// "staleness_aware with delays forced to zero = fixed rate", bit for bit.
TEST(Modulation, DoesNothingWithoutDelays) {
  const auto end = [](const std::string& modulation) {
    Script s("staleness_aware", {{"n", integer(2)}, {"modulation", modulation}}, 2);
    for (int t = 0; t < 10; ++t) {
      s.pull(t % 2);
      s.push(t % 2, 0.1f * float(t + 1));
    }
    EXPECT_EQ(s.stale(0), 10);
    return s.at();
  };
  EXPECT_LT(end("none"), -2);
  EXPECT_EQ(end("inverse"), end("none"));
  EXPECT_EQ(end("inverse_plus_one"), end("none"));
}

// Dean et al. 2012, section 4.1: rate_K = gamma / sqrt(sum of the first K squares), here beginning at 0.
TEST(Adagrad, ShrinksTheRateByTheSumOfSquares) {
  Script s("downpour", {}, 1, 1 << 20,
           {.rule = OptimizerSettings::Rule::adagrad,
            .learning_rate = 0.5,
            .initial_accumulator = 0,
            .epsilon = 0});
  s.pull(0);
  s.push(0, 3);
  EXPECT_FLOAT_EQ(s.at(), -0.5f);  // gamma, whatever the gradient
  s.push(0, 4);
  EXPECT_FLOAT_EQ(s.at(), -0.5f - 0.5f * 4 / 5);  // 9 + 16 = 25
  s.push(0, 12);
  EXPECT_FLOAT_EQ(s.at(), -0.5f - 0.5f * 4 / 5 - 0.5f * 12 / 13);  // 25 + 144 = 169
}

// The schedule follows the samples in the server's vector.
TEST(Schedule, IsReadBeforeTheUpdate) {
  Script s("downpour", {}, 1, 1 << 20,
           {.learning_rate = 0.5, .schedule = {.kind = Schedule::Kind::step, .samples = 8, .factor = 0.5}});
  s.pull(0);
  const float rates[] = {0.5f, 0.5f, 0.25f, 0.25f, 0.125f};
  float expected = 0;
  for (const float rate : rates) {
    s.push(0, 8);
    EXPECT_EQ(s.at(), expected -= 8 * rate);
  }
}

TEST(Budget, IsGrantedInPortionsSideBySide) {
  Script s("downpour", {}, 2, 10);
  const auto pull = [&](int worker, std::int64_t want) { return s.shard->pull(worker, want).value(); };
  const auto a = pull(0, 4), b = pull(1, 3), c = pull(0, 100), d = pull(1, 1), e = pull(0, 4);
  EXPECT_EQ(a.position, 0);
  EXPECT_EQ(a.granted, 4);
  EXPECT_EQ(b.position, 4);
  EXPECT_EQ(b.granted, 3);
  EXPECT_EQ(c.position, 7);
  EXPECT_EQ(c.granted, 3);
  EXPECT_EQ(d.granted, 0);
  EXPECT_EQ(e.granted, 0);
}

TEST(Budget, OfZeroGrantsNothing) {
  Script s("downpour", {{"warm_start", integer(100)}}, 2, 0);
  EXPECT_EQ(s.shard->pull(0, 4).value().granted, 0);
  EXPECT_EQ(s.shard->pull(1, 4).value().granted, 0);
}

TEST(Pull, TellsVersionAndSamples) {
  Script s("staleness_aware", {{"n", integer(1)}}, 2);  // c = 2
  s.pull(0);
  for (int push = 0; push < 5; ++push) s.push(0, 1);
  const auto reply = s.shard->pull(1, 4).value();
  EXPECT_EQ(reply.version, 2);
  EXPECT_EQ(reply.used, 2 * 2 * 4);
  EXPECT_EQ(s.shard->unapplied(), 4);
}

// Dean et al. 2012: one replica trains first, then the others come in.
TEST(WarmStart, HoldsBackAllButTheFirst) {
  Script s("downpour", {{"warm_start", integer(8)}}, 3);
  EXPECT_FALSE(s.shard->pull(1, 4));
  s.pull(0);
  EXPECT_FALSE(s.shard->pull(2, 4));
  s.push(0, 1);  // 4 samples
  EXPECT_FALSE(s.shard->pull(1, 4));
  s.pull(0);
  s.push(0, 1);  // 8
  const auto late = s.shard->pull(1, 4);
  ASSERT_TRUE(late);
  EXPECT_EQ(late->used, 8);
  EXPECT_EQ(late->position, 8);  // what was held back took no work
  EXPECT_TRUE(s.shard->pull(2, 4));
}

TEST(WarmStart, LetsEverybodyGoWhenTheBudgetIsSpent) {
  Script s("downpour", {{"warm_start", integer(100)}}, 2, 8);
  EXPECT_FALSE(s.shard->pull(1, 4));
  s.pull(0);
  s.pull(0);
  const auto reply = s.shard->pull(1, 4);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->granted, 0);
}

// Ho et al. 2013: the fastest is at most s ahead of the slowest when it starts a step.
TEST(Ssp, HoldsBackWhoIsTooFarAhead) {
  Script s("ssp", {{"s", integer(1)}}, 3);
  const auto waits = [&](int worker) { return !s.shard->pull(worker, 4); };
  for (const int worker : {0, 1, 2}) s.pull(worker);
  s.push(0, 1);
  EXPECT_FALSE(waits(0));  // clocks 1 0 0
  s.push(0, 1);
  EXPECT_TRUE(waits(0));  // clocks 2 0 0
  s.push(1, 1);
  EXPECT_TRUE(waits(0));  // clocks 2 1 0
  EXPECT_FALSE(waits(1));
  s.push(2, 1);
  EXPECT_FALSE(waits(0));  // clocks 2 1 1
}

TEST(Ssp, LetsEverybodyGoWhenTheBudgetIsSpent) {
  Script s("ssp", {{"s", integer(0)}}, 2, 4);
  s.pull(0);
  s.push(0, 1);
  const auto reply = s.shard->pull(0, 4);  // worker 1 never came
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->granted, 0);
}

// Requests come to another shard than the first in another order: what it takes for a spent budget may be
// work at the first one.
TEST(Ssp, KeepsItsBoundAtOtherShardsToTheEnd) {
  Script s("ssp", {{"s", integer(0)}}, 3, 12, {.learning_rate = 0.5}, false);
  for (const int worker : {0, 1, 2}) s.pull(worker);
  s.push(0, 1);
  EXPECT_FALSE(s.shard->pull(0, 4));  // clocks 1 0 0
  s.push(1, 1);
  EXPECT_FALSE(s.shard->pull(0, 4));  // clocks 1 1 0
  s.shard->finish(2);
  EXPECT_TRUE(s.shard->pull(0, 4));
}

TEST(WarmStart, HoldsBackAtOtherShardsUntilTheFirstReplicaHasFinished) {
  Script s("downpour", {{"warm_start", integer(100)}}, 2, 8, {.learning_rate = 0.5}, false);
  for (int step = 0; step < 3; ++step) s.pull(0);
  EXPECT_FALSE(s.shard->pull(1, 4));
  s.shard->finish(0);
  EXPECT_TRUE(s.shard->pull(1, 4));
}

// Between worker 0's pull and its push, worker 1 goes from s behind to s + 1 ahead.
TEST(Ssp, ReachesItsBoundOfStaleness) {
  for (const int bound : {0, 1, 3}) {
    Script s("ssp", {{"s", integer(bound)}}, 2);
    s.pull(1);
    for (int t = 0; t < bound; ++t) {
      s.pull(0);
      s.push(0, 1);
    }
    s.pull(0);
    int others = 0;
    for (; s.shard->pull(1, 4); ++others) {
      s.pull(1);
      s.push(1, 1);
    }
    EXPECT_EQ(others, 2 * bound + 1);
    s.push(0, 1);
    EXPECT_EQ(s.stale(2 * bound + 1), 1);
  }
}

// Nobody waits for what will never come.
TEST(Leaving, LetsTheOthersGoOn) {
  Script ssp("ssp", {{"s", integer(1)}}, 3);
  for (const int worker : {0, 1, 2}) ssp.pull(worker);
  ssp.push(0, 1);
  ssp.pull(0);
  ssp.push(0, 1);
  ssp.push(1, 1);
  EXPECT_FALSE(ssp.shard->pull(0, 4));  // clocks 2 1 0
  ssp.shard->leave(2);
  EXPECT_TRUE(ssp.shard->pull(0, 4));
  ssp.push(0, 1);
  EXPECT_FALSE(ssp.shard->pull(0, 4));  // clocks 3 1: worker 1 still counts
  ssp.shard->leave(0);
  EXPECT_TRUE(ssp.shard->pull(1, 4));

  Script warm("downpour", {{"warm_start", integer(1000)}}, 3);
  warm.pull(0);
  EXPECT_FALSE(warm.shard->pull(1, 4));
  warm.shard->leave(2);
  EXPECT_FALSE(warm.shard->pull(1, 4));
  warm.shard->leave(0);
  EXPECT_TRUE(warm.shard->pull(1, 4));
}

// c = floor(lambda / n) follows lambda, also in the middle of a sum.
TEST(Leaving, LowersTheArrivalsOfAnUpdate) {
  Script s("staleness_aware", {{"n", integer(1)}, {"modulation", text("none")}}, 3);
  for (const int worker : {0, 1, 2}) s.pull(worker);
  s.push(0, 2);
  s.push(1, 4);
  EXPECT_EQ(s.shard->version(), 0);  // c = 3
  s.shard->leave(2);
  s.push(0, 6);  // c = 2, and three have arrived
  EXPECT_EQ(s.shard->version(), 1);
  EXPECT_FLOAT_EQ(s.at(), -0.5f * (2 + 4 + 6) / 3);
  s.push(1, 2);
  s.push(1, 4);
  EXPECT_EQ(s.shard->version(), 2);
  s.shard->leave(0);  // c = 1
  s.push(1, 8);
  EXPECT_EQ(s.shard->version(), 3);
  EXPECT_FLOAT_EQ(s.at(), -0.5f * (4 + 3 + 8));
}

// What a worker was granted and has not pushed is granted to others.
TEST(Leaving, GivesBackWhatWasNotPushed) {
  Script s("downpour", {}, 2, 20);
  s.held[0] = s.shard->pull(0, 12).value().version;
  s.push(0, 1);  // 4 of 12
  EXPECT_EQ(s.shard->pull(1, 4)->granted, 4);
  EXPECT_EQ(s.shard->leave(0), 8);
  EXPECT_EQ(s.shard->pull(1, 100)->granted, 20 - 4 - 4);
  EXPECT_EQ(s.shard->pull(1, 4)->granted, 0);
}

// Those who were told that the budget is spent do not come back for more.
TEST(Leaving, GivesNothingBackOnceTheBudgetIsSpent) {
  Script s("downpour", {}, 3, 8);
  s.pull(0);
  s.pull(1);
  EXPECT_EQ(s.shard->pull(2, 4)->granted, 0);
  EXPECT_EQ(s.shard->leave(0), 0);
  EXPECT_EQ(s.shard->pull(1, 4)->granted, 0);
}

// The share is that of the settings, the choice that of seed, worker and push: the same at every shard,
// whatever the others do. What is lost counts nowhere but in the budget.
TEST(Drops, AreDecidedByTheSeed) {
  const auto course = [](std::uint64_t seed, bool interleaved) {
    const StrategyEntry& entry = *find_strategy("downpour");
    Vector w(host_space(), 1), g(host_space(), 1);
    fill(1, g);
    const auto rule = entry.make_rule(Settings(entry.parameters), {.space = &host_space(),
                                                                   .parameters = 1,
                                                                   .workers = 2,
                                                                   .servers = 1,
                                                                   .optimizer = {.learning_rate = 1}});
    Shard shard({2, 4, 1 << 20, 0.25, seed}, *rule, w);
    std::string arrived;
    for (int t = 0; t < 2000; ++t) {
      if (interleaved) shard.push(1, shard.version(), 4, g);
      const auto before = shard.version();
      shard.push(0, before, 4, g);
      arrived += shard.version() > before ? "1" : "0";
    }
    EXPECT_EQ(shard.version(), shard.arrivals());
    EXPECT_EQ(shard.arrivals() + shard.dropped(), interleaved ? 4000 : 2000);
    EXPECT_EQ(shard.used(), 4 * shard.arrivals());
    EXPECT_EQ(w.data()[0], -float(shard.arrivals()));
    return arrived;
  };
  const std::string once = course(1, false);
  EXPECT_EQ(course(1, true), once);
  EXPECT_NE(course(2, false), once);
  const auto lost = std::count(once.begin(), once.end(), '0');
  EXPECT_NEAR(double(lost), 500, 4 * std::sqrt(2000 * 0.25 * 0.75));
}

// Batches of 10 samples; updates add the mean of what was pushed.
struct Batches final : Rule {
  std::int64_t batch() const override { return 10; }
  bool same_batch() const override { return same; }
  int backups() const override { return 1; }
  void apply(Vec w, const Arrival& a, std::int64_t) override {
    axpy(a.scale, a.g, w);
    numbers.push_back(a.number);
  }
  bool same = false;
  std::vector<double> numbers;
};

struct BatchScript {
  explicit BatchScript(std::int64_t budget = 1 << 20, double drop = 0)
      : shard({4, 4, budget, drop}, rule, w) {}
  // Asks for four samples: where they begin and how many there are; {-1, 0}: held back.
  std::pair<std::int64_t, std::int64_t> ask(int worker) {
    const auto reply = shard.pull(worker, 4, {.w = false});
    if (!reply) return {-1, 0};
    at[worker] = {reply->used, reply->position, 0.5};
    return {reply->position, reply->granted};
  }
  void push(int worker, float x, std::int64_t samples = 4) {
    fill(x, g);
    shard.push(worker, shard.version(), samples, g, at[worker]);
  }
  Batches rule;
  Vector w{host_space(), 1}, g{host_space(), 1};
  std::map<int, Shard::Origin> at;
  Shard shard;
};
using Work = std::pair<std::int64_t, std::int64_t>;
const Work held_back{-1, 0};

TEST(Portions, MakeUpABatch) {
  BatchScript s;
  EXPECT_EQ(s.ask(0), Work(0, 4));
  EXPECT_EQ(s.ask(1), Work(4, 4));
  EXPECT_EQ(s.ask(2), Work(8, 2));
  s.push(1, 1);
  s.push(0, 2);
  EXPECT_EQ(s.shard.version(), 0);
  EXPECT_EQ(s.shard.unapplied(), 8);
  s.push(2, 4, 2);
  EXPECT_EQ(s.shard.version(), 1);
  EXPECT_EQ(s.shard.used(), 10);
  EXPECT_FLOAT_EQ(s.w.data()[0], 0.7f);  // (1 + 2 + 4) / 10
  EXPECT_EQ(s.rule.numbers, std::vector<double>{1.5});
  EXPECT_EQ(s.ask(0), Work(10, 4));
}

TEST(Portions, OfTheSameBatchOnceMore) {
  BatchScript s;
  s.rule.same = true;
  for (int batch = 0; batch < 3; ++batch) {
    for (const auto& [worker, work] : std::map<int, Work>{{0, {0, 4}}, {1, {4, 4}}, {2, {8, 2}}})
      EXPECT_EQ(s.ask(worker), work);
    for (const int worker : {0, 1, 2}) s.push(worker, 1, worker == 2 ? 2 : 4);
  }
  EXPECT_EQ(s.shard.used(), 30);
}

// The idle get a copy of what is out, each another one, and no more than one of each. The first result wins.
TEST(Portions, HaveBackups) {
  BatchScript s;
  for (const int worker : {0, 1, 2}) s.ask(worker);
  s.push(2, 4, 2);
  const Work copy = s.ask(2), other = s.ask(3);
  EXPECT_EQ(copy, Work(0, 4));
  EXPECT_EQ(other, Work(4, 4));
  s.push(3, 1);  // worker 1's portion
  EXPECT_EQ(s.ask(3), held_back);
  s.push(2, 2);  // worker 0's
  EXPECT_EQ(s.shard.version(), 1);
  s.push(1, 100);  // too late: the batch is over
  s.push(0, 100);
  EXPECT_EQ(s.shard.late(), 2);
  EXPECT_EQ(s.shard.arrivals(), 3);
  EXPECT_FLOAT_EQ(s.w.data()[0], 0.7f);
  EXPECT_EQ(s.ask(3), Work(10, 4));

  BatchScript within;
  within.ask(0);
  within.ask(1);
  within.ask(2);
  within.push(2, 4, 2);
  within.ask(2);       // a copy of worker 0's
  within.push(2, 1);   // which comes first
  within.push(0, 50);  // too late in the same batch
  EXPECT_EQ(within.shard.late(), 1);
  EXPECT_EQ(within.shard.unapplied(), 6);
}

// A push that is left out counts as the worker's own last one, sums of several arrivals included.
TEST(Repeats, TheLastGradientOfEachWorker) {
  struct Sums final : Rule {
    explicit Sums(int arrivals) : c(arrivals) {}
    void apply(Vec w, const Arrival& a, std::int64_t) override { axpy(a.scale, a.g, w); }
    int arrivals() const override { return c; }
    bool repeats() const override { return true; }
    int c;
  };
  for (const int c : {1, 3}) {
    Vector w(host_space(), 2), g(host_space(), 2);
    Sums rule(c);
    Shard shard({.workers = 2, .minibatch = 4, .budget = 1 << 20}, rule, w);
    const auto push = [&](int worker, float x) {
      fill(x, g);
      shard.push(worker, shard.version(), 4, g);
    };
    push(0, 1);
    push(1, 10);
    shard.push_again(0, 4);  // 1
    push(0, 100);
    shard.push_again(1, 4);  // 10
    shard.push_again(0, 4);  // 100
    EXPECT_EQ(w.data()[0], c == 1 ? 222 : 74) << c << " arrivals";
    EXPECT_EQ(shard.arrivals(), 6);
    EXPECT_EQ(shard.used(), 24);
  }
  // With the first push lost there is nothing to repeat; what is repeated is as old as it is.
  Vector w(host_space(), 2), g(host_space(), 2);
  Sums rule(1);
  fill(1, g);
  Shard shard({.workers = 2, .minibatch = 4, .budget = 1 << 20}, rule, w);
  shard.push_again(0, 4);
  EXPECT_EQ(shard.arrivals(), 0);
  EXPECT_EQ(shard.dropped(), 1);
  for (int i = 0; i < 5; ++i) shard.push(0, 0, 4, g);
  shard.push(1, 3, 4, g);
  shard.push(0, 6, 4, g);
  shard.push_again(1, 4);
  EXPECT_EQ(shard.used(), 32);
  EXPECT_EQ(shard.staleness()[7 - 3], 2);  // tau 4: of worker 0's last of five, and of the repeated one
}

// What was lost on the way, or left with its worker, is granted again.
TEST(Portions, ThatAreLostAreGrantedAgain) {
  BatchScript s;
  for (const int worker : {0, 1, 2}) s.ask(worker);
  EXPECT_EQ(s.ask(0), Work(0, 4)) << "its push did not arrive";
  s.shard.leave(1);
  EXPECT_EQ(s.ask(3), Work(4, 4));
  s.push(0, 1), s.push(2, 1, 2), s.push(3, 1);
  EXPECT_EQ(s.shard.version(), 1);

  BatchScript lossy(1000, 0.5);
  for (int turn = 0; turn < 10000 && lossy.shard.used() < 1000; ++turn) {
    const Work work = lossy.ask(turn % 4);
    if (work.second > 0) lossy.push(turn % 4, 1, work.second);
  }
  EXPECT_EQ(lossy.shard.used(), 1000);
  EXPECT_GT(lossy.shard.dropped(), 100);
}

// The last samples may not make a batch.
TEST(Portions, EndWithTheBudget) {
  BatchScript s(15);
  for (const int worker : {0, 1, 2}) s.ask(worker);
  EXPECT_EQ(s.ask(3), Work(0, 4));
  for (const int worker : {0, 1, 2}) s.push(worker, 1, worker == 2 ? 2 : 4);
  EXPECT_EQ(s.ask(0), Work(10, 4));
  EXPECT_EQ(s.ask(1), Work(14, 1));
  EXPECT_EQ(s.ask(2).second, 0);
  s.push(0, 1), s.push(1, 1, 1);
  EXPECT_EQ(s.shard.used() + s.shard.unapplied(), 15);
}

// Only the first of the servers grants work; all know which gradients belong to their batch.
TEST(Portions, AreGrantedByTheFirstServer) {
  Batches rule;
  Vector w(host_space(), 1), g(host_space(), 1);
  Shard other({.workers = 2, .minibatch = 4, .budget = 100, .first = false}, rule, w);
  EXPECT_EQ(other.pull(0, 4, {.w = false})->granted, 0);
  EXPECT_FALSE(other.pull(0, 0, {.w = true, .least = 10}));
  other.push(0, 0, 4, g, {0, 0});
  other.push(1, 0, 4, g, {0, 0});  // a copy
  other.push(1, 0, 4, g, {0, 4});
  EXPECT_EQ(other.unapplied(), 8);
  other.push(0, 0, 2, g, {0, 8});
  EXPECT_EQ(other.version(), 1);
  other.push(1, 0, 4, g, {0, 4});  // of the batch before
  EXPECT_EQ(other.late(), 2);
  EXPECT_TRUE(other.pull(0, 0, {.w = true, .least = 10}));
}

TEST(Callbacks, SeeEveryUpdateAndArrival) {
  Script s("staleness_aware", {{"n", integer(1)}}, 3);  // c = 3
  std::vector<std::int64_t> updates, arrivals;
  s.shard->updated = [&](const Shard& shard) { updates.push_back(shard.used()); };
  s.shard->arrived = [&](const Shard& shard) { arrivals.push_back(shard.arrivals()); };
  s.pull(0);
  for (int push = 0; push < 7; ++push) s.push(0, 1);
  EXPECT_EQ(updates, (std::vector<std::int64_t>{12, 24}));
  EXPECT_EQ(arrivals, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7}));
}

// A vector that is shorter than the servers are many leaves some with nothing to hold.
TEST(EmptyShard, CountsLikeTheOthers) {
  const StrategyEntry& entry = *find_strategy("staleness_aware");
  const Context context{.space = &host_space(), .workers = 2, .servers = 2};
  const auto rule = entry.make_rule(Settings(entry.parameters), context);
  Vector none(host_space(), 0);
  Shard shard({2, 4, 100}, *rule, none);
  EXPECT_EQ(shard.pull(0, 4).value().granted, 4);
  shard.push(0, 0, 4, none);
  shard.push(1, 0, 4, none);
  EXPECT_EQ(shard.version(), 1);
}

TEST(ShardRange, CutsEveryVectorWithoutGaps) {
  for (const std::size_t n : {0, 1, 2, 3, 13, 1000, 100003})
    for (const int servers : {1, 2, 3, 7}) {
      std::size_t at = 0;
      for (int s = 0; s < servers; ++s) {
        const ShardRange part = shard_range(n, s, servers);
        EXPECT_EQ(part.first, at);
        EXPECT_LE(part.count, n / servers + 1);
        at += part.count;
      }
      EXPECT_EQ(at, n);
    }
}

}  // namespace
}  // namespace dsgd
