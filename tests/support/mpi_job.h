// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "quadratic.h"
#include "ranks.h"
#include "strategy.h"

namespace dsgd {
inline void PrintTo(const StrategyEntry* entry, std::ostream* out) { *out << entry->name; }
}  // namespace dsgd

namespace dsgd::test {

// A run of one strategy on the quadratic, over all ranks of the world.
struct Job {
  std::string strategy;
  std::map<std::string, Value> settings;
  OptimizerSettings optimizer = {.rule = OptimizerSettings::Rule::sgd, .learning_rate = 0.5};
  Quadratic problem;
  std::int64_t budget = 0;  // samples
  std::string order;        // empty: as the strategy declares
  int minibatch = world_minibatch;
  std::vector<int> shares;  // of the workers in the global minibatch; empty: equal
  std::function<std::unique_ptr<Rule>(std::unique_ptr<Rule>)>
      wrap;                            // what the servers run instead of the rule
  std::vector<Request> replayed;       // what this server or worker takes, in this order; empty: as it comes
  const Space* space = &host_space();  // of the workers
  int leaver = -1;                     // who leaves after `leave_step` steps
  std::int64_t leave_step = 0;
  double drop = 0;  // share of the pushes that never arrive

  const StrategyEntry& entry() const { return *find_strategy(strategy); }
  Settings chosen() const { return Settings(entry().parameters, settings); }
  Order order_of(int worker) const {
    return {order.empty() ? to_string(entry().data_order) : order,
            worker,
            world().workers(),
            minibatch,
            budget,
            shares};
  }
  // Of a vector that is a matrix and a bias, unless the optimizer knows better.
  Context context(std::size_t parameters) const {
    Context c{.space = &host_space(),
              .parameters = parameters,
              .workers = world().workers(),
              .servers = world().servers(),
              .minibatch = minibatch,
              .rank = world().rank(),
              .optimizer = optimizer};
    if (c.optimizer.layers.empty() && parameters == Quadratic().n)
      c.optimizer.layers = {{.shape = {3, 4}, .first = 0, .count = 12},
                            {.shape = {1}, .first = 12, .count = 1}};
    return c;
  }
};

// A worker's side of a job, step by step.
class Worker {
 public:
  explicit Worker(const Job& job)
      : server_(world().servers() ? &world().server(job.problem.n) : nullptr),
        replica(job.problem, job.order_of(world().rank()), server_, *job.space) {
    Context context = job.context(job.problem.n);
    context.space = job.space;
    context.group = &world().group();
    context.server = server_;
    if (job.entry().pairs()) {
      const bool again = !job.replayed.empty();
      replica.work = pairs = context.pairs =
          &world().pairs(replica.w, job.budget, again ? &job.replayed : nullptr);
    }
    context.rank = world().rank();
    make = [&job, context] { return job.entry().make(job.chosen(), context); };
    strategy = make();
  }
  bool step() { return replica.step(*strategy); }

 private:
  ParameterServer* server_;

 public:
  QuadraticReplica replica;
  Pairs* pairs = nullptr;
  std::function<std::unique_ptr<Strategy>()> make;  // another one for the same replica
  std::unique_ptr<Strategy> strategy;
};

// What one server ended with.
struct Served {
  std::int64_t used = 0, unapplied = 0, version = 0, arrivals = 0;
  std::int64_t counted = 0, fresh = 0;  // in the histogram of staleness: all, and those with tau = 0
  std::int64_t dropped = 0;             // pushes
  std::int64_t stalest = 0;             // largest tau
};

constexpr int served_numbers = 8;

struct JobOutcome {
  std::int64_t steps = 0, samples = 0;  // of this worker
  bool left = false;                    // it left early
  std::vector<std::int64_t> uses;       // of each sample, by this worker
  std::vector<float> weights;           // of this worker's replica
  std::vector<float> master;            // the model that the paper reports, on all ranks
  Traffic traffic;                      // of this rank
  std::vector<Served> servers;          // on all ranks
  std::vector<Request> requests;        // that this server took, or this worker answered
  double distance = 0;                  // of the master from the optimum
};

// All ranks call it. `each` sees the worker after each of its steps.
template <typename Each>
JobOutcome run(const Job& job, Each each) {
  JobOutcome outcome;
  const std::size_t n = job.problem.n;
  outcome.master.resize(n);
  outcome.uses.resize(Quadratic::samples);
  std::vector<std::int64_t> served(served_numbers * world().servers());
  world().barrier();
  world().traffic() = {};
  if (world().is_worker()) {
    Worker worker(job);
    const auto leaves = [&] { return world().rank() == job.leaver && worker.replica.t == job.leave_step; };
    while (!leaves() && worker.step()) each(worker);
    outcome.left = leaves();
    if (worker.replica.work) worker.replica.work->leave(outcome.left);
    if (worker.pairs) outcome.requests = worker.pairs->answered();
    outcome.traffic = world().traffic();
    outcome.steps = worker.replica.t;
    outcome.samples = worker.replica.samples;
    outcome.uses = worker.replica.uses;
    outcome.weights = worker.replica.weights();
    const Vec master = worker.strategy->master(worker.replica);
    master.space->to_host(master.data, outcome.master.data(), n);
  } else {
    const int s = world().rank() - world().workers();
    const ShardRange own = shard_range(n, s, world().servers());
    Vector w(host_space(), own.count);
    Context context = job.context(own.count);
    context.shards = &world().shards();
    std::unique_ptr<Rule> rule = job.entry().make_rule(job.chosen(), context);
    if (job.wrap) rule = job.wrap(std::move(rule));
    Shard shard({.workers = world().workers(),
                 .minibatch = job.minibatch,
                 .budget = job.budget,
                 .drop = job.drop,
                 .first = s == 0},
                *rule, w);
    shard.replayed = job.replayed;
    world().serve(shard);
    outcome.requests = shard.requests;
    outcome.traffic = world().traffic();
    const auto& staleness = shard.staleness();
    const std::int64_t values[served_numbers] = {
        shard.used(),
        shard.unapplied(),
        shard.version(),
        shard.arrivals(),
        std::accumulate(staleness.begin(), staleness.end(), std::int64_t(0)),
        staleness.empty() ? 0 : staleness[0],
        shard.dropped(),
        std::find_if(staleness.rbegin(), staleness.rend(), [](std::int64_t count) { return count > 0; })
                .base() -
            staleness.begin() - !staleness.empty()};
    std::copy(std::begin(values), std::end(values), served.begin() + served_numbers * s);
    const Vec master = rule->master(w);
    std::copy(master.data, master.data + own.count, outcome.master.begin() + own.first);
  }
  world().sum(served);
  for (int s = 0; s < world().servers(); ++s) {
    const ShardRange part = shard_range(n, s, world().servers());
    world().broadcast(outcome.master.data() + part.first, part.count * sizeof(float), world().workers() + s);
    const std::int64_t* v = served.data() + served_numbers * s;
    outcome.servers.push_back({v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]});
  }
  if (!world().servers()) world().broadcast(outcome.master.data(), n * sizeof(float), 0);
  outcome.distance = job.problem.distance(outcome.master.data());
  return outcome;
}
inline JobOutcome run(const Job& job) {
  return run(job, [](Worker&) {});
}

// On all ranks: whether all workers hold the same bits.
inline bool same_on_all_workers(const std::vector<float>& values) {
  const auto all = world().gather(std::as_bytes(std::span(values)));
  std::array<std::int64_t, 1> differing{};
  if (world().rank() == 0)
    for (int k = 1; k < world().workers(); ++k) differing[0] += all[k] != all[0];
  world().sum(differing);
  return differing[0] == 0;
}

inline bool power_of_two(int n) { return (n & (n - 1)) == 0; }

}  // namespace dsgd::test
