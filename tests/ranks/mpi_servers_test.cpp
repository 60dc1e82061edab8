// SPDX-License-Identifier: Apache-2.0
// Strategies with servers on real ranks: what holds whatever the order of arrivals, and the order forced.
//   mpirun -n P+S mpi_servers_test S

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "mpi_job.h"
#include "twins.h"

namespace dsgd::test {
namespace {

using namespace std::string_literals;
Value integer(int n) { return std::int64_t(n); }
bool fits(const Shape& shape) { return shape.servers > 0; }

// Constant gradients: whatever the order and the staleness, the servers end at
// -eta * sum over the workers of steps * gradient. Nothing is lost, nothing counts twice.
TEST(AnyOrder, DownpourAppliesEveryGradientOnce) {
  for (const int n_fetch : {1, 2, 5})
    for (const int n_push : {1, 3, 50})
      for (const bool overlap : {false, true}) {
        Job job{
            .strategy = "downpour",
            .settings = {{"n_fetch", integer(n_fetch)}, {"n_push", integer(n_push)}, {"overlap", overlap}},
            .budget = 40 * world_minibatch + 3};
        job.problem.slope = world().rank() + 1;
        const JobOutcome outcome = run(job);
        std::array<std::int64_t, 2> sum{outcome.steps * (world().rank() + 1), outcome.samples};
        world().sum(sum);
        Doubles expected(job.problem.n);
        for (std::size_t j = 0; j < expected.size(); ++j) expected[j] = -0.5 * double(sum[0]) * double(j + 1);
        EXPECT_EQ(Doubles(outcome.master.begin(), outcome.master.end()), expected)
            << "n_fetch " << n_fetch << ", n_push " << n_push << (overlap ? ", overlap" : "");
        EXPECT_EQ(sum[1], job.budget);
      }
}

// What an exchange takes from a worker it gives to the centre: constant gradients move all of them together
// by -eta * sum over the workers of steps * gradient, whatever the order.
TEST(AnyOrder, EasgdLosesNothingBetweenWorkersAndCentre) {
  for (const int tau : {1, 3, 50}) {
    Job job{.strategy = "easgd",
            .settings = {{"tau", integer(tau)}, {"beta", 0.75}},
            .budget = 40 * world_minibatch + 3};
    job.problem.slope = world().rank() + 1;
    const auto step = [&](std::size_t j) { return -0.5 * (world().rank() + 1) * double(j + 1); };
    std::vector<float> first;
    const JobOutcome outcome = run(job, [&](Worker& worker) {
      if (first.empty()) first = worker.replica.weights();
    });
    for (std::size_t j = 0; j < job.problem.n; ++j) {
      std::array<double, 2> sum{0, 0};  // moved; steps taken
      if (!first.empty()) sum = {outcome.weights[j] - (first[j] - step(j)), step(j) * double(outcome.steps)};
      world().sum(sum);
      EXPECT_NEAR(sum[0] + outcome.master[j], sum[1], 1e-5 * std::abs(sum[1])) << "tau " << tau;
    }
  }
}

// A worker knows at least of its own steps, also of those since it last heard of the servers: a rate that
// grows over the whole run does not stay at zero for two periods.
TEST(AnyOrder, RatesGoByWhatIsUsedNow) {
  const std::map<std::string, std::map<std::string, Value>> strategies{
      {"easgd", {{"tau", integer(25)}}},
      {"eamsgd", {{"tau", integer(25)}, {"delta", 0.5}}},
      {"downpour", {{"n_fetch", integer(25)}, {"n_push", integer(5)}}}};
  for (const auto& [strategy, settings] : strategies) {
    Job job{.strategy = strategy, .settings = settings};
    job.budget = std::int64_t(50) * world().workers() * world_minibatch;
    job.optimizer.learning_rate = strategy == "downpour" ? 0.05 / world().workers() : 0.05;
    job.optimizer.schedule = {.kind = Schedule::Kind::warmup, .samples = job.budget, .factor = 0};
    const JobOutcome outcome = run(job, [](Worker& worker) {
      const std::int64_t before = worker.replica.samples - world_minibatch,
                         used = worker.replica.work->used();
      EXPECT_GE(used, before);
      EXPECT_TRUE(world().workers() > 1 || used == before) << used << " after " << before << " samples";
    });
    EXPECT_LT(outcome.distance, 7) << strategy;  // from 8
  }
}

// Equal gradients of all learners: every update is one of them, however many arrivals it is made of.
TEST(AnyOrder, SoftsyncDividesByTheArrivals) {
  for (int n = 1; n <= world().workers() + 1; ++n) {
    const int c = std::max(1, world().workers() / n);
    Job job{.strategy = "staleness_aware",
            .settings = {{"n", integer(n)}, {"modulation", "none"s}},
            .budget = 41 * world_minibatch};
    job.problem.slope = 3;
    const JobOutcome outcome = run(job);
    for (const Served& server : outcome.servers) {
      EXPECT_EQ(server.arrivals, 41);
      EXPECT_EQ(server.version, 41 / c);
      EXPECT_EQ(server.unapplied, 41 % c * world_minibatch);
    }
    for (std::size_t j = 0; j < job.problem.n; ++j)
      EXPECT_FLOAT_EQ(outcome.master[j], -0.5f * 3 * float(j + 1) * float(41 / c)) << "n = " << n;
  }
}

TEST(AnyOrder, WarmStartLetsTheFirstReplicaWorkAlone) {
  for (const bool overlap : {false, true})
    for (const int n_push : {1, 3}) {
      Job job{.strategy = "downpour",
              .settings = {{"warm_start", integer(10 * world_minibatch)},
                           {"overlap", overlap},
                           {"n_push", integer(n_push)}},
              .budget = 60 * world_minibatch};
      std::int64_t first_used = -1;
      const JobOutcome outcome = run(job, [&](Worker& worker) {
        if (first_used < 0) first_used = worker.replica.work->used();
      });
      if (outcome.steps > 0 && world().rank() > 0) {
        EXPECT_GE(first_used, 10 * world_minibatch);
      }
      if (world().rank() == 0) {
        EXPECT_GE(outcome.steps, 10);
      }
      std::array<std::int64_t, 1> samples{outcome.samples};
      world().sum(samples);
      EXPECT_EQ(samples[0], job.budget);
    }
}

TEST(AnyOrder, WarmStartBeyondTheBudgetEnds) {
  const Job job{
      .strategy = "downpour", .settings = {{"warm_start", integer(1000)}}, .budget = 10 * world_minibatch};
  const JobOutcome outcome = run(job);
  EXPECT_EQ(outcome.steps, world().rank() == 0 ? 10 : 0);
}

// One worker is slow. Nobody is more than s + 1 updates ahead of it, between a pull and its push every other
// worker's updates are at most 2s + 1, and the others' leaving holds nobody back.
TEST(AnyOrder, SspBoundsTheStaleness) {
  for (const int s : {0, 1, 4}) {
    const Job job{.strategy = "ssp", .settings = {{"s", integer(s)}}, .budget = 60 * world_minibatch + 1};
    const JobOutcome outcome = run(job, [](Worker&) {
      if (world().rank() == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
    std::array<double, 1> least{world().is_worker() ? double(outcome.steps) : INFINITY},
        most{double(outcome.steps)};
    world().min(least);
    world().max(most);
    EXPECT_LE(most[0] - least[0], s + 1);
    for (const Served& server : outcome.servers) {
      EXPECT_EQ(server.counted, 61);
      EXPECT_LE(server.stalest, (world().workers() - 1) * (2 * s + 1)) << "s = " << s;
    }
  }
}

// What a replay repeats of a shard's requests. A worker's end is none of them: on shards other than the
// first, another one's last pull may have waited for it, and which version it saw by then is the machine's.
// Nothing is made of what that pull brings.
std::vector<Request> repeated(std::vector<Request> requests) {
  if (world().rank() <= world().workers()) return requests;
  std::set<int> seen;
  for (auto r = requests.rbegin(); r != requests.rend(); ++r)
    if ((r->kind == Request::pull || r->kind == Request::pull_work) && seen.insert(r->worker).second)
      r->version = 0;
  return requests;
}

// The others go on without a worker that leaves, and do its work. Not even what it left undone is missing,
// unless they were told by then that there is no more.
TEST(AnyOrder, TheOthersGoOnWithoutOneThatLeaves) {
  if (world().workers() == 1) return SUCCEED() << "there are no others";
  for (const StrategyEntry* entry : all_strategies()) {
    if (!entry->make_rule) continue;
    for (const int leaver : {0, world().workers() - 1})
      for (const int step : {0, 1, 4}) {
        Job job{.strategy = entry->name,
                .settings = entry->tests.conformance,
                .budget = 100 * world_minibatch + 1};
        job.optimizer.learning_rate = 1.0 / 64;
        job.leaver = leaver;
        job.leave_step = step;
        const JobOutcome outcome = run(job);
        if (world().rank() == leaver) {
          EXPECT_EQ(outcome.left, outcome.steps == step);
        }
        std::array<std::int64_t, 1> left{outcome.left};
        world().sum(left);
        const std::string where =
            entry->name + ", worker " + std::to_string(leaver) + " leaves after step " + std::to_string(step);
        for (const Served& server : outcome.servers) {
          const std::int64_t lost = job.budget - server.used - server.unapplied;
          EXPECT_GE(lost, 0) << where;
          EXPECT_LE(lost, left[0] * 3 * world_minibatch) << where;  // the longest period of `conformance`
          EXPECT_TRUE(step > 0 || lost == 0) << where;
        }
        job.replayed = outcome.requests;
        const JobOutcome again = run(job);
        EXPECT_EQ(again.master, outcome.master) << where;
        EXPECT_TRUE(repeated(again.requests) == repeated(outcome.requests)) << where;
      }
  }
}

// Pushes that never arrive are missing and nothing else: with constant gradients the servers end where those
// that arrived bring them.
TEST(AnyOrder, WhatIsDroppedIsMissing) {
  for (const char* strategy : {"downpour", "staleness_aware"}) {
    Job job{.strategy = strategy, .budget = 60 * world_minibatch, .drop = 0.25};
    if (job.strategy == "staleness_aware")
      job.settings = {{"n", integer(world().workers())}, {"modulation", "none"s}};
    job.problem.slope = 1;
    const JobOutcome outcome = run(job);
    for (const Served& server : outcome.servers) {
      EXPECT_EQ(server.arrivals + server.dropped, 60) << strategy;
      EXPECT_GT(server.dropped, 0) << strategy;
      EXPECT_EQ(server.used, server.arrivals * world_minibatch) << strategy;
      EXPECT_EQ(server.arrivals, outcome.servers[0].arrivals) << strategy << ": the same at every shard";
      for (std::size_t j = 0; j < job.problem.n; ++j)
        EXPECT_FLOAT_EQ(outcome.master[j], -0.5f * float(j + 1) * float(server.arrivals)) << strategy;
    }
  }
}

// What a worker has sent is what the servers have recorded of it, to the byte.
TEST(AnyOrder, CountersAgreeWithTheRequests) {
  for (const StrategyEntry* entry : all_strategies()) {
    if (!entry->make_rule) continue;
    const Job job{
        .strategy = entry->name, .settings = entry->tests.conformance, .budget = 60 * world_minibatch + 1};
    const JobOutcome outcome = run(job);
    std::vector<std::int64_t> recorded(2 * world().workers());  // bytes and messages of each
    std::array<std::int64_t, 1> again{0};
    for (const Request& r : outcome.requests) {
      const auto n = shard_range(job.problem.n, world().rank() - world().workers(), world().servers()).count;
      recorded[2 * r.worker] += 64 + (r.kind == Request::push ? std::int64_t(4 * n) : 0);
      ++recorded[2 * r.worker + 1];
      again[0] += r.kind == Request::push_again;
    }
    world().sum(recorded);
    world().sum(again);
    if (world().is_worker()) {
      EXPECT_EQ(outcome.traffic.bytes_sent, recorded[2 * world().rank()]) << entry->name;
      EXPECT_EQ(outcome.traffic.messages, recorded[2 * world().rank() + 1]) << entry->name;
    }
    EXPECT_EQ(again[0] > 0, entry->name == "fasgd") << entry->name << ": pushes were left out";
  }
}

// Portions, copies of them and sums over the shards change nothing: the servers end where L-BFGS on one
// machine does.
TEST(AnyOrder, SandblasterIsSerialLbfgs) {
  for (const bool resample : {true, false})
    for (const int portion : {1, 2}) {
      const std::int64_t batch = 20;
      Job job{.strategy = "sandblaster",
              .settings = {{"batch", batch},
                           {"portion", integer(portion)},
                           {"backups", integer(1)},
                           {"history", integer(3)},
                           {"resample", resample}},
              .budget = 12 * batch + 7};
      job.problem.curved = true;
      PlainLbfgs serial{.w = Doubles(job.problem.n), .history = 3, .resample = resample, .rate = 0.5};
      for (int evaluation = 0; evaluation < 12; ++evaluation) serial.step(job.problem, batch);
      const JobOutcome outcome = run(job, [](Worker& worker) {  // one is slow: there are copies
        if (world().rank() != 0 || worker.replica.t > 20) return;
        world().sleep(500e-6);
      });
      EXPECT_LE(difference(serial.x, outcome.master.data()), 1e-3)
          << "portions of " << portion << (resample ? ", fresh batches" : ", one batch");
      for (const Served& server : outcome.servers) {
        EXPECT_EQ(server.version, 12);
        EXPECT_EQ(server.unapplied, 7);
        EXPECT_EQ(server.fresh, server.arrivals);
      }
    }
}

// First one worker is slow, then another one.
TEST(Replay, KeepsTheOrderWhoeverIsSlow) {
  for (const StrategyEntry* entry : all_strategies()) {
    if (!entry->make_rule) continue;
    Job job{
        .strategy = entry->name, .settings = entry->tests.conformance, .budget = 60 * world_minibatch + 1};
    const auto with_slow = [&](int rank) {
      return run(job, [rank](Worker&) {
        if (world().rank() != rank) return;
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        world().charge(200e-6);
      });
    };
    const JobOutcome first = with_slow(0);
    job.replayed = first.requests;
    const JobOutcome second = with_slow(world().workers() - 1);
    EXPECT_EQ(second.master, first.master) << entry->name;
    EXPECT_TRUE(repeated(second.requests) == repeated(first.requests)) << entry->name;
    EXPECT_EQ(first.requests.empty(), world().is_worker()) << entry->name;
    EXPECT_EQ(second.steps, first.steps) << entry->name;
  }
}

// What a server has on record: grants without a gap, versions as they were, and pushes of what was pulled.
TEST(AnyOrder, RecordsWhatItTook) {
  const Job job{.strategy = "dc_asgd", .budget = 40 * world_minibatch + 1};
  const JobOutcome outcome = run(job);
  std::int64_t version = 0, position = 0;
  std::map<int, std::int64_t> held;
  for (const Request& r : outcome.requests) {
    if (r.kind == Request::pull) {
      EXPECT_EQ(r.version, version);
      EXPECT_EQ(r.position, position);
      position += r.samples;
      held[r.worker] = r.version;
    } else if (r.kind == Request::push) {
      EXPECT_EQ(r.version, held.at(r.worker));
      ++version;
    }
  }
  if (world().is_worker()) return;
  EXPECT_EQ(position, job.budget);
  EXPECT_EQ(version, 41);
}

TEST(AnyOrder, WorkersWithoutWorkLeave) {
  std::vector<std::string> served;
  for (const StrategyEntry* entry : all_strategies())
    if (entry->make_rule) served.push_back(entry->name);
  for (const std::string& strategy : served)
    for (const std::int64_t budget : {0, 1, world_minibatch}) {
      const JobOutcome outcome = run({.strategy = strategy, .budget = budget});
      std::array<std::int64_t, 2> sum{outcome.samples, outcome.steps};
      world().sum(sum);
      EXPECT_EQ(sum[0], budget);
      EXPECT_EQ(sum[1], budget > 0);
    }
}

}  // namespace
}  // namespace dsgd::test
