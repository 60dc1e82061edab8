// SPDX-License-Identifier: Apache-2.0
// Strategies of equal workers against their plain twins, one-process SGD and each other.
//   mpirun -n P mpi_lockstep_test
// Where P is a power of two, every number of the identities is exact in float32 (rates of 1/2, integers,
// plain SGD, ten steps at most): they hold bit for bit. With 3 workers and with other optimizers: to 2e-5 at
// values below 16, some ten units in the last place.

#include <algorithm>
#include <numbers>
#include <set>

#include "mpi_job.h"
#include "parts/compressed.h"
#include "twins.h"

namespace dsgd::test {
namespace {

using Rule = OptimizerSettings::Rule;
using namespace std::string_literals;

bool fits(const Shape& shape) { return shape.servers == 0; }
double rounding() { return 2e-5 * std::max(1.0, world().workers() / 3.0); }  // it adds up
double tolerance() { return power_of_two(world().workers()) ? 0 : rounding(); }
std::int64_t steps(int count) { return std::int64_t(count) * world().workers() * world_minibatch; }
Value integer(int n) { return std::int64_t(n); }

// Largest distance between this worker's replica and its plain twin over the steps of a run.
template <typename Step>
double against_twin(const Job& job, Step step, PlainWorkers twin) {
  double far = 0;
  const JobOutcome outcome = run(job, [&](Worker& worker) {
    step(twin);
    far = std::max(far, difference(twin.w[world().rank()], worker.replica.w.data));
  });
  EXPECT_FALSE(twin.more());
  EXPECT_EQ(outcome.steps, twin.t);
  return far;
}
template <typename Step>
double against_twin(const Job& job, Step step) {
  return against_twin(job, step, PlainWorkers(job.problem, job.optimizer, job.order_of(0)));
}

double apart(const JobOutcome& a, const JobOutcome& b) {
  return difference(Doubles(a.weights.begin(), a.weights.end()), b.weights.data());
}

std::vector<OptimizerSettings> optimizers() {
  const Schedule step{.kind = Schedule::Kind::step, .samples = steps(7) + 2, .factor = 0.5};
  const Schedule warmup{.kind = Schedule::Kind::warmup, .samples = steps(9), .factor = 0.25};
  return {{.rule = Rule::sgd, .learning_rate = 0.25, .l2 = 0.125, .schedule = step},
          {.rule = Rule::momentum, .learning_rate = 0.125, .momentum = 0.5, .schedule = warmup},
          {.rule = Rule::nesterov, .learning_rate = 0.125, .momentum = 0.5},
          {.rule = Rule::adagrad, .learning_rate = 0.5, .initial_accumulator = 0.5, .epsilon = 0.125},
          {.rule = Rule::adam, .learning_rate = 0.25, .momentum = 0.5, .epsilon = 0.125, .beta2 = 0.75},
          {.rule = Rule::adamw, .learning_rate = 0.25, .l2 = 0.125, .epsilon = 0.125, .schedule = step},
          {.rule = Rule::lars,
           .learning_rate = 0.5,
           .momentum = 0.5,
           .l2 = 0.125,
           .trust = 0.25,
           .clip = 16,
           .layers = {{.shape = {2, 4}, .first = 0, .count = 8}, {.shape = {5}, .first = 8, .count = 5}}}};
}

Job same_order(const std::string& strategy, const OptimizerSettings& optimizer,
               const std::map<std::string, Value>& settings = {}) {
  return {.strategy = strategy,
          .settings = settings,
          .optimizer = optimizer,
          .budget = steps(9),
          .order = "global"};
}

Job twin_job(const std::string& strategy, const OptimizerSettings& optimizer) {
  Job job{.strategy = strategy, .optimizer = optimizer, .budget = steps(20) + 2};  // the last step is short
  job.problem.curved = true;
  return job;
}

TEST(Twin, Sync) {
  for (const auto& optimizer : optimizers())
    EXPECT_LE(against_twin(twin_job("sync", optimizer), [](PlainWorkers& twin) { twin.sync(); }), rounding());
}

TEST(Twin, Averaging) {
  for (const auto& optimizer : optimizers())
    for (const int tau : {1, 3, 50})
      for (const char* state : {"keep", "average", "reset"}) {
        Job job = twin_job("averaging", optimizer);
        job.settings = {{"tau", integer(tau)}, {"state", std::string(state)}};
        EXPECT_LE(against_twin(job, [&](PlainWorkers& twin) { twin.averaging(tau, state); }), rounding())
            << "tau " << tau << ", state " << state << ", optimizer " << int(optimizer.rule);
      }
}

TEST(Twin, Bmuf) {
  for (const auto& optimizer : optimizers())
    for (const auto& convention : {"paper"s, "cntk"s, "fairseq"s})
      for (const bool nesterov : {false, true})
        for (const bool reset : {false, true})
          for (const double eta : {0.0, 0.75, -1.0}) {
            if (convention == "cntk" && world().workers() > 7)
              continue;  // N times the step: too far to be stable
            Job job = twin_job("bmuf", optimizer);
            job.settings = {{"block", integer(3)},
                            {"eta", eta},
                            {"zeta", 0.5},
                            {"convention", convention},
                            {"momentum", nesterov ? "nesterov"s : "classic"s},
                            {"reset_local_momentum", reset}};
            const double used_eta = eta < 0 ? 1 - 1.0 / world().workers() : eta;
            EXPECT_LE(against_twin(job,
                                   [&](PlainWorkers& twin) {
                                     twin.bmuf(3, used_eta, 0.5, nesterov, reset, convention);
                                   }),
                      rounding())
                << convention << ", eta " << eta << (nesterov ? " nesterov" : " classic")
                << (reset ? " reset" : " keep") << ", optimizer " << int(optimizer.rule);
          }
}

// Lin et al. 2018: with tau = 4 and 6 steps of warm-up, the steps after which the workers average; in those
// of `constant` they average gradients.
TEST(Twin, PostLocalSgd) {
  const std::map<std::string, std::set<int>> averagings{{"constant", {1, 2, 3, 4, 5, 6, 10, 14, 18, 21}},
                                                        {"linear", {1, 2, 3, 5, 8, 12, 16, 20, 21}},
                                                        {"exponential", {1, 2, 3, 5, 7, 11, 15, 19, 21}}};
  for (const auto& optimizer : optimizers())
    for (const auto& [warmup, after] : averagings) {
      Job job = twin_job("averaging", optimizer);
      job.settings = {{"tau", integer(4)}, {"warmup_steps", integer(6)}, {"warmup", warmup}};
      EXPECT_LE(against_twin(job,
                             [&, &at = after, post = warmup == "constant"](PlainWorkers& twin) {
                               if (post && twin.t < 6) return twin.sync();
                               twin.averaging("keep", [&] { return at.count(int(twin.t)) > 0; });
                             }),
                rounding())
          << warmup << ", optimizer " << int(optimizer.rule);
      EXPECT_EQ(run(job).traffic.synchronisations, std::int64_t(after.size())) << warmup;
      for (const char* state : {"keep", "average"}) {
        job.settings["state"] = std::string(state);
        const Cost cost = job.entry().cost(job.chosen(), job.context(13), 21);
        EXPECT_EQ(run(job).traffic.messages, std::int64_t(cost.messages)) << warmup << ", " << state;
      }
    }
}

TEST(Twin, SlowMo) {
  auto all = optimizers();
  // The rate falls to zero in the middle of a period.
  all.push_back({.learning_rate = 0.25, .schedule = {Schedule::Kind::step, steps(10), 0}});
  for (const auto& optimizer : all)
    for (const auto& [alpha, beta] : std::vector<std::pair<double, double>>{{1, 0}, {1, 0.5}, {0.5, 0.75}})
      for (const char* state : {"keep", "average", "reset"}) {
        Job job = twin_job("slowmo", optimizer);
        job.settings = {{"tau", integer(3)}, {"alpha", alpha}, {"beta", beta}, {"state", std::string(state)}};
        EXPECT_LE(against_twin(job, [&, alpha = alpha, beta = beta](
                                        PlainWorkers& twin) { twin.slowmo(3, alpha, beta, state); }),
                  rounding())
            << "alpha " << alpha << ", beta " << beta << ", " << state << ", optimizer "
            << int(optimizer.rule);
      }
}

TEST(Twin, DiLoCo) {
  for (const auto& optimizer : optimizers())
    for (const auto& rule : {"sgd"s, "momentum"s, "nesterov"s})
      for (const double rate : {0.5, 1.0}) {
        Job job = twin_job("diloco", optimizer);
        job.settings = {{"H", integer(3)}, {"outer", rule}, {"outer_rate", rate}, {"outer_momentum", 0.5}};
        EXPECT_LE(against_twin(job, [&](PlainWorkers& twin) { twin.diloco(3, rule, rate, 0.5); }), rounding())
            << rule << ", rate " << rate << ", optimizer " << int(optimizer.rule);
      }
}

// W of the three graphs, from their definitions.
double weight(const std::string& topology, int k, int j) {
  const int P = world().workers();
  if (topology == "complete") return 1.0 / P;
  std::set<int> from{k};
  if (topology == "ring") from.insert({(k + 1) % P, (k + P - 1) % P});
  if (topology == "exponential")
    for (int d = 1; d < P; d *= 2) from.insert((k + d) % P);
  return from.count(j) ? 1.0 / double(from.size()) : 0;
}
const std::vector<std::string> topologies{"ring", "exponential", "complete"};

TEST(Twin, Dpsgd) {
  for (const auto& optimizer : optimizers())
    for (const auto& topology : topologies)
      for (const auto& mix : {"before"s, "after"s}) {
        Job job = twin_job("dpsgd", optimizer);
        job.settings = {{"topology", topology}, {"mix", mix}};
        EXPECT_LE(against_twin(job,
                               [&](PlainWorkers& twin) {
                                 twin.dpsgd([&](int k, int j) { return weight(topology, k, j); },
                                            mix == "before");
                               }),
                  rounding())
            << topology << ", " << mix << ", optimizer " << int(optimizer.rule);
        const Cost cost = job.entry().cost(job.chosen(), job.context(13), 21);
        const JobOutcome outcome = run(job);
        EXPECT_EQ(double(outcome.traffic.bytes_sent), cost.bytes_sent) << topology;
        EXPECT_EQ(double(outcome.traffic.messages), cost.messages) << topology;
        EXPECT_EQ(outcome.traffic.synchronisations, topology == "complete" ? 21 : 0);
      }
}

// Writes down what a worker does with its pairs.
struct Logged final : Pairs {
  explicit Logged(Pairs& of) : pairs(of) {}
  const std::vector<int>& neighbours() const override { return pairs.neighbours(); }
  void begin_average(int j) override {
    asked.back() = j;
    pairs.begin_average(j);
  }
  void end_average() override { pairs.end_average(); }
  const std::vector<Request>& answered() const override { return pairs.answered(); }
  std::int64_t used() const override { return pairs.used(); }
  Portion take(int count) override {
    const Portion portion = pairs.take(count);
    counts.push_back(portion.count);
    asked.push_back(-1);
    return portion;
  }
  void leave(bool early = false) override { pairs.leave(early); }
  Pairs& pairs;
  std::vector<std::int32_t> counts, asked;
};

// On rank 0: what every worker has.
template <typename T>
std::vector<std::vector<T>> gathered(const std::vector<T>& own) {
  std::vector<std::vector<T>> all;
  for (const auto& part : world().gather(std::as_bytes(std::span(own)))) {
    all.emplace_back(part.size() / sizeof(T));
    std::copy(part.begin(), part.end(), std::as_writable_bytes(std::span(all.back())).begin());
  }
  return all;
}

// In the order of answers that was recorded.
TEST(Twin, AdPsgd) {
  for (const auto rule : {Rule::sgd, Rule::momentum}) {
    Job job = twin_job("adpsgd", {.rule = rule, .learning_rate = 0.125, .momentum = 0.5});
    QuadraticReplica replica(job.problem, job.order_of(world().rank()));
    Logged pairs(world().pairs(replica.w, job.budget));
    replica.work = &pairs;
    Context context = job.context(13);
    context.group = &world().group();
    context.pairs = &pairs;
    const auto strategy = job.entry().make(job.chosen(), context);
    while (replica.step(*strategy)) world().charge(0.001 * (1 + world().rank() % 3));
    pairs.leave();
    world().barrier();  // nobody asks for the next run before all have left this one
    std::vector<std::int32_t> calls, whom;
    for (const Request& r : pairs.answered()) calls.push_back(int(r.version)), whom.push_back(r.worker);
    const auto weights = gathered(replica.weights());
    const auto counts = gathered(pairs.counts), asked = gathered(pairs.asked), all_calls = gathered(calls),
               all_whom = gathered(whom);
    if (world().rank() > 0) continue;
    std::vector<PlainPairs::Log> logs;
    std::vector<Order> orders;
    for (int k = 0; k < world().workers(); ++k) {
      orders.push_back(job.order_of(k));
      logs.push_back({counts[k], asked[k], {}});
      for (std::size_t i = 0; i < all_whom[k].size(); ++i)
        logs.back().answered.push_back({all_calls[k][i], all_whom[k][i]});
    }
    PlainPairs twin(job.problem, job.optimizer, orders, logs);
    EXPECT_TRUE(twin.run());
    for (int k = 0; k < world().workers(); ++k)
      EXPECT_LE(difference(twin.x[k], weights[k].data()), rounding()) << "worker " << k;
  }
}

TEST(Twin, Easgd) {
  for (const auto& optimizer : optimizers())
    for (const int tau : {1, 3, 50})
      for (const double beta : {0.0, 0.5, 1.0}) {
        Job job = twin_job("easgd_sync", optimizer);
        job.settings = {{"tau", integer(tau)}, {"beta", beta}};
        EXPECT_LE(against_twin(job, [&](PlainWorkers& twin) { twin.easgd(tau, beta); }), rounding())
            << "tau " << tau << ", beta " << beta << ", optimizer " << int(optimizer.rule);
      }
}

TEST(Twin, Eamsgd) {
  for (const int tau : {1, 3, 50})
    for (const double delta : {0.0, 0.5})
      for (const double l2 : {0.0, 0.25}) {
        Job job = twin_job("eamsgd_sync", {.learning_rate = 0.125, .l2 = l2});
        job.settings = {{"tau", integer(tau)}, {"beta", 0.5}, {"delta", delta}};
        EXPECT_LE(against_twin(job, [&](PlainWorkers& twin) { twin.easgd(tau, 0.5, delta); }), rounding())
            << "tau " << tau << ", delta " << delta << ", l2 " << l2;
      }
}

// Decisions (which element, which sign) are those of the twin where numbers are exact: powers of two, few
// steps.
Job compressed_job(const std::string& strategy, const std::map<std::string, Value>& settings) {
  return {.strategy = strategy,
          .settings = settings,
          .optimizer = {.rule = Rule::sgd, .learning_rate = 0.5},
          .budget = steps(4)};
}

TEST(Twin, Threshold) {
  const bool exact = power_of_two(world().workers());
  for (const double tau : {exact ? 0.5 : 0.618034, exact ? 4.0 : 3.141593})  // no element comes to lie on it
    EXPECT_LE(against_twin(compressed_job("threshold", {{"tau", tau}}),
                           [&](PlainWorkers& twin) {
                             twin.compressed([&](const Doubles& p) { return plain_threshold(p, tau); });
                           }),
              tolerance())
        << tau;
}

TEST(Twin, TopK) {
  if (!power_of_two(world().workers())) return SUCCEED() << "ties fall to either side";
  for (const int k : {1, 4, 13})
    EXPECT_LE(against_twin(compressed_job("topk", {{"density", k / 13.0}}),
                           [&](PlainWorkers& twin) {
                             twin.compressed([&](const Doubles& p) { return plain_topk(p, std::size_t(k)); });
                           }),
              0)
        << k;
}

TEST(Twin, SignSgd) {
  for (const double beta : {0.0, 0.5})
    EXPECT_EQ(against_twin(compressed_job("signsgd", {{"beta", beta}}),
                           [&](PlainWorkers& twin) { twin.majority_vote(beta); }),
              0)
        << beta;
}

TEST(Twin, EfSignSgd) {
  EXPECT_LE(against_twin(compressed_job("ef_signsgd", {}),
                         [&](PlainWorkers& twin) {
                           twin.compressed([](const Doubles& p) { return plain_scaled_sign(p, {12, 13}); });
                         }),
            rounding());
}

TEST(Twin, OneBit) {
  for (const int bucket : {1, 2, 3, 512})
    EXPECT_LE(against_twin(compressed_job("onebit", {{"bucket", integer(bucket)}}),
                           [&](PlainWorkers& twin) {
                             twin.compressed_twice(
                                 [&](const Doubles& p) { return plain_onebit(p, std::size_t(bucket)); });
                           }),
              rounding())
        << bucket;
}

// The Q that all workers start from.
struct FirstQ final : State {
  void vector(const std::string& name, Vec v) override {
    if (name == "q") values.assign(v.data, v.data + v.size);
  }
  void number(const std::string&, std::int64_t&) override {}
  void number(const std::string&, double&) override {}
  Doubles values;
};

TEST(Twin, PowerSgd) {
  for (const int rank : {1, 2}) {
    const Job job = compressed_job("powersgd", {{"rank", integer(rank)}});
    FirstQ q;
    Worker(job).strategy->visit(q);
    EXPECT_LE(against_twin(job, [&](PlainWorkers& twin) { twin.powersgd(3, std::size_t(rank), q.values); }),
              10 * rounding())
        << rank;
  }
}

// A phase of its own, for every strategy that compresses and no other.
TEST(Traffic, KnowsTheTimeOfCompression) {
  for (const StrategyEntry* entry : all_strategies()) {
    if (entry->make_rule || entry->pairs()) continue;
    const JobOutcome outcome =
        run({.strategy = entry->name, .settings = entry->tests.conformance, .budget = steps(9)});
    EXPECT_GE(outcome.traffic.compressed, 0);
    EXPECT_EQ(world().simulated() || outcome.traffic.compressed > 0, world().simulated() || entry->elements)
        << entry->name;
  }
}

// sent + what stays behind = accumulated gradient: over all workers in every step.
TEST(Conservation, OfTheGradientUnderErrorFeedback) {
  const double P = world().workers();
  for (const auto& [strategy, settings] : std::map<std::string, std::map<std::string, Value>>{
           {"threshold", {{"tau", 2.0}}}, {"topk", {{"density", 0.2}}}, {"ef_signsgd", {}}}) {
    Vector difference(host_space(), Quadratic().n), gradients(host_space(), Quadratic().n);
    double far = 0;
    run(compressed_job(strategy, settings), [&](Worker& worker) {
      axpy(1, worker.replica.g, gradients);
      copy(gradients, difference);
      axpy(-1, dynamic_cast<Compressed&>(*worker.strategy).residual(), difference);
      world().group().sum(difference);
      for (std::size_t j = 0; j < difference.size(); ++j)  // w = -1/2 * (1/P) * all that was sent
        far = std::max(far, std::abs(double(difference.data()[j]) + 2 * P * worker.replica.w.data[j]));
    });
    EXPECT_LE(far, strategy == "ef_signsgd" ? 64 * P * rounding() : P * tolerance() * 64) << strategy;
  }
}

TEST(Identity, TopKOfAllElementsIsSync) {
  const OptimizerSettings sgd{.rule = Rule::sgd, .learning_rate = 0.5};
  const OptimizerSettings momentum{.rule = Rule::momentum, .learning_rate = 0.25, .momentum = 0.5};
  const auto all = [&](const OptimizerSettings& optimizer, bool correction, bool masking) {
    return run(same_order("topk", optimizer,
                          {{"density", 1.0}, {"momentum_correction", correction}, {"masking", masking}}));
  };
  EXPECT_LE(apart(all(sgd, true, true), run(same_order("sync", sgd))), tolerance());
  EXPECT_LE(apart(all(momentum, false, true), run(same_order("sync", momentum))), rounding());
  EXPECT_LE(apart(all(momentum, true, false), run(same_order("sync", momentum))), rounding());
  OptimizerSettings nesterov = momentum;
  nesterov.rule = Rule::nesterov;
  EXPECT_LE(apart(all(nesterov, true, false), run(same_order("sync", nesterov))), rounding());
  OptimizerSettings plain = momentum;  // all of the momentum is masked
  plain.rule = Rule::sgd;
  EXPECT_LE(apart(all(momentum, true, true), run(same_order("sync", plain))), rounding());
}

TEST(Identity, PowerSgdOfFullRankIsSync) {
  const OptimizerSettings momentum{.rule = Rule::momentum, .learning_rate = 0.25, .momentum = 0.5};
  EXPECT_LE(
      apart(run(same_order("powersgd", momentum, {{"rank", integer(3)}})), run(same_order("sync", momentum))),
      10 * rounding());
}

TEST(Identity, SyncIsSerialSgdWithTheGlobalMinibatch) {
  for (const int minibatch : {1, 4}) {
    Job job{.strategy = "sync", .minibatch = minibatch};
    job.budget = 10 * world().workers() * minibatch;
    PlainWorkers serial(job.problem, job.optimizer,
                        {.minibatch = world().workers() * minibatch, .budget = job.budget});
    double far = 0;
    run(job, [&](Worker& worker) {
      serial.sync();
      far = std::max(far, difference(serial.w[0], worker.replica.w.data));
    });
    EXPECT_LE(far, tolerance()) << "minibatch " << minibatch;
  }
}

// A short last minibatch counts by its samples, also on workers that get none of it.
TEST(Identity, SyncWeighsWorkersBySamples) {
  Job job{.strategy = "sync", .budget = steps(6) + 1};
  PlainWorkers serial(job.problem, job.optimizer,
                      {.minibatch = world().workers() * world_minibatch, .budget = job.budget});
  while (serial.more()) serial.sync();
  EXPECT_LE(difference(serial.w[0], run(job).weights.data()), tolerance());
}

// However the global minibatch is shared out, the average is its gradient. Some workers have none of it.
TEST(Identity, UnequalSharesAreSerialSgd) {
  for (const auto& [strategy, settings] :
       std::map<std::string, std::map<std::string, Value>>{{"sync", {}}, {"topk", {{"density", 1.0}}}}) {
    Job job{.strategy = strategy, .settings = settings, .budget = steps(6) + 1};
    for (int k = 0; k < world().workers(); ++k) job.shares.push_back(k % 3 * k + (k == 0));
    PlainWorkers serial(job.problem, job.optimizer,
                        {.minibatch = world().workers() * world_minibatch, .budget = job.budget});
    while (serial.more()) serial.sync();
    const JobOutcome outcome = run(job);
    EXPECT_LE(difference(serial.w[0], outcome.weights.data()), strategy == "sync" ? tolerance() : rounding());
    std::array<std::int64_t, 1> samples{outcome.samples};
    world().sum(samples);
    EXPECT_EQ(samples[0], job.budget);
  }
}

TEST(Identity, AveragingEveryStepIsSync) {
  const OptimizerSettings sgd{.rule = Rule::sgd, .learning_rate = 0.5};
  EXPECT_LE(apart(run(same_order("averaging", sgd, {{"tau", integer(1)}})), run(same_order("sync", sgd))),
            tolerance());
}

TEST(Identity, AveragingEveryStepWithLocalMomentumIsSyncWithMomentum) {
  const OptimizerSettings momentum{.rule = Rule::momentum, .learning_rate = 0.25, .momentum = 0.5};
  const JobOutcome sync = run(same_order("sync", momentum));
  for (const auto& state : {"keep"s, "average"s})
    EXPECT_LE(apart(run(same_order("averaging", momentum, {{"tau", integer(1)}, {"state", state}})), sync),
              rounding())
        << state;
}

TEST(Identity, AveragingEveryStepWithMomentumResetIsPlainSync) {
  const OptimizerSettings momentum{.rule = Rule::momentum, .learning_rate = 0.5, .momentum = 0.5};
  const OptimizerSettings sgd{.rule = Rule::sgd, .learning_rate = 0.5};
  EXPECT_LE(apart(run(same_order("averaging", momentum, {{"tau", integer(1)}, {"state", "reset"s}})),
                  run(same_order("sync", sgd))),
            tolerance());
}

// Adagrad's state is not linear in the gradients: the means of squares are not the squares of means.
TEST(Identity, AveragingEveryStepWithAdagradIsNotSync) {
  const OptimizerSettings adagrad{.rule = Rule::adagrad, .learning_rate = 1};
  const JobOutcome sync = run(same_order("sync", adagrad));
  for (const auto& state : {"keep"s, "average"s, "reset"s}) {
    const JobOutcome averaging =
        run(same_order("averaging", adagrad, {{"tau", integer(1)}, {"state", state}}));
    if (world().workers() == 1 && state != "reset")
      EXPECT_EQ(averaging.weights, sync.weights);
    else
      EXPECT_GT(apart(averaging, sync), 0.01) << state;
  }
}

// Nor is Adam's, and two all-reduces, of one and two vectors, are what averaging it takes.
TEST(Identity, AveragingEveryStepWithAdamIsNotSync) {
  const OptimizerSettings adam{.rule = Rule::adam, .learning_rate = 0.5};
  const JobOutcome sync = run(same_order("sync", adam));
  for (const auto& state : {"keep"s, "average"s}) {
    const Job job = same_order("averaging", adam, {{"tau", integer(1)}, {"state", state}});
    const JobOutcome averaging = run(job);
    if (world().workers() == 1)
      EXPECT_EQ(averaging.weights, sync.weights);
    else
      EXPECT_GT(apart(averaging, sync), 0.001) << state;
    const Cost cost = job.entry().cost(job.chosen(), job.context(job.problem.n), 9);
    EXPECT_EQ(double(averaging.traffic.bytes_sent), cost.bytes_sent) << state;
    EXPECT_EQ(double(averaging.traffic.messages), cost.messages) << state;
  }
}

TEST(Identity, BmufWithoutBlockMomentumIsAveraging) {
  for (const auto rule : {Rule::sgd, Rule::momentum})
    for (const bool reset : {false, true})
      for (const auto& momentum : {"classic"s, "nesterov"s}) {
        Job bmuf{.strategy = "bmuf",
                 .optimizer = {.rule = rule, .learning_rate = 0.5, .momentum = 0.5},
                 .budget = steps(9)};
        Job averaging = bmuf;
        averaging.strategy = "averaging";
        averaging.settings = {{"tau", integer(3)}, {"state", reset ? "reset"s : "keep"s}};
        bmuf.settings = {{"block", integer(3)},
                         {"eta", 0.0},
                         {"zeta", 1.0},
                         {"momentum", momentum},
                         {"reset_local_momentum", reset}};
        EXPECT_LE(apart(run(bmuf), run(averaging)), rule == Rule::sgd ? tolerance() : rounding()) << momentum;
      }
}

// This worker's model after every step.
std::vector<std::vector<float>> path(const Job& job) {
  std::vector<std::vector<float>> models;
  run(job, [&](Worker& worker) { models.push_back(worker.replica.weights()); });
  return models;
}

TEST(Identity, EasgdWithoutElasticityIsWorkersOnTheirOwn) {
  for (const auto& optimizer : optimizers()) {
    Job easgd = twin_job("easgd_sync", optimizer), alone = twin_job("averaging", optimizer);
    easgd.settings = {{"tau", integer(2)}, {"beta", 0.0}};
    alone.settings = {{"tau", integer(1000)}};
    auto a = path(easgd), b = path(alone);
    a.pop_back(), b.pop_back();  // the last step of averaging ends in an average
    EXPECT_EQ(a, b) << "optimizer " << int(optimizer.rule);
  }
}

TEST(Identity, EamsgdWithoutMomentumIsEasgd) {
  const std::map<std::string, Value> settings{{"tau", integer(2)}, {"beta", 0.5}};
  Job easgd{.strategy = "easgd_sync", .settings = settings, .budget = steps(9)}, eamsgd = easgd;
  eamsgd.strategy = "eamsgd_sync";
  eamsgd.settings["delta"] = 0.0;
  EXPECT_EQ(path(easgd), path(eamsgd));
}

// One all-reduce of the models in every step, whatever the optimizer.
TEST(Identity, DpsgdOnTheCompleteGraphIsAveraging) {
  for (const auto& optimizer : optimizers()) {
    Job gossip = twin_job("dpsgd", optimizer), averaging = twin_job("averaging", optimizer);
    gossip.settings = {{"topology", "complete"s}, {"mix", "after"s}};
    averaging.settings = {{"tau", integer(1)}};
    EXPECT_EQ(path(gossip), path(averaging)) << "optimizer " << int(optimizer.rule);
  }
  const OptimizerSettings sgd{.rule = Rule::sgd, .learning_rate = 0.5};
  EXPECT_LE(apart(run(same_order("dpsgd", sgd, {{"topology", "complete"s}, {"mix", "after"s}})),
                  run(same_order("sync", sgd))),
            tolerance());
}

// Rows and columns of W add up to 1, and where all workers' losses have one curvature the mean of their
// gradients is the gradient at the mean: on any graph the mean of the models is that of sync.
TEST(Identity, MeanOfDpsgdIsSync) {
  const OptimizerSettings sgd{.rule = Rule::sgd, .learning_rate = 0.25};
  const JobOutcome sync = run(same_order("sync", sgd));
  const Doubles expected(sync.weights.begin(), sync.weights.end());
  for (const auto& topology : topologies)
    for (const auto& mix : {"before"s, "after"s}) {
      const JobOutcome gossip = run(same_order("dpsgd", sgd, {{"topology", topology}, {"mix", mix}}));
      EXPECT_LE(difference(expected, gossip.master.data()), rounding()) << topology << ", " << mix;
    }
}

// With equal gradients, what is apart along an eigenvector of W shrinks by its eigenvalue in every step.
TEST(Identity, DpsgdMixesAtItsSpectralGap) {
  const int P = world().workers();
  const double turn = 2 * std::numbers::pi / P, log2 = std::ceil(std::log2(P));
  struct Mode {
    std::string topology;
    double eigenvalue;
    std::function<double(int)> of;  // of worker k
  };
  std::vector<Mode> modes{{"complete", 0, [](int k) { return k % 2 ? -1 : 1; }}};
  if (P > 2)
    modes.push_back({"ring", (1 + 2 * std::cos(turn)) / 3, [&](int k) { return std::cos(turn * k); }});
  if (P % 2 == 0)
    modes.push_back({"exponential", (log2 - 1) / (log2 + 1), [](int k) { return k % 2 ? -1 : 1; }});
  for (const auto& [topology, eigenvalue, of] : modes) {
    if (P % 2 && topology == "complete") continue;  // not orthogonal to the mean
    Job job{.strategy = "dpsgd", .settings = {{"topology", topology}}, .budget = steps(6)};
    job.problem.slope = 1;
    Worker worker(job);
    fill(float(8 * of(world().rank())), worker.replica.w);
    for (int t = 1; worker.step(); ++t) {
      const Vec mean = worker.strategy->master(worker.replica);
      EXPECT_NEAR(worker.replica.w.data[0] - mean.data[0], 8 * of(world().rank()) * std::pow(eigenvalue, t),
                  1e-4)
          << topology << ", step " << t;
    }
    for (const auto& [name, value] : job.entry().effective(job.chosen(), job.context(13)))
      if (name == "spectral_gap") {
        EXPECT_NEAR(value, 1 - eigenvalue, 1e-9) << topology;
      }
  }
}

// So that a GPU can have both in one graph.
TEST(LocalSteps, AreGradientAndUpdateInOne) {
  const std::map<std::string, std::map<std::string, Value>> strategies{{"averaging", {}},
                                                                       {"bmuf", {}},
                                                                       {"slowmo", {}},
                                                                       {"diloco", {}},
                                                                       {"easgd_sync", {}},
                                                                       {"eamsgd_sync", {}},
                                                                       {"dpsgd", {{"mix", "after"s}}}};
  for (const auto& [strategy, settings] : strategies) {
    const Job job{.strategy = strategy, .settings = settings, .budget = steps(5)};
    run(job, [&](const Worker& worker) { EXPECT_EQ(worker.replica.descents, worker.replica.t) << strategy; });
  }
}

// All the way to the workers' mean in every step.
TEST(Master, OfEasgdIsTheCentre) {
  Job job{.strategy = "easgd_sync", .settings = {{"tau", integer(1)}, {"beta", 1.0}}, .budget = steps(6)};
  PlainWorkers twin(job.problem, job.optimizer, job.order_of(0));
  double far = 0;
  run(job, [&](Worker& worker) {
    const Doubles before = mean(twin.w);
    twin.easgd(1, 1);
    const Vec centre = worker.strategy->master(worker.replica);
    if (twin.more()) far = std::max(far, difference(before, centre.data));
    far = std::max(far, difference(twin.W, centre.data));
  });
  EXPECT_LE(far, rounding());
}

// Strategies whose mathematics is one, each with the settings that make it the other.
TEST(Identity, OuterLoopsAreEachOther) {
  struct Side {
    std::string strategy;
    std::map<std::string, Value> settings;
  };
  const Side averaging{"averaging", {{"tau", integer(3)}}},
      reset{"averaging", {{"tau", integer(3)}, {"state", "reset"s}}},
      momentum{"bmuf",
               {{"block", integer(3)},
                {"eta", 0.5},
                {"zeta", 0.5},
                {"momentum", "classic"s},
                {"reset_local_momentum", false}}};
  const std::vector<std::pair<Side, Side>> same{
      {averaging, {"slowmo", {{"tau", integer(3)}, {"beta", 0.0}, {"state", "keep"s}}}},
      {reset, {"slowmo", {{"tau", integer(3)}, {"beta", 0.0}}}},
      {averaging, {"diloco", {{"H", integer(3)}, {"outer_rate", 1.0}, {"outer_momentum", 0.0}}}},
      {averaging, {"diloco", {{"H", integer(3)}, {"outer_rate", 1.0}, {"outer", "sgd"s}}}},
      {momentum, {"slowmo", {{"tau", integer(3)}, {"alpha", 0.5}, {"beta", 0.5}, {"state", "keep"s}}}},
      {momentum,
       {"diloco",
        {{"H", integer(3)}, {"outer_rate", 0.5}, {"outer_momentum", 0.5}, {"outer", "momentum"s}}}}};
  for (const auto rule : {Rule::sgd, Rule::momentum})
    for (const auto& [a, b] : same) {
      const auto job = [&, r = rule](const Side& side) {
        return Job{.strategy = side.strategy,
                   .settings = side.settings,
                   .optimizer = {.rule = r, .learning_rate = 0.5, .momentum = 0.5},
                   .budget = steps(6)};
      };
      EXPECT_LE(apart(run(job(a)), run(job(b))), tolerance()) << a.strategy << " and " << b.strategy;
    }
}

// With a constant gradient every block moves worker k by v_k, whatever it starts from. After T blocks the
// model has moved by Delta_1 + ... + Delta_T, Delta_T = zeta * mean(v) * (1 - eta^T) / (1 - eta). Summing
// over the workers in place of the mean would show as a factor P, a look-ahead kept in the model as a factor
// 1 + eta.
TEST(Identity, BmufFollowsAConstantUpdate) {
  for (const auto& momentum : {"classic"s, "nesterov"s})
    for (const double eta : {0.5, -1.0}) {
      const int blocks = std::max(40, 10 * world().workers());  // until eta^T has vanished
      Job job{.strategy = "bmuf",
              .settings = {{"block", integer(2)}, {"eta", eta}, {"zeta", 0.5}, {"momentum", momentum}},
              .budget = steps(2 * blocks)};
      job.problem.slope = world().rank() + 1;
      const double used_eta = eta < 0 ? 1 - 1.0 / world().workers() : eta;
      const double mean_slope = (world().workers() + 1) / 2.0;
      Doubles expected(job.problem.n), last(job.problem.n), moved(job.problem.n);
      double factor = 0, far = 0, look_ahead = 0;
      int block = 0;
      const JobOutcome outcome = run(job, [&](Worker& worker) {
        if (worker.replica.t % 2) return;
        ++block;
        factor += (1 - std::pow(used_eta, block)) / (1 - used_eta);
        const Vec master = worker.strategy->master(worker.replica);
        for (std::size_t j = 0; j < expected.size(); ++j) {
          const double v = -0.5 * 2 * mean_slope * double(j + 1);
          expected[j] = 0.5 * v * factor;
          moved[j] = (master.data[j] - last[j]) / v;
          last[j] = master.data[j];
          const double delta = 0.5 * v * (1 - std::pow(used_eta, block)) / (1 - used_eta);
          const double start = expected[j] + (momentum == "nesterov" ? used_eta * delta : 0);
          far = std::max(far, std::abs(expected[j] - master.data[j]) / std::abs(expected[j]));
          look_ahead = std::max(look_ahead, std::abs(start - worker.replica.w.data[j]) / std::abs(start));
        }
      });
      EXPECT_LE(far, 1e-5) << momentum << ", eta " << eta;
      EXPECT_LE(look_ahead, 1e-5) << momentum << ", eta " << eta;
      for (const double steady : moved) EXPECT_NEAR(steady * (1 - used_eta) / 0.5, 1, 1e-3);
      EXPECT_TRUE(same_on_all_workers(outcome.weights));
    }
}

// What the model moves by in each block of a constant update v, in units of v, until 1 - 1/N to their number
// has vanished.
std::vector<double> bmuf_moves(std::map<std::string, Value> settings) {
  settings["block"] = integer(2);
  const int blocks = std::max(60, 10 * world().workers());
  Job job{.strategy = "bmuf", .settings = settings, .budget = steps(2 * blocks)};
  job.problem.slope = world().rank() + 1;
  const double v = -0.5 * 2 * (world().workers() + 1) / 2.0;  // rate * steps * mean slope, of element 0
  std::vector<double> moves;
  double last = 0;
  run(job, [&](Worker& worker) {
    if (worker.replica.t % 2) return;
    const double at = worker.strategy->master(worker.replica).data[0];
    moves.push_back((at - last) / v);
    last = at;
  });
  return moves;
}

double bmuf_fact(const std::map<std::string, Value>& settings, const std::string& wanted) {
  const Job job{.strategy = "bmuf", .settings = settings};
  for (const auto& [name, value] : job.entry().effective(job.chosen(), job.context(13)))
    if (name == wanted) return value;
  return NAN;
}

// CNTK's gain on the mean is N * (1 - eta) times fairseq's, from the first block on.
TEST(Identity, BmufOfCntkIsThatOfFairseqAtItsBlockMomentum) {
  const double N = world().workers();
  for (const auto& momentum : {"classic"s, "nesterov"s})
    for (const double eta : {-1.0, 0.5}) {
      const auto of = [&](const char* convention) {
        return bmuf_moves({{"momentum", momentum},
                           {"convention", std::string(convention)},
                           {"eta", eta},
                           {"force_gain", true}});
      };
      const auto paper = of("paper"), cntk = of("cntk"), fairseq = of("fairseq");
      const double times = eta < 0 ? 1 : N * (1 - eta);
      for (std::size_t i = 0; i < cntk.size(); ++i) {
        EXPECT_NEAR(cntk[i] / fairseq[i], times, 1e-3 * times) << momentum << ", block " << i;
        if (momentum == "classic") {
          EXPECT_NEAR(fairseq[i], paper[i], 1e-3 * N) << "block " << i;
        }
      }
    }
}

TEST(Identity, BmufOfCntkIsThePapersAtItsBlockMomentum) {
  for (const auto rule : {Rule::sgd, Rule::momentum}) {
    Job paper{.strategy = "bmuf",
              .settings = {{"block", integer(3)}, {"momentum", "classic"s}},
              .optimizer = {.rule = rule, .learning_rate = 0.5, .momentum = 0.5},
              .budget = steps(9)};
    Job cntk = paper;
    cntk.settings["convention"] = "cntk"s;
    EXPECT_LE(apart(run(paper), run(cntk)), tolerance());
  }
}

// What it says is what the model does.
TEST(Effective, BmufSaysItsGain) {
  const int workers = world().workers();
  EXPECT_DOUBLE_EQ(bmuf_fact({}, "eta"), 1 - 1.0 / workers);
  EXPECT_DOUBLE_EQ(bmuf_fact({}, "effective_gain"), workers);
  EXPECT_DOUBLE_EQ(bmuf_fact({{"eta", 0.75}, {"zeta", 0.5}}, "eta"), 0.75);
  EXPECT_DOUBLE_EQ(bmuf_fact({{"eta", 0.75}, {"zeta", 0.5}}, "effective_gain"), 2);
  EXPECT_DOUBLE_EQ(bmuf_fact({{"convention", "cntk"s}}, "effective_gain"), 2 * workers - 1);
  EXPECT_DOUBLE_EQ(bmuf_fact({{"convention", "fairseq"s}}, "effective_gain"), 2 * workers - 1);
  EXPECT_DOUBLE_EQ(bmuf_fact({{"convention", "fairseq"s}, {"eta", 0.5}, {"zeta", 0.5}}, "effective_gain"),
                   1.5);
  EXPECT_DOUBLE_EQ(bmuf_fact({{"convention", "cntk"s}, {"eta", 0.5}, {"zeta", 0.5}, {"force_gain", true}},
                             "effective_gain"),
                   0.75 * workers);
  EXPECT_EQ(bmuf_fact({}, "global_minibatch"), workers * world_minibatch);
  for (const auto& convention : {"paper"s, "cntk"s, "fairseq"s})
    for (const auto& momentum : {"classic"s, "nesterov"s})
      for (const double eta : {0.0, 0.5, -1.0}) {
        const std::map<std::string, Value> settings{{"convention", convention},
                                                    {"momentum", momentum},
                                                    {"eta", eta},
                                                    {"zeta", 0.75},
                                                    {"force_gain", true}};
        const double gain = bmuf_fact(settings, "effective_gain");
        EXPECT_NEAR(bmuf_moves(settings).back(), gain, 1e-3 * gain) << convention << momentum << eta;
      }
}

TEST(Effective, BmufRefusesAGainOutsideItsBand) {
  const double N = world().workers();
  const auto refused = [&](double zeta, bool forced = false) {
    try {
      bmuf_fact({{"eta", 0.0}, {"zeta", zeta}, {"force_gain", forced}}, "effective_gain");
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  EXPECT_TRUE(refused(0.49));
  EXPECT_FALSE(refused(0.5));
  EXPECT_FALSE(refused(2 * N));
  EXPECT_TRUE(refused(2.01 * N));
  EXPECT_FALSE(refused(2.01 * N, true));
  EXPECT_FALSE(refused(0.0, true));
}

// Who adds up changes messages, and no bit where arithmetic is exact.
TEST(Identity, TreesAndStarsAreAllReduce) {
  const OptimizerSettings sgd{.rule = Rule::sgd, .learning_rate = 0.5};
  const OptimizerSettings momentum{.rule = Rule::momentum, .learning_rate = 0.25, .momentum = 0.5};
  const int P = world().workers();
  for (const auto& strategy : {"sync"s, "averaging"s})
    for (const auto& optimizer : {sgd, momentum}) {
      std::map<std::string, Value> settings;
      if (strategy == "averaging") settings = {{"tau", integer(2)}, {"state", "average"s}};
      const JobOutcome all_reduce = run(same_order(strategy, optimizer, settings));
      for (const int depth : {0, 1, 2, 3}) {  // 0: star
        settings["aggregation"] = depth ? "tree"s : "star"s;
        settings["depth"] = integer(std::max(1, depth));
        const Job job = same_order(strategy, optimizer, settings);
        const JobOutcome tree = run(job);
        EXPECT_LE(apart(tree, all_reduce), optimizer.rule == Rule::sgd ? tolerance() : rounding());
        EXPECT_TRUE(same_on_all_workers(tree.weights));
        EXPECT_EQ(tree.traffic.synchronisations, all_reduce.traffic.synchronisations);
        const Cost cost = job.entry().cost(job.chosen(), job.context(13), tree.steps);
        EXPECT_EQ(double(tree.traffic.bytes_sent), cost.bytes_sent) << strategy << ", depth " << depth;
        EXPECT_EQ(double(tree.traffic.messages), cost.messages) << strategy << ", depth " << depth;
        // An edge for every worker but one, each way, whatever the tree.
        std::array<std::int64_t, 2> all{tree.traffic.bytes_sent, tree.traffic.bytes_received};
        world().sum(all);
        EXPECT_EQ(all[0], all[1]);
        if (strategy == "sync") {
          EXPECT_EQ(all[0], 9 * 2 * (P - 1) * 4 * 13) << "depth " << depth;
        }
      }
    }
}

// The average over a number of steps that is not a multiple of the period ends in one averaging more.
TEST(Effective, SynchronisationsAreCountedInPeriods) {
  for (const int count : {1, 5, 6, 7})
    for (const auto& [strategy, period] : std::map<std::string, std::string>{{"averaging", "tau"},
                                                                             {"bmuf", "block"},
                                                                             {"slowmo", "tau"},
                                                                             {"diloco", "H"},
                                                                             {"easgd_sync", "tau"}}) {
      const Job job{.strategy = strategy, .settings = {{period, integer(3)}}, .budget = steps(count)};
      EXPECT_EQ(run(job).traffic.synchronisations, (count + 2) / 3) << strategy << ", " << count << " steps";
    }
}

// The model that the paper reports: the mean of the replicas, also between two averagings.
TEST(Master, OfAveragingIsTheMeanOfTheReplicas) {
  Job job{.strategy = "averaging", .settings = {{"tau", integer(4)}}, .budget = steps(7)};
  PlainWorkers twin(job.problem, job.optimizer, job.order_of(0));
  double far = 0;
  run(job, [&](Worker& worker) {
    twin.averaging(4, "keep");
    far = std::max(far, difference(mean(twin.w), worker.strategy->master(worker.replica).data));
  });
  EXPECT_LE(far, tolerance());
}

}  // namespace
}  // namespace dsgd::test
