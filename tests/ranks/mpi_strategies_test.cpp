// SPDX-License-Identifier: Apache-2.0
// What every line of the table of strategies promises, at its `conformance` settings, whoever wrote it.
//   mpirun -n P mpi_strategies_test              strategies of equal workers
//   mpirun -n P+S mpi_strategies_test S          strategies with servers

#include <algorithm>
#include <cmath>
#include <set>

#include "checkpoint.h"
#include "far_space.h"
#include "mpi_job.h"

namespace dsgd::test {
namespace {

std::string name_of(const testing::TestParamInfo<const StrategyEntry*>& info) { return info.param->name; }

class Entry : public testing::TestWithParam<const StrategyEntry*> {
 protected:
  // With a budget of `steps` steps of all workers, and one sample that makes the last minibatch a short one.
  Job conformance(int steps) const {
    Job job{.strategy = GetParam()->name, .settings = GetParam()->tests.conformance};
    job.problem.curved = true;
    job.budget = std::int64_t(steps) * world().workers() * world_minibatch + 1;
    job.optimizer.learning_rate = 1.0 / 64;
    return job;
  }
  double fact(const std::string& name, const Job& job) const {
    for (const auto& [key, value] : GetParam()->effective(job.chosen(), job.context(job.problem.n)))
      if (key == name) return value;
    ADD_FAILURE() << GetParam()->name << " does not say its effective " << name;
    return NAN;
  }
};

using Condition = bool (*)(const StrategyEntry&, const Shape&);

// Worlds with servers are for strategies that need them, and the others for the rest.
template <Condition condition>
struct Entries : Entry {
  static bool fits(const StrategyEntry& entry, const Shape& shape) {
    return bool(entry.make_rule) == (shape.servers > 0) && condition(entry, shape);
  }
  static bool fits(const Shape& shape) { return fits(*GetParam(), shape); }
  static std::vector<const StrategyEntry*> all() {
    std::vector<const StrategyEntry*> entries;
    for (const StrategyEntry* entry : all_strategies())
      if (fits_any([&](const Shape& shape) { return fits(*entry, shape); })) entries.push_back(entry);
    return entries;
  }
};
bool always(const StrategyEntry&, const Shape&) { return true; }
bool lock_step(const StrategyEntry& entry, const Shape& shape) {
  return shape.servers == 0 && !entry.pairs();
}
bool fixed_order(const StrategyEntry& entry, const Shape& shape) {
  return lock_step(entry, shape) || shape.workers == 1;
}
bool in_pairs(const StrategyEntry& entry, const Shape&) { return entry.pairs(); }

struct Conformance : Entries<always> {};
struct LockStep : Entries<lock_step> {};
struct FixedOrder : Entries<fixed_order> {};
struct InPairs : Entries<in_pairs> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LockStep);    // the world has servers
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(InPairs);     // the world has servers
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FixedOrder);  // servers and several workers
INSTANTIATE_TEST_SUITE_P(Table, Conformance, testing::ValuesIn(Conformance::all()), name_of);
INSTANTIATE_TEST_SUITE_P(Table, LockStep, testing::ValuesIn(LockStep::all()), name_of);
INSTANTIATE_TEST_SUITE_P(Table, InPairs, testing::ValuesIn(InPairs::all()), name_of);
INSTANTIATE_TEST_SUITE_P(Table, FixedOrder, testing::ValuesIn(FixedOrder::all()), name_of);

// A rate of 1/64 keeps three accumulated gradients stable at a staleness of twice the workers, 5120
// minibatches of it (a quarter of it in the second half) shrink the initial distance, 8, by e^-3 even where a
// gradient counts as a sixteenth: sums of two, at a staleness of eight. The noise of the samples stays far
// below that; the bound leaves a factor of two.
double distance_at_the_end(const StrategyEntry& entry, const Space& space) {
  Job job{.strategy = entry.name, .settings = entry.tests.conformance};
  // A worker that the system let do little pulls the others back with its old model: there must be time.
  const bool uneven = entry.own_models && (world().servers() || entry.pairs());
  job.budget = 5120 * world_minibatch * (uneven ? 4 : 1);
  job.optimizer.learning_rate = entry.tests.rate / 64;
  job.optimizer.schedule = {.kind = Schedule::Kind::step, .samples = job.budget / 2 + 1, .factor = 0.25};
  job.space = &space;
  const auto each = [](Worker& worker) {
    if (worker.pairs) world().charge(0.001);  // all are equally fast
  };
  return run(job, each).distance;
}

RANKS_TEST_P(Conformance, ReachesTheOptimum) {
  EXPECT_LT(distance_at_the_end(*GetParam(), host_space()), 0.1 * 8);
}

RANKS_TEST_P(Conformance, ReachesTheOptimumInAnyMemory) {
  if (GetParam()->elements || !(world().servers() || GetParam()->pairs()) || world().workers() > 3)
    return SUCCEED();
  EXPECT_LT(distance_at_the_end(*GetParam(), far_space()), 0.1 * 8);
}

RANKS_TEST_P(Conformance, SpendsTheBudgetToTheSample) {
  for (const int steps : {0, 1, 7, 12}) {
    Job job = conformance(steps);
    JobOutcome outcome = run(job);
    std::array<std::int64_t, 1> samples{outcome.samples};
    world().sum(samples);
    EXPECT_GE(samples[0], job.budget);
    EXPECT_TRUE(samples[0] == job.budget || GetParam()->in_batches);  // copies come on top
    world().sum(outcome.uses);
    if (GetParam()->data_order != DataOrder::shard &&
        !GetParam()->in_batches) {  // one stream: every sample as often as any other
      const auto [least, most] = std::minmax_element(outcome.uses.begin(), outcome.uses.end());
      EXPECT_LE(*most - *least, 1);
    }
    for (const Served& server : outcome.servers) {
      EXPECT_EQ(server.used + server.unapplied, job.budget);
      EXPECT_EQ(server.counted, server.arrivals);
    }
    if (outcome.servers.empty() && !GetParam()->pairs()) {
      EXPECT_EQ(outcome.steps, steps + 1);
    }
  }
}

RANKS_TEST_P(Conformance, SendsWhatTheTableSays) {
  for (const int steps : {1, 7, 12}) {
    Job job = conformance(steps);
    const JobOutcome outcome = run(job);
    if (!world().is_worker() || GetParam()->pairs()) continue;
    const Cost cost = GetParam()->cost(job.chosen(), job.context(job.problem.n), outcome.steps);
    if (GetParam()->cost_is_bound) {
      EXPECT_LE(double(outcome.traffic.bytes_sent), cost.bytes_sent) << outcome.steps << " steps";
      EXPECT_EQ(outcome.traffic.bytes_sent > 0, cost.bytes_sent > 0) << outcome.steps << " steps";
    } else {
      EXPECT_EQ(double(outcome.traffic.bytes_sent), cost.bytes_sent) << outcome.steps << " steps";
    }
    if (GetParam()->in_batches) {
      EXPECT_LE(double(outcome.traffic.messages), cost.messages) << outcome.steps << " steps";
    } else {
      EXPECT_EQ(double(outcome.traffic.messages), cost.messages) << outcome.steps << " steps";
    }
    const auto period = std::int64_t(fact("period", job));
    EXPECT_EQ(outcome.traffic.synchronisations,
              world().servers() ? 0 : periods(outcome.steps, period) * job.entry().collectives);
  }
}

RANKS_TEST_P(Conformance, SaysItsGlobalMinibatch) {
  const Job job = conformance(1);
  EXPECT_GE(fact("global_minibatch", job), world_minibatch);
}

RANKS_TEST_P(FixedOrder, SameBitsInEveryRun) {
  for (const auto rule : {OptimizerSettings::Rule::sgd, OptimizerSettings::Rule::adagrad}) {
    Job job = conformance(20);
    job.optimizer = {.rule = rule, .learning_rate = 0.1};
    const JobOutcome first = run(job), second = run(job);
    EXPECT_EQ(first.master, second.master);
    EXPECT_EQ(first.weights, second.weights);
    EXPECT_LT(first.distance, 8) << "nothing was learnt";
  }
}

// Vectors in a memory of their own, as a GPU's: the same bits, and the same bytes travel.
RANKS_TEST_P(FixedOrder, WorksInAnyMemory) {
  if (GetParam()->elements) return SUCCEED() << "it works in the host's memory";
  for (const auto rule : {OptimizerSettings::Rule::momentum, OptimizerSettings::Rule::adam}) {
    Job job = conformance(20);
    job.optimizer = {.rule = rule, .learning_rate = 0.01};
    const JobOutcome here = run(job);
    job.space = &far_space();
    const JobOutcome there = run(job);
    EXPECT_EQ(here.master, there.master);
    // A server's vector may be read where it arrived.
    if (!GetParam()->make_rule) {
      EXPECT_EQ(here.weights, there.weights);
    }
    EXPECT_EQ(here.traffic.bytes_sent, there.traffic.bytes_sent);
    EXPECT_EQ(here.traffic.messages, there.traffic.messages);
  }
}

RANKS_TEST_P(LockStep, EndsWithTheSameModelOnAllWorkers) {
  if (GetParam()->own_models) return SUCCEED() << "their master is compared below";
  Job job = conformance(20);
  job.optimizer.learning_rate = 0.1;
  EXPECT_TRUE(same_on_all_workers(run(job).weights));
}

// The reported model may be formed by a collective; forming it changes nothing.
RANKS_TEST_P(LockStep, MasterLeavesTrainingAlone) {
  for (const auto rule : {OptimizerSettings::Rule::sgd, OptimizerSettings::Rule::momentum}) {
    Job job = conformance(10);
    job.optimizer = {.rule = rule, .learning_rate = 0.1, .momentum = 0.5};
    bool same = true;
    const JobOutcome alone = run(job),
                     watched = run(job, [&](Worker&worker) {
                       const Vec master = worker.strategy->master(worker.replica);
                       same &= same_on_all_workers({master.data, master.data + master.size});
                     });
    EXPECT_EQ(alone.weights, watched.weights);
    EXPECT_EQ(alone.master, watched.master);
    EXPECT_TRUE(same) << "the workers report different models";
  }
}

RANKS_TEST_P(LockStep, ContinuesFromACheckpoint) {
  for (const auto rule : {OptimizerSettings::Rule::sgd, OptimizerSettings::Rule::momentum,
                          OptimizerSettings::Rule::adagrad, OptimizerSettings::Rule::adam})
    for (const int at : {1, 5, 6}) {
      Job job = conformance(12);
      job.optimizer = {.rule = rule, .learning_rate = 0.1, .momentum = 0.5};
      Worker first(job);
      for (int t = 0; t < at; ++t) first.step();
      Worker second(job);
      copy(first.replica.w, second.replica.w);
      second.replica.t = first.replica.t;
      second.replica.used = first.replica.used;
      carry_over(*first.strategy, *second.strategy);
      while (first.step()) {
      }
      while (second.step()) {
      }
      EXPECT_EQ(first.replica.weights(), second.replica.weights()) << "saved after step " << at;
      EXPECT_EQ(first.replica.t, 13);
    }
}

RANKS_TEST_P(InPairs, ContinueFromACheckpoint) {
  for (const auto rule : {OptimizerSettings::Rule::momentum, OptimizerSettings::Rule::adam}) {
    Job job = conformance(12);
    job.optimizer = {.rule = rule, .learning_rate = 0.1, .momentum = 0.5};
    const JobOutcome first = run(job);
    job.replayed = first.requests;
    const JobOutcome again = run(job, [](Worker& worker) {
      auto fresh = worker.make();
      carry_over(*worker.strategy, *fresh);
      worker.strategy = std::move(fresh);
    });
    EXPECT_EQ(again.weights, first.weights);
    EXPECT_EQ(again.master, first.master);
  }
}

// Who asks sends a message in every step, and everything is answered: the formula is the workers' average.
RANKS_TEST_P(InPairs, SendWhatTheTableSays) {
  for (const int steps : {1, 7, 12}) {
    Job job = conformance(steps);
    const JobOutcome outcome = run(job);
    const int asking = (world().workers() + 1) / 2;
    const bool asks = world().rank() % 2 == 0 && world().workers() > 1;
    EXPECT_EQ(outcome.traffic.bytes_sent, outcome.traffic.bytes_received);
    EXPECT_EQ(outcome.traffic.messages, asks ? outcome.steps : std::int64_t(outcome.requests.size()));
    std::array<std::int64_t, 3> all{asks ? outcome.steps : 0, outcome.traffic.bytes_sent,
                                    outcome.traffic.messages};
    world().sum(all);
    const Cost each = GetParam()->cost(job.chosen(), job.context(job.problem.n), 1);
    const double times = double(all[0]) / asking * world().workers();
    EXPECT_NEAR(double(all[1]), times * each.bytes_sent, 1e-6 * double(all[1]));
    EXPECT_NEAR(double(all[2]), times * each.messages, 1e-6 * double(all[2]));
  }
}

// With no gradients nothing changes but by averages, which leave the sum over the workers alone.
RANKS_TEST_P(InPairs, KeepTheMean) {
  Job job = conformance(12);
  job.optimizer.learning_rate = 0;
  Worker worker(job);
  fill(float(1 << 12) * float(world().rank() + 1), worker.replica.w);
  while (worker.step()) {
  }
  worker.replica.work->leave();
  const int workers = world().workers();
  const Vec mean = worker.strategy->master(worker.replica);
  EXPECT_NEAR(mean.data[0], 2048.0 * (workers + 1), 0.01);
  std::array<double, 1> least{worker.replica.w.data[0]}, most = least;
  world().min(least);
  world().max(most);
  EXPECT_LE(most[0] - least[0], 0.5 * 4096 * (workers - 1)) << "nobody has averaged";
}

// The order in which workers answer is all that is not in the settings.
RANKS_TEST_P(InPairs, RepeatWhatWasRecorded) {
  for (const auto rule : {OptimizerSettings::Rule::sgd, OptimizerSettings::Rule::momentum}) {
    Job job = conformance(20);
    job.optimizer = {.rule = rule, .learning_rate = 0.1, .momentum = 0.5};
    const JobOutcome first = run(job);
    job.replayed = first.requests;
    const JobOutcome second = run(job);
    EXPECT_EQ(second.requests, first.requests);
    EXPECT_EQ(second.weights, first.weights);
    EXPECT_EQ(second.steps, first.steps);
    EXPECT_LT(first.distance, 8) << "nothing was learnt";
  }
}

// The others do what a worker that leaves has left; of one that answers, as soon as somebody asks it again.
RANKS_TEST_P(InPairs, GoOnWithoutOneThatLeaves) {
  const int workers = world().workers();
  if (workers == 1) return SUCCEED() << "there are no others";
  for (const int leaver : std::set{0, 1, workers - 1})
    for (const int step : {0, 1, 4}) {
      Job job = conformance(20);
      job.optimizer.learning_rate = 0.1;
      job.leaver = leaver;
      job.leave_step = step;
      const JobOutcome first = run(job);
      const std::string where = "worker " + std::to_string(leaver) + " of " + std::to_string(workers) +
                                " leaves after step " + std::to_string(step);
      if (world().rank() == leaver) {
        EXPECT_EQ(first.left, first.steps == step) << where;
      }
      std::array<std::int64_t, 3> all{first.samples, first.left, first.traffic.bytes_sent};
      world().sum(all);
      EXPECT_LE(all[0], job.budget) << where;
      if (leaver % 2 == 0 || workers == 2) {
        EXPECT_EQ(all[0], job.budget) << where;
      }
      if (workers == 2 && step == 0 && leaver == 0) {
        EXPECT_EQ(all[2], 0) << where << ": to whom did anybody speak?";
      }
      job.replayed = first.requests;
      const JobOutcome second = run(job);
      EXPECT_EQ(second.requests, first.requests) << where;
      EXPECT_EQ(second.weights, first.weights) << where;
      EXPECT_EQ(second.samples, first.samples) << where;
    }
}

}  // namespace
}  // namespace dsgd::test
