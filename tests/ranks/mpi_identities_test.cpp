// SPDX-License-Identifier: Apache-2.0
// Strategies at the settings at which their entries say that they are plain SGD (Identity in
// strategies/strategy.h), under every rule and option of the optimizer: against serial SGD in this process.
//   mpirun -n P mpi_identities_test              strategies of equal workers
//   mpirun -n P+S mpi_identities_test S          strategies with servers

#include <set>
#include <stdexcept>

#include "mpi_job.h"
#include "twins.h"

namespace dsgd::test {
namespace {

using Rule = OptimizerSettings::Rule;

bool fits(const Shape&) { return true; }

// The learners take turns: a pull is held back until the others' gradients have arrived.
class InTurn final : public dsgd::Rule {
 public:
  explicit InTurn(std::unique_ptr<dsgd::Rule> rule) : rule_(std::move(rule)) {}
  void apply(Vec w, const Arrival& a, std::int64_t used) override { rule_->apply(w, a, used); }
  double weight(std::int64_t tau) const override { return rule_->weight(tau); }
  int arrivals() const override { return rule_->arrivals(); }
  bool admit(int worker, std::int64_t used) const override {
    const int next = int(used / world_minibatch % world().workers());
    return next == worker || finished_.contains(next);
  }
  void sent(int worker, ConstVec w) override { rule_->sent(worker, w); }
  void finished(int worker) override { finished_.insert(worker); }

 private:
  std::set<int> finished_;
  std::unique_ptr<dsgd::Rule> rule_;
};

struct Chosen {
  std::string name;
  OptimizerSettings optimizer;
};
// Every rule, plain and with each option, and with all that go together. In a run of so many samples the
// schedules do something from beginning to end, and `clip` in the first steps, not in the last ones.
std::vector<Chosen> all_optimizers(std::int64_t budget) {
  const Schedule step{.kind = Schedule::Kind::step, .samples = budget / 3, .factor = 0.5};
  const Schedule warmup{.kind = Schedule::Kind::warmup, .samples = 3 * budget / 4, .factor = 0.25};
  const Schedule from_zero{.kind = Schedule::Kind::warmup, .samples = 2 * budget, .factor = 0};
  const Schedule stop{.kind = Schedule::Kind::step, .samples = 5 * budget / 6, .factor = 0};
  std::vector<Chosen> chosen;
  for (const std::string& rule : optimizer_rules()) {
    OptimizerSettings plain{.rule = optimizer_rule(rule), .learning_rate = 0.125, .momentum = 0.5};
    plain.initial_accumulator = 0.5;
    plain.epsilon = 0.125;
    plain.beta2 = 0.75;
    plain.trust = 0.25;
    const auto add = [&](const std::string& option, double l2, double clip, const Schedule& schedule) {
      OptimizerSettings with = plain;
      with.l2 = l2;
      with.clip = clip;
      with.schedule = schedule;
      chosen.push_back({rule + ", " + option, with});
    };
    add("plain", 0, 0, {});
    add("l2", 0.25, 0, {});
    add("clip", 0, 8, {});
    add("step", 0, 0, step);
    add("stop", 0, 0, stop);
    add("warmup", 0, 0, warmup);
    add("warmup from zero", 0, 0, from_zero);
    add("l2, clip, step", 0.25, 8, step);
  }
  return chosen;
}

// Serial SGD over the stream of samples.
std::vector<float> serial(const Job& job, int minibatch) {
  const std::size_t n = job.problem.n;
  Vector w(host_space(), n), g(host_space(), n);
  Optimizer optimizer(job.context(n).optimizer, host_space(), n);
  const Order order{.minibatch = minibatch, .budget = job.budget};
  for (std::int64_t used = 0; used < job.budget; used += order.global_count(used)) {
    job.problem.gradient(w.data(), order.lock_step(used), g.data());
    optimizer.step(w, g, 1.0 / double(order.global_count(used)), used);
  }
  return {w.data(), w.data() + n};
}

// Why a program does not make this run; empty: it does. experiment_test holds conflicts() against the same.
std::string refusal(const Job& job) {
  if (world().servers() > 1)
    if (const std::string key = needs_whole_vector(job.entry(), job.optimizer); !key.empty())
      return key + " with several servers";
  try {
    job.entry().effective(job.chosen(), job.context(job.problem.n));
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "";
}

bool linear(const OptimizerSettings& o) {
  return o.clip == 0 && (o.rule == Rule::sgd || o.rule == Rule::momentum || o.rule == Rule::nesterov);
}

struct PlainSgd : testing::TestWithParam<const StrategyEntry*> {
  static bool fits(const Identity& identity, const Shape& shape) {
    return identity.of != Identity::none && (identity.of != Identity::one_worker || shape.workers == 1);
  }
  static bool fits(const StrategyEntry& entry, const Shape& shape) {
    return bool(entry.make_rule) == (shape.servers > 0) &&
           std::any_of(entry.tests.identities.begin(), entry.tests.identities.end(),
                       [&](const Identity& identity) { return fits(identity, shape); });
  }
  static bool fits(const Shape& shape) { return fits(*GetParam(), shape); }
  static std::vector<const StrategyEntry*> all() {
    std::vector<const StrategyEntry*> entries;
    for (const StrategyEntry* entry : all_strategies())
      if (fits_any([&](const Shape& shape) { return fits(*entry, shape); })) entries.push_back(entry);
    return entries;
  }
};
std::string name_of(const testing::TestParamInfo<const StrategyEntry*>& info) { return info.param->name; }
INSTANTIATE_TEST_SUITE_P(Table, PlainSgd, testing::ValuesIn(PlainSgd::all()), name_of);

// Sums in another order: values are below 16.
double rounding() { return 2e-5 * std::max(1.0, world().workers() / 3.0); }

RANKS_TEST_P(PlainSgd, UnderEveryRuleAndOption) {
  const StrategyEntry& entry = *GetParam();
  const Shape shape{world().workers(), world().servers()};
  for (const Identity& identity : entry.tests.identities) {
    if (!fits(identity, shape)) continue;
    const bool together = identity.of == Identity::linear || identity.of == Identity::sync;
    Job job{.strategy = entry.name, .settings = identity.settings};
    job.problem.curved = true;
    // Whole steps where workers count alike, however many samples they have.
    job.budget =
        12 * world_minibatch * (together ? shape.workers : 1) + (identity.of == Identity::linear ? 0 : 2);
    if (together) job.order = "global";
    if (identity.of == Identity::in_turn) {
      job.order = "queue";
      job.wrap = [](std::unique_ptr<dsgd::Rule> rule) { return std::make_unique<InTurn>(std::move(rule)); };
    }
    for (const auto& [name, optimizer] : all_optimizers(job.budget)) {
      if (identity.of == Identity::linear && !linear(optimizer)) continue;
      job.optimizer = optimizer;
      if (!refusal(job).empty()) continue;
      const JobOutcome outcome = run(job);
      const std::vector<float> expected = serial(job, world_minibatch * (together ? shape.workers : 1));
      const double apart = difference(Doubles(expected.begin(), expected.end()), outcome.master.data());
      const bool sums = together && shape.workers > 1;  // in another order
      const bool norms = entry.clips_on_workers && optimizer.clip > 0 && optimizer.rule == Rule::lars;
      EXPECT_LE(apart, (identity.rounding + sums + norms) * rounding()) << entry.name << " with " << name;
      for (const Served& server : outcome.servers)
        EXPECT_TRUE(identity.of != Identity::in_turn || server.fresh == server.arrivals) << name;
    }
  }
}

// Otherwise an option that a strategy leaves out would not show.
TEST(Options, AllMakeADifference) {
  Job job{.strategy = "sync", .budget = 12 * world_minibatch + 2};
  job.problem.curved = true;
  std::set<std::vector<float>> ends;
  for (const auto& [name, optimizer] : all_optimizers(job.budget)) {
    if (optimizer.rule != job.optimizer.rule) ends.clear();
    job.optimizer = optimizer;
    const std::vector<float> end = serial(job, world_minibatch);
    EXPECT_LT(job.problem.distance(end.data()), 16) << name;
    for (const std::vector<float>& other : ends)
      EXPECT_GT(difference(Doubles(other.begin(), other.end()), end.data()), 20 * rounding()) << name;
    ends.insert(end);
  }
}

// No combination is left out but these.
TEST(Options, AreRefusedWhereTheyMeanNothing) {
  for (const StrategyEntry* entry : all_strategies()) {
    if (bool(entry->make_rule) != (world().servers() > 0)) continue;
    Job job{.strategy = entry->name, .settings = entry->tests.conformance};
    for (const auto& [name, optimizer] : all_optimizers(100)) {
      job.optimizer = optimizer;
      const bool own_rule =
          entry->name == "eamsgd" || entry->name == "eamsgd_sync" || entry->name == "sandblaster";
      const bool whole = optimizer.rule == Rule::lars || (optimizer.clip > 0 && entry->name != "downpour");
      const bool elastic = entry->name == "easgd" || entry->name == "eamsgd";
      const bool expected =
          (own_rule && optimizer.rule != Rule::sgd) ||
          ((entry->name == "sandblaster" || entry->name == "signsgd") && optimizer.clip > 0) ||
          (world().servers() > 1 && !elastic && whole);
      EXPECT_EQ(!refusal(job).empty(), expected) << entry->name << " with " << name << ": " << refusal(job);
    }
  }
}

}  // namespace
}  // namespace dsgd::test
