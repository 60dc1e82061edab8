// SPDX-License-Identifier: Apache-2.0
// The table of strategies, and the learners' side of the strategies with servers: several learners in this
// process, run in a scripted order against shards that answer at once, beside their plain twins.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <numbers>
#include <numeric>
#include <set>
#include <tuple>

#include "checkpoint.h"
#include "parts/lbfgs.h"
#include "quadratic.h"
#include "strategy.h"
#include "twins.h"
#include "uniform.h"

namespace dsgd::test {
namespace {

using namespace std::string_literals;
Value integer(int n) { return std::int64_t(n); }

// Known numbers: results of one seed are compared with older ones.
TEST(Random, DrawsWhatItAlwaysDrew) {
  EXPECT_EQ(uniform(1), 5673494 * 0x1p-24f);
  EXPECT_EQ(uniform(1, 2, 3), 3761028642379151 * 0x1p-53);
}

TEST(Table, IsComplete) {
  std::set<std::string> names;
  for (const StrategyEntry* entry : all_strategies()) {
    EXPECT_TRUE(names.insert(entry->name).second) << entry->name << " is there twice";
    EXPECT_EQ(find_strategy(entry->name), entry);
    EXPECT_FALSE(entry->summary.empty()) << entry->name;
    EXPECT_FALSE(entry->paper.empty()) << entry->name;
    EXPECT_EQ(entry->served(), bool(entry->make_rule)) << entry->name;
    EXPECT_TRUE(entry->make && entry->cost && entry->effective) << entry->name;
    EXPECT_TRUE(entry->data_order != DataOrder::queue || entry->served())
        << entry->name << " has nobody to ask for work";
    for (const Parameter& parameter : entry->parameters)
      EXPECT_FALSE(parameter.help.empty()) << parameter.name;
    // Unknown keys and values out of range throw.
    EXPECT_NO_THROW(Settings(entry->parameters, entry->tests.conformance)) << entry->name;
    EXPECT_FALSE(entry->tests.identities.empty())
        << entry->name << " does not say where it is plain SGD, or why nowhere (expected: .tests.identities)";
    for (const Identity& identity : entry->tests.identities) {
      EXPECT_NO_THROW(Settings(entry->parameters, identity.settings)) << entry->name;
      EXPECT_EQ(identity.of == Identity::none, !identity.why.empty()) << entry->name;
      EXPECT_TRUE(identity.of != Identity::none || entry->tests.identities.size() == 1) << entry->name;
      EXPECT_TRUE(identity.of != Identity::in_turn || entry->make_rule) << entry->name << " has no turns";
      EXPECT_TRUE((identity.of != Identity::linear && identity.of != Identity::sync) ||
                  !(entry->make_rule || entry->pairs()))
          << entry->name << " is not in lock-step";
    }
    EXPECT_NO_THROW(Settings(entry->parameters)) << entry->name;
  }
  EXPECT_EQ(find_strategy("no such strategy"), nullptr);
}

TEST(Table, CostsNothingForNothing) {
  const Context context{.parameters = 1000, .workers = 3, .servers = 2};
  for (const StrategyEntry* entry : all_strategies()) {
    const Settings settings(entry->parameters, entry->tests.conformance);
    const Cost none = entry->cost(settings, context, 0), many = entry->cost(settings, context, 1000);
    EXPECT_LE(none.bytes_sent, 64 * context.servers) << entry->name;  // a pull that finds the budget spent
    EXPECT_GT(many.bytes_sent, 0) << entry->name;
    EXPECT_GT(many.messages, 0) << entry->name;
  }
}

// The table of strategies/README.md. The counters of real runs are held against cost() by the tests under
// mpirun.
TEST(Table, CostsWhatTheReadmeSays) {
  const double n = 1000, P = 4, S = 2;
  const Context context{.parameters = 1000,
                        .workers = 4,
                        .servers = 2,
                        .optimizer = {.rule = OptimizerSettings::Rule::momentum}};
  const auto expect = [&](const std::string& name, const std::map<std::string, Value>& given, double T,
                          double reduces, double pulls, double pushes) {
    const StrategyEntry& entry = *find_strategy(name);
    const Cost cost = entry.cost(Settings(entry.parameters, given), context, std::int64_t(T));
    EXPECT_EQ(cost.bytes_sent, reduces * 8 * n * (P - 1) / P + pulls * 64 * S + pushes * (64 * S + 4 * n))
        << name << ", " << T << " steps";
    EXPECT_EQ(cost.messages, reduces + (pulls + pushes) * S) << name << ", " << T << " steps";
  };
  for (const double T : {0, 1, 2, 3, 4, 5, 6, 7, 100}) {
    const double third = std::ceil(T / 3), half = std::ceil(T / 2);
    expect("sync", {}, T, T, 0, 0);
    expect("averaging", {{"tau", integer(3)}}, T, third, 0, 0);
    expect("averaging", {{"tau", integer(3)}, {"state", "average"s}}, T, 2 * third, 0, 0);
    expect("averaging", {{"tau", integer(3)}, {"state", "reset"s}}, T, third, 0, 0);
    expect("bmuf", {{"block", integer(3)}}, T, third, 0, 0);
    expect("slowmo", {{"tau", integer(3)}}, T, third, 0, 0);
    expect("diloco", {{"H", integer(3)}}, T, third, 0, 0);
    expect("dpsgd", {{"topology", "complete"s}}, T, T, 0, 0);
    expect("staleness_aware", {}, T, 0, T + 1, T);
    for (const char* each_step : {"ssp", "dc_asgd", "fasgd"}) expect(each_step, {}, T, 0, T + 1, T);
    expect("sandblaster", {}, T, 0, 2 * T + 1, T);  // at most
    for (const char* name : {"easgd", "eamsgd"}) expect(name, {{"tau", integer(3)}}, T, 0, third + 1, third);
    for (const char* name : {"easgd_sync", "eamsgd_sync"})
      expect(name, {{"tau", integer(3)}}, T, third, 0, 0);
    // Pushes come after steps 0, 3, 6, ...; what was accrued since is pushed at the end.
    const double pushes = third + (T > 0 && std::fmod(T - 1, 3) != 0);
    expect("downpour", {{"n_fetch", integer(2)}, {"n_push", integer(3)}}, T, 0, half + 1, pushes);
    expect("downpour", {{"n_fetch", integer(2)}, {"n_push", integer(3)}, {"overlap", false}}, T, 0,
           std::floor(T / 2) + 1, pushes);
  }
}

// Of worker k, with F = 3 for 7 workers and two levels: {0, 1, 2}, {3, 4, 5}, {6}; {0, 3, 6}.
TEST(Aggregation, CostsWhatTheReadmeSays) {
  const StrategyEntry& entry = *find_strategy("sync");
  const auto sent = [&](const std::string& aggregation, int depth, int rank, int workers) {
    const Settings settings(entry.parameters, {{"aggregation", aggregation}, {"depth", integer(depth)}});
    const Cost cost = entry.cost(settings, {.parameters = 100, .workers = workers, .rank = rank}, 1);
    EXPECT_EQ(cost.bytes_sent, 400 * cost.messages);
    return cost.messages;
  };
  const double tree[] = {4, 1, 1, 3, 1, 1, 1};
  for (int k = 0; k < 7; ++k) {
    EXPECT_EQ(sent("tree", 2, k, 7), tree[k]) << k;
    EXPECT_EQ(sent("star", 2, k, 7), k ? 1 : 6) << k;
    EXPECT_EQ(sent("tree", 1, k, 7), k ? 1 : 6) << k;
  }
  EXPECT_EQ(sent("tree", 10, 0, 1024), 10);  // binary
  EXPECT_EQ(sent("tree", 2, 0, 1024), 62);
  EXPECT_EQ(sent("tree", 2, 0, 1), 0);
}

// With 4 workers and minibatches of 8.
TEST(Effective, IsWhatTheSettingsComeTo) {
  const std::vector<std::tuple<std::string, std::map<std::string, Value>, std::map<std::string, double>>>
      cases{
          {"sync", {}, {{"global_minibatch", 32}, {"period", 1}}},
          {"averaging", {{"tau", integer(6)}}, {{"global_minibatch", 32}, {"period", 6}}},
          {"downpour",
           {{"n_fetch", integer(2)}, {"n_push", integer(3)}},
           {{"global_minibatch", 24}, {"period", 2}}},
          {"staleness_aware", {{"n", integer(2)}}, {{"global_minibatch", 16}, {"arrivals_per_update", 2}}},
          {"ssp", {{"s", integer(2)}}, {{"global_minibatch", 8}, {"staleness_bound", 15}}},
          {"dc_asgd", {{"compensation", "adaptive"s}}, {{"global_minibatch", 8}, {"lambda", 2}}},
          {"dc_asgd", {{"compensation", "constant"s}}, {{"lambda", 0.04}}},
          {"dc_asgd", {{"lambda", 0.5}}, {{"lambda", 0.5}}},
          {"fasgd", {}, {{"global_minibatch", 8}, {"period", 1}}},
          {"easgd",
           {{"beta", 0.5}, {"tau", integer(7)}},
           {{"global_minibatch", 32}, {"period", 7}, {"alpha", 0.125}}},
          {"slowmo",
           {{"tau", integer(7)}, {"alpha", 0.5}, {"beta", 0.75}},
           {{"global_minibatch", 32}, {"period", 7}, {"effective_gain", 2}}},
          {"diloco",
           {{"H", integer(9)}, {"outer", "nesterov"s}, {"outer_rate", 0.5}, {"outer_momentum", 0.75}},
           {{"global_minibatch", 32}, {"period", 9}, {"effective_gain", 2}}},
          {"diloco",
           {{"outer", "sgd"s}, {"outer_rate", 0.5}, {"outer_momentum", 0.75}},
           {{"effective_gain", 0.5}}},
          {"topk", {}, {{"global_minibatch", 32}, {"period", 1}}},
          {"dpsgd", {}, {{"global_minibatch", 32}, {"period", 1}}},
          {"adpsgd", {}, {{"global_minibatch", 8}, {"period", 1}}},
          {"sandblaster",
           {{"batch", integer(500)}, {"portion", integer(3)}},
           {{"global_minibatch", 500}, {"period", 3}}},
      };
  for (const auto& [name, given, expected] : cases) {
    const StrategyEntry& entry = *find_strategy(name);
    const Facts facts =
        entry.effective(Settings(entry.parameters, given), {.workers = 4, .servers = 1, .minibatch = 8});
    for (const auto& [fact, value] : expected) {
      const auto said = std::find_if(facts.begin(), facts.end(),
                                     [&, &fact = fact](const auto& f) { return f.first == fact; });
      ASSERT_NE(said, facts.end()) << name << " " << fact;
      EXPECT_DOUBLE_EQ(said->second, value) << name << " " << fact;
    }
  }
}

TEST(Effective, EamsgdHasAMomentumOfItsOwn) {
  for (const char* name : {"eamsgd", "eamsgd_sync"})
    for (const auto rule : {OptimizerSettings::Rule::momentum, OptimizerSettings::Rule::adagrad}) {
      const StrategyEntry& entry = *find_strategy(name);
      EXPECT_THROW(entry.effective(Settings(entry.parameters), {.workers = 4, .optimizer = {.rule = rule}}),
                   std::invalid_argument)
          << name;
    }
}

TEST(Effective, SignsgdTakesNoClip) {
  const StrategyEntry& entry = *find_strategy("signsgd");
  EXPECT_THROW(entry.effective(Settings(entry.parameters), {.workers = 4, .optimizer = {.clip = 0.5}}),
               std::invalid_argument);
  EXPECT_NO_THROW(entry.effective(Settings(entry.parameters), {.workers = 4}));
}

// Of ring (Lian et al. 2017) and exponential graph (Ying et al. 2021, even P) in closed form.
TEST(Dpsgd, SaysItsSpectralGap) {
  const StrategyEntry& entry = *find_strategy("dpsgd");
  const auto gap = [&](const std::string& topology, int P) {
    for (const auto& [name, value] :
         entry.effective(Settings(entry.parameters, {{"topology", topology}}), {.workers = P}))
      if (name == "spectral_gap") return value;
    return double(NAN);
  };
  for (int P = 1; P <= 64; ++P) {
    const double ring = P > 3 ? 2 * (1 - std::cos(2 * std::numbers::pi / P)) / 3 : 1;
    EXPECT_NEAR(gap("ring", P), ring, 1e-12) << P;
    EXPECT_NEAR(gap("complete", P), 1, 1e-12) << P;
    const double exponential = P > 1 ? 2 / (1 + std::ceil(std::log2(P))) : 1;
    if (P == 1 || P % 2 == 0) {
      EXPECT_NEAR(gap("exponential", P), exponential, 1e-12) << P;
    } else {
      EXPECT_GT(gap("exponential", P), exponential) << P;
    }
  }
}

std::string* open_log = nullptr;
void log(const std::string& what) {
  if (open_log) *open_log += what + " ";
}

// One learner's view of shards in this process. Pulls are answered at once; a push waits for deliver() or, as
// messages keep their order, for the learner's next pull.
class LocalServer final : public ParameterServer {
 public:
  LocalServer(std::deque<Shard>& shards, int worker, int minibatch)
      : ParameterServer(shards[0].settings().workers),
        shards_(shards),
        worker_(worker),
        minibatch_(minibatch),
        versions_(shards.size()) {}

  void begin_pull(int minibatches) override {
    log("fetch");
    ask(minibatches, {.w = true, .least = minibatches ? 0 : used_});
    fetched_.clear();
    for (Shard& shard : shards_)
      fetched_.insert(fetched_.end(), shard.w().data, shard.w().data + shard.w().size);
    work_pulled_ = minibatches > 0;
  }
  void pull_work(int minibatches) override {
    log("ask");
    ask(minibatches, {.w = false});
    granted();
  }
  bool changed() const override { return pulled_ != used_; }
  ConstVec end_pull(Vec w) override {
    log("fetched");
    std::copy(fetched_.begin(), fetched_.end(), w.data);
    for (std::size_t s = 0; s < shards_.size(); ++s) versions_[s] = replies_[s].version;
    pulled_ = replies_[0].used;
    if (work_pulled_) granted();
    return w;
  }
  void push(float a, ConstVec g, std::int64_t samples, double number) override {
    log("push:" + std::to_string(samples));
    count_pushed(samples);
    Vector scaled(host_space(), g.size);
    axpy(a, g, scaled);
    pending_.push_back({std::move(scaled), samples, versions_, {used_, position_, number}});
  }
  void push_again(std::int64_t samples) override {
    log("again:" + std::to_string(samples));
    count_pushed(samples);
    pending_.push_back({Vector(), samples, {}, {}});
  }
  double number() const override { return number_; }
  bool deliver() {
    if (pending_.empty()) return false;
    const Push& push = pending_.front();
    std::size_t at = 0;
    for (std::size_t s = 0; s < shards_.size(); ++s) {
      const std::size_t count = shards_[s].w().size;
      if (push.g.size())
        shards_[s].push(worker_, push.versions[s], push.samples, push.g.view().part(at, count), push.from);
      else
        shards_[s].push_again(worker_, push.samples);
      at += count;
    }
    pending_.pop_front();
    return true;
  }
  Portion take(int count) override {
    if (granted_.empty()) {
      count_taken(0);
      return {};
    }
    Portion& first = granted_.front();
    const Portion taken{first.position, std::min(count, first.count)};
    count_taken(taken.count);
    first.position += taken.count;
    first.count -= taken.count;
    if (first.count == 0) granted_.pop_front();
    return taken;
  }
  void leave(bool early) override {
    for (Shard& shard : shards_)
      if (early)
        shard.leave(worker_);
      else
        shard.finish(worker_);
  }

 private:
  struct Push {
    Vector g;
    std::int64_t samples;
    std::vector<std::int64_t> versions;
    Shard::Origin from;
  };
  void ask(int minibatches, Shard::What what) {
    if (minibatches > 0) count_asked();
    while (deliver()) {
    }
    replies_.clear();
    for (Shard& shard : shards_)
      replies_.push_back(shard.pull(worker_, std::int64_t(minibatches) * minibatch_, what).value());
  }
  void granted() {
    used_ = replies_[0].used;
    count_granted(used_);
    position_ = replies_[0].position;
    if (replies_[0].granted) granted_.push_back({position_, int(replies_[0].granted)});
    number_ = 0;
    double n = 0;
    for (std::size_t s = 0; s < shards_.size(); ++s) {
      number_ += replies_[s].number * double(shards_[s].w().size);
      n += double(shards_[s].w().size);
    }
    number_ /= n;
  }
  std::deque<Shard>& shards_;
  int worker_, minibatch_;
  std::vector<std::int64_t> versions_;
  std::deque<Push> pending_;
  std::deque<Portion> granted_;
  std::vector<Shard::Reply> replies_;
  std::vector<float> fetched_;
  std::int64_t used_ = 0, position_ = 0, pulled_ = -1;
  double number_ = 0;
  bool work_pulled_ = false;
};

class LoggedReplica final : public QuadraticReplica {
 public:
  using QuadraticReplica::QuadraticReplica;
  Loss gradient(ConstVec at, const Batch& batch, Vec into) override {
    log("gradient");
    return QuadraticReplica::gradient(at, batch, into);
  }
};

// A rule that can be replaced while its shard lives.
struct ReplaceableRule final : Rule {
  explicit ReplaceableRule(std::function<std::unique_ptr<Rule>()> how) : make(how), rule(make()) {}
  void apply(Vec w, const Arrival& a, std::int64_t used) override { rule->apply(w, a, used); }
  double weight(std::int64_t tau) const override { return rule->weight(tau); }
  int arrivals() const override { return rule->arrivals(); }
  bool admit(int worker, std::int64_t used) const override { return rule->admit(worker, used); }
  void sent(int worker, ConstVec w) override { rule->sent(worker, w); }
  void left(int worker) override { rule->left(worker); }
  void finished(int worker) override { rule->finished(worker); }
  std::int64_t batch() const override { return rule->batch(); }
  bool same_batch() const override { return rule->same_batch(); }
  int backups() const override { return rule->backups(); }
  bool repeats() const override { return rule->repeats(); }
  double number() const override { return rule->number(); }
  Vec master(Vec w) override { return rule->master(w); }
  std::function<std::unique_ptr<Rule>()> make;
  std::unique_ptr<Rule> rule;
};

// Learners and servers of one strategy.
struct Cluster {
  Cluster(const std::string& strategy, const std::map<std::string, Value>& given,
          const OptimizerSettings& optimizer, int workers, int servers, std::int64_t budget,
          std::string order = {})
      : entry(*find_strategy(strategy)), settings(entry.parameters, given), w(host_space(), problem.n) {
    problem.curved = true;
    if (order.empty()) order = to_string(entry.data_order);
    Context context{.space = &host_space(),
                    .workers = workers,
                    .servers = servers,
                    .minibatch = minibatch,
                    .optimizer = optimizer};
    for (int s = 0; s < servers; ++s) {
      const ShardRange part = shard_range(problem.n, s, servers);
      context.parameters = part.count;
      rules.emplace_back([this, context] { return entry.make_rule(settings, context); });
      shards.emplace_back(
          Shard::Options{.workers = workers, .minibatch = minibatch, .budget = budget, .first = s == 0},
          rules.back(), w.view().part(part.first, part.count));
    }
    context.parameters = problem.n;
    for (int k = 0; k < workers; ++k) {
      local.push_back(std::make_unique<LocalServer>(shards, k, minibatch));
      context.server = local.back().get();
      context.rank = k;
      contexts.push_back(context);
      learners.push_back(entry.make(settings, context));
      replicas.push_back(std::make_unique<LoggedReplica>(problem, Order{order, k, workers, minibatch, budget},
                                                         local.back().get()));
    }
  }
  bool step(int k) { return replicas[k]->step(*learners[k]); }
  void deliver(int k) { local[k]->deliver(); }
  // Whether learner k, all of whose pushes arrive now, would have to wait for its next pull.
  bool held(int k) {
    while (local[k]->deliver()) {
    }
    return std::any_of(shards.begin(), shards.end(),
                       [&, s = 0](const Shard& shard) mutable { return !rules[s++].admit(k, shard.used()); });
  }
  // New learners and rules go on from a checkpoint of the old ones. Messages, shards and replicas stay.
  void restart() {
    for (std::size_t k = 0; k < learners.size(); ++k) {
      auto fresh = entry.make(settings, contexts[k]);
      carry_over(*learners[k], *fresh);
      learners[k] = std::move(fresh);
    }
    for (ReplaceableRule& rule : rules) {
      auto fresh = rule.make();
      carry_over(*rule.rule, *fresh);
      rule.rule = std::move(fresh);
    }
  }

  static constexpr int minibatch = 4;
  const StrategyEntry& entry;
  Settings settings;
  Quadratic problem;
  Vector w;
  std::deque<ReplaceableRule> rules;
  std::vector<Context> contexts;  // of the learners
  std::deque<Shard> shards;
  std::vector<std::unique_ptr<LocalServer>> local;
  std::vector<std::unique_ptr<Strategy>> learners;
  std::vector<std::unique_ptr<LoggedReplica>> replicas;
};

// The servers once more: one vector, sums of c arrivals, factors by staleness.
struct PlainServer {
  PlainServer(const OptimizerSettings& settings, std::size_t n, int arrivals = 1,
              const std::string& how = "none")
      : w(n), sum(n), optimizer(settings, n), c(arrivals), modulation(how) {}
  void push(const Doubles& g, std::int64_t samples, std::int64_t at_version, double terms = 1) {
    const auto tau = double(version - at_version);
    ++staleness[version - at_version];
    double alpha = 1;
    if (modulation == "inverse" && tau > 0) alpha = 1 / tau;
    if (modulation == "inverse_plus_one") alpha = 1 / (tau + 1);
    sum += (alpha / c) * g;
    waiting += samples;
    if (++arrived < c) return;
    optimizer.step(w, sum, double(used), terms);
    used += waiting;
    ++version;
    arrived = 0;
    waiting = 0;
    sum.assign(sum.size(), 0);
  }
  Doubles w, sum;
  PlainOptimizer optimizer;
  int c, arrived = 0;
  std::string modulation;
  std::int64_t version = 0, used = 0, waiting = 0;
  std::map<std::int64_t, std::int64_t> staleness;
};

// What a worker that has done `own` samples before this step takes all `workers` to have done: what was in
// the servers' vector that it fetched, and as many as its own that were not on their way there by then.
struct PlainUsed {
  double now(std::int64_t own) const { return double(fetched + workers * (own - pushed_before)); }
  void fetch(std::int64_t used) { fetched = used, pushed_before = pushed; }
  int workers;
  std::int64_t fetched = 0, pushed = 0, pushed_before = 0;
};

// Dean et al. 2012, algorithm 1.1; with `overlap` the gradient is of the parameters before the fetch. Each
// gradient is clipped, and the local step is the optimizer's.
struct PlainDownpour {
  struct Push {
    Doubles accrued;
    std::int64_t samples, version, gradients;
  };
  void step(PlainServer& server, const Quadratic& problem, const Order& order) {
    const bool fetch = t % n_fetch == 0;
    Doubles fetched;
    std::int64_t fetched_version = 0;
    if (fetch) {
      for (; !travelling.empty(); travelling.pop_front()) arrive(server);
      fetched = server.w, fetched_version = server.version;
      used.fetch(server.used);
    }
    const auto take = [&] { parameters = fetched, version = fetched_version; };
    if (fetch && (!overlap || t == 0)) take();
    Doubles gradient(problem.n);
    problem.gradient(parameters.data(), order.own(4 * t, 4), gradient.data());
    gradient = 0.25 * gradient;
    const double length = PlainOptimizer::norm(gradient, 0, problem.n);
    if (clip > 0 && length > clip) gradient = (clip / length) * gradient;
    accrued = accrued.empty() ? gradient : accrued + gradient;
    samples += 4;
    if (t % n_push == 0) {
      travelling.push_back({accrued, samples, version, samples / 4});
      accrued.clear();
      used.pushed += samples;
      samples = 0;
    }
    if (fetch && overlap) take();
    local.step(parameters, gradient, used.now(4 * t));
    ++t;
  }
  void arrive(PlainServer& server) const {
    const Push& push = travelling.front();
    server.push(push.accrued, push.samples, push.version, double(push.gradients));
  }
  const Doubles& model() const { return parameters; }
  int n_fetch, n_push;
  bool overlap;
  double clip;
  PlainOptimizer local;
  PlainUsed used;
  Doubles parameters = {}, accrued = {};
  std::int64_t samples = 0, version = 0, t = 0;
  std::deque<Push> travelling = {};
};

// Zhang, Choromanska, LeCun 2015, algorithms 1 and 2: the servers add what is pushed. v is as long as the
// rate of the step makes it.
struct PlainElastic {
  struct Push {
    Doubles d;
    std::int64_t samples, version;
  };
  void step(PlainServer& centre, const Quadratic& problem, const Order& order) {
    if (t % tau == 0) {
      for (; !travelling.empty(); travelling.pop_front()) arrive(centre);
      used.fetch(centre.used);
    }
    if (t == 0) x = centre.w;
    Doubles d(problem.n);
    if (t > 0 && t % tau == 0) {
      d = alpha * (x - centre.w);
      travelling.push_back({d, samples, centre.version});
      used.pushed += samples;
      samples = 0;
    }
    Doubles g(problem.n);
    const double rate = local.rate(used.now(4 * t));
    const Doubles at = ahead ? x + -rate * local.s.momentum * local.state : x;
    problem.gradient(at.data(), order.own(4 * t, 4), g.data());
    const double length = PlainOptimizer::norm(0.25 * g, 0, problem.n);
    const double share = clip > 0 && length > clip ? clip / length : 1;
    local.step(x, share * 0.25 * g + l2 * at, used.now(4 * t));
    x += -1 * d;
    samples += 4;
    ++t;
  }
  void arrive(PlainServer& centre) const {
    const Push& push = travelling.front();
    centre.w += push.d;
    ++centre.staleness[centre.version++ - push.version];
    centre.used += push.samples;
  }
  const Doubles& model() const { return x; }
  int tau;
  double alpha;
  bool ahead;  // eamsgd
  double l2, clip;
  PlainOptimizer local;
  PlainUsed used;
  Doubles x = {};
  std::int64_t t = 0, samples = 0;
  std::deque<Push> travelling = {};
};

// Who does what next, drawn from a generator that is the same everywhere.
class Dice {
 public:
  int roll(int sides) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return int((state_ >> 33) % std::uint64_t(sides));
  }

 private:
  std::uint64_t state_ = 1;
};

void expect_same_staleness(const Shard& shard, const PlainServer& plain) {
  for (std::size_t tau = 0; tau < shard.staleness().size(); ++tau) {
    const auto found = plain.staleness.find(std::int64_t(tau));
    EXPECT_EQ(shard.staleness()[tau], found == plain.staleness.end() ? 0 : found->second) << "tau " << tau;
  }
  EXPECT_GE(shard.staleness().size(), std::size_t(plain.staleness.rbegin()->first) + 1);
}

// float32 against double at values below 16, over 200 events.
constexpr double rounding = 2e-5;

// Steps of workers and arrivals of what they pushed, in any order: how far the models of workers and servers
// ever are from the twins'.
template <typename Worker>
double farthest(Cluster& cluster, std::vector<Worker>& twins, PlainServer& server) {
  const int workers = int(twins.size());
  Dice dice;
  double far = 0;
  for (int event = 0; event < 200; ++event) {
    const int k = dice.roll(workers);
    Worker& twin = twins[k];
    if (dice.roll(3) > 0) {
      EXPECT_TRUE(cluster.step(k));
      twin.step(server, cluster.problem, {"shard", k, workers, 4});
      far = std::max(far, difference(twin.model(), cluster.replicas[k]->w.data));
    } else {
      cluster.deliver(k);
      if (twin.travelling.empty()) continue;
      twin.arrive(server);
      twin.travelling.pop_front();
    }
    far = std::max(far, difference(server.w, cluster.w.data()));
  }
  return far;
}

std::vector<OptimizerSettings> server_optimizers() {
  using Rule = OptimizerSettings::Rule;
  return {{.rule = Rule::sgd,
           .learning_rate = 1.0 / 32,
           .schedule = {.kind = Schedule::Kind::step, .samples = 150, .factor = 0.5}},
          {.rule = Rule::adagrad, .learning_rate = 0.5, .initial_accumulator = 0.5, .epsilon = 0.125},
          {.rule = Rule::momentum, .learning_rate = 1.0 / 64, .momentum = 0.5},
          {.rule = Rule::adam, .learning_rate = 0.25, .momentum = 0.5, .epsilon = 0.125, .beta2 = 0.75}};
}

TEST(Twin, Downpour) {
  using Rule = OptimizerSettings::Rule;
  std::vector<OptimizerSettings> optimizers = server_optimizers();
  optimizers.push_back({.rule = Rule::sgd, .learning_rate = 1.0 / 32, .l2 = 0.125, .clip = 8});
  optimizers.push_back(
      {.rule = Rule::nesterov, .learning_rate = 1.0 / 64, .momentum = 0.5, .l2 = 0.125, .clip = 8});
  optimizers.push_back(
      {.rule = Rule::adamw, .learning_rate = 0.25, .l2 = 0.125, .epsilon = 0.125, .clip = 8});
  for (const auto& optimizer : optimizers)
    for (const int workers : {1, 2, 3, 5})
      for (const auto& [n_fetch, n_push] : std::vector<std::pair<int, int>>{{1, 1}, {2, 3}, {5, 1}, {3, 3}})
        for (const bool overlap : {false, true}) {
          const double alpha = 1.0 / 16;
          Cluster cluster("downpour",
                          {{"n_fetch", integer(n_fetch)},
                           {"n_push", integer(n_push)},
                           {"overlap", overlap},
                           {"local_learning_rate", alpha}},
                          optimizer, workers, 2, 1 << 20);
          OptimizerSettings at_servers = optimizer;
          at_servers.clip = 0;
          PlainServer plain(at_servers, cluster.problem.n);
          OptimizerSettings local = at_servers;
          local.learning_rate = alpha;
          std::vector<PlainDownpour> twins(
              workers, {n_fetch, n_push, overlap, optimizer.clip, {local, cluster.problem.n}, {workers}});
          EXPECT_LE(farthest(cluster, twins, plain), rounding)
              << workers << " workers, n_fetch " << n_fetch << ", n_push " << n_push
              << (overlap ? ", overlap" : "") << ", optimizer " << int(optimizer.rule);
          for (const Shard& shard : cluster.shards) expect_same_staleness(shard, plain);
          EXPECT_EQ(cluster.shards[0].used(), plain.used);
        }
}

TEST(Twin, Easgd) {
  using Rule = OptimizerSettings::Rule;
  const double beta = 0.75;
  const Schedule warmup{.kind = Schedule::Kind::warmup, .samples = 300, .factor = 0};
  std::vector<OptimizerSettings> optimizers = server_optimizers();
  optimizers.push_back({.learning_rate = 1.0 / 16});
  optimizers.push_back({.learning_rate = 1.0 / 16, .l2 = 0.125, .clip = 8, .schedule = warmup});
  for (const auto& optimizer : optimizers)
    for (const int workers : {1, 2, 3, 5})
      for (const int tau : {1, 2, 5})
        for (const double delta : {-1.0, 0.5}) {  // negative: easgd
          OptimizerSettings local = optimizer;
          local.l2 = local.clip = 0;  // the twin's
          std::map<std::string, Value> settings{{"tau", integer(tau)}, {"beta", beta}};
          if (delta >= 0) {
            if (local.rule != Rule::sgd) continue;
            settings["delta"] = delta;
            local.rule = Rule::momentum;
            local.momentum = delta;
          }
          Cluster cluster(delta < 0 ? "easgd" : "eamsgd", settings, optimizer, workers, 3, 1 << 20);
          PlainServer centre({}, cluster.problem.n);
          std::vector<PlainElastic> twins(workers, {tau,
                                                    beta / workers,
                                                    delta >= 0,
                                                    optimizer.l2,
                                                    optimizer.clip,
                                                    {local, cluster.problem.n},
                                                    {workers}});
          EXPECT_LE(farthest(cluster, twins, centre), rounding)
              << workers << " workers, tau " << tau << ", delta " << delta << ", optimizer "
              << int(optimizer.rule);
          for (const Shard& shard : cluster.shards) expect_same_staleness(shard, centre);
          EXPECT_EQ(cluster.shards[0].used(), centre.used);
        }
}

// Learners that pull, compute and push in every step, in an order drawn by dice, beside a plain server that
// is told of every pull and answers pushes: the largest distance on the way.
template <typename Plain>
double against_pull_push_twin(Cluster& cluster, Plain& plain) {
  struct Push {
    Doubles g;
    std::int64_t version;
  };
  const int workers = int(cluster.learners.size());
  std::vector<std::deque<Push>> travelling(workers);
  std::vector<std::int64_t> steps(workers);
  const auto arrive = [&](int k) {
    if (travelling[k].empty()) return;
    plain.arrive(k, travelling[k].front().g, travelling[k].front().version);
    travelling[k].pop_front();
  };
  const bool queue = cluster.entry.data_order == DataOrder::queue;
  std::int64_t position = 0;
  Dice dice;
  double far = 0;
  for (int event = 0; event < 200; ++event) {
    const int k = dice.roll(workers);
    if (dice.roll(3) > 0) {
      arrive(k);
      EXPECT_EQ(cluster.held(k), plain.held(k));
      if (plain.held(k)) continue;
      EXPECT_TRUE(cluster.step(k));
      plain.sent(k);
      Doubles g(cluster.problem.n);
      const Order order{"", k, workers, 4, 1 << 20};
      cluster.problem.gradient(plain.w.data(), queue ? order.stream(position, 4) : order.own(4 * steps[k], 4),
                               g.data());
      position += 4;
      ++steps[k];
      travelling[k].push_back({0.25 * g, plain.version});
    } else {
      cluster.deliver(k);
      arrive(k);
    }
    far = std::max(far, difference(plain.w, cluster.w.data()));
  }
  for (const Shard& shard : cluster.shards) expect_same_staleness(shard, plain);
  EXPECT_EQ(cluster.shards[0].used(), plain.used);
  return far;
}

struct PlainPullPush : PlainServer {
  using PlainServer::PlainServer;
  void arrive(int, const Doubles& g, std::int64_t at_version) { push(g, 4, at_version); }
  bool held(int) const { return false; }
  void sent(int) {}
};

TEST(Twin, StalenessAware) {
  for (const auto& optimizer : server_optimizers())
    for (const int workers : {1, 2, 3, 5})
      for (int n = 1; n <= workers; ++n)
        for (const auto& modulation : {"none"s, "inverse"s, "inverse_plus_one"s}) {
          Cluster cluster("staleness_aware", {{"n", integer(n)}, {"modulation", modulation}}, optimizer,
                          workers, 3, 1 << 20);
          PlainPullPush plain(optimizer, cluster.problem.n, workers / n, modulation);
          EXPECT_LE(against_pull_push_twin(cluster, plain), rounding)
              << workers << " workers, n " << n << ", " << modulation << ", optimizer "
              << int(optimizer.rule);
        }
}

// Ho et al. 2013: whoever is more than s updates ahead of the last one waits.
struct PlainSsp : PlainPullPush {
  PlainSsp(const OptimizerSettings& settings, std::size_t n, int workers, int bound)
      : PlainPullPush(settings, n), clock(workers), s(bound) {}
  void arrive(int k, const Doubles& g, std::int64_t at_version) {
    push(g, 4, at_version);
    ++clock[k];
  }
  bool held(int k) const {
    for (const int other : clock)
      if (clock[k] - other > s) return true;
    return false;
  }
  std::vector<int> clock;
  int s;
};

TEST(Twin, Ssp) {
  for (const auto& optimizer : server_optimizers())
    for (const int workers : {1, 2, 3, 5})
      for (const int s : {0, 1, 3}) {
        Cluster cluster("ssp", {{"s", integer(s)}}, optimizer, workers, 3, 1 << 20);
        PlainSsp plain(optimizer, cluster.problem.n, workers, s);
        EXPECT_LE(against_pull_push_twin(cluster, plain), rounding)
            << workers << " workers, s " << s << ", optimizer " << int(optimizer.rule);
        EXPECT_LE(plain.staleness.rbegin()->first, (workers - 1) * (2 * s + 1));
      }
}

// Zheng et al. 2017: g + lambda * g * g * (w - what the worker was sent).
struct PlainDcAsgd : PlainPullPush {
  PlainDcAsgd(const OptimizerSettings& settings, std::size_t n, int workers, bool grows, double strength)
      : PlainPullPush(settings, n), sent_to(workers), square(n), adaptive(grows), lambda(strength) {}
  void sent(int k) { sent_to[k] = w; }
  void arrive(int k, Doubles g, std::int64_t at_version) {
    for (std::size_t j = 0; j < g.size(); ++j) {
      square[j] = 0.75 * square[j] + 0.25 * g[j] * g[j];
      const double factor = adaptive ? lambda / std::sqrt(square[j] + 0.125) : lambda;
      g[j] += factor * g[j] * g[j] * (w[j] - sent_to[k][j]);
    }
    push(g, 4, at_version);
  }
  std::vector<Doubles> sent_to;
  Doubles square;
  bool adaptive;
  double lambda;
};

TEST(Twin, DcAsgd) {
  for (const auto& optimizer : server_optimizers())
    for (const int workers : {1, 2, 3, 5})
      for (const bool adaptive : {false, true}) {
        Cluster cluster("dc_asgd",
                        {{"compensation", adaptive ? "adaptive"s : "constant"s},
                         {"lambda", 1.0 / 16},
                         {"m", 0.75},
                         {"epsilon", 0.125}},
                        optimizer, workers, 3, 1 << 20);
        PlainDcAsgd plain(optimizer, cluster.problem.n, workers, adaptive, 1.0 / 16);
        EXPECT_LE(against_pull_push_twin(cluster, plain), rounding)
            << workers << " workers, " << (adaptive ? "adaptive" : "constant") << ", optimizer "
            << int(optimizer.rule);
      }
}

// Odena 2016, in the three forms.
struct PlainFasgd : PlainPullPush {
  PlainFasgd(const OptimizerSettings& settings, std::size_t size, const std::string& form)
      : PlainPullPush(settings, size), n(size), b(size), v(size, 1), variant(form) {}
  void arrive(int, Doubles g, std::int64_t at_version) {
    const auto tau = double(version - at_version);
    for (std::size_t j = 0; j < g.size(); ++j) {
      if (variant == "released") {
        n[j] = 0.9 * n[j] + 0.1 * std::abs(g[j]);
        g[j] /= (n[j] + 0.001) * (tau + 1);
        continue;
      }
      n[j] = 0.75 * n[j] + 0.25 * g[j] * g[j];
      b[j] = 0.75 * b[j] + 0.25 * g[j];
      const double deviation = std::sqrt(n[j] - b[j] * b[j] + 0.25);
      v[j] = 0.5 * v[j] + 0.5 * (variant == "printed" ? 1 / deviation : deviation);
      g[j] /= v[j] * (tau == 0 ? 1 : tau);
    }
    push(g, 4, at_version);
  }
  Doubles n, b, v;
  std::string variant;
};

TEST(Twin, Fasgd) {
  for (const auto& optimizer : server_optimizers())
    for (const int workers : {1, 2, 3, 5})
      for (const auto& variant : {"intended"s, "printed"s, "released"s}) {
        Cluster cluster("fasgd", {{"variant", variant}, {"gamma", 0.75}, {"beta", 0.5}, {"epsilon", 0.25}},
                        optimizer, workers, 3, 1 << 20);
        PlainFasgd plain(optimizer, cluster.problem.n, variant);
        EXPECT_LE(against_pull_push_twin(cluster, plain), rounding)
            << workers << " workers, " << variant << ", optimizer " << int(optimizer.rule);
      }
}

// B-FASGD: fetches and pushes are left out with probability 1 - 1 / (1 + c / (mean v + 1e-4)), with the mean
// that the learner was told last; the servers then take its last gradient again, as old as that one is.
TEST(Twin, BFasgd) {
  for (const int workers : {1, 2, 3, 5})
    for (const auto& [c_fetch, c_push] : std::vector<std::pair<double, double>>{{1, 0}, {0, 1}, {0.5, 2}}) {
      const OptimizerSettings sgd{.learning_rate = 1.0 / 64};
      Cluster cluster(
          "fasgd",
          {{"gamma", 0.75}, {"beta", 0.5}, {"epsilon", 0.25}, {"c_fetch", c_fetch}, {"c_push", c_push}}, sgd,
          workers, 3, 1 << 20);
      PlainFasgd plain(sgd, cluster.problem.n, "intended");
      struct Push {
        Doubles g;  // none: the last one again
        std::int64_t version;
      };
      struct Learner {
        Doubles w, cached;
        std::int64_t version = 0, pushed = 0, t = 0;
        double told = 0;
        std::deque<Push> travelling = {};
      };
      std::vector<Learner> learners(workers);
      const auto arrive = [&](int k) {
        Learner& l = learners[k];
        if (l.travelling.empty()) return;
        if (!l.travelling.front().g.empty()) l.cached = l.travelling.front().g;
        plain.arrive(k, l.cached, l.travelling.front().version);
        l.travelling.pop_front();
      };
      std::int64_t position = 0, left_out = 0;
      Dice dice;
      double far = 0;
      for (int event = 0; event < 200; ++event) {
        const int k = dice.roll(workers);
        Learner& l = learners[k];
        if (dice.roll(3) == 0) {
          cluster.deliver(k);
          arrive(k);
        } else {
          const auto opens = [&](double c, std::int64_t draw) {
            const bool open =
                uniform(1, ~std::uint64_t(k), std::uint64_t(draw)) < 1 / (1 + c / (l.told + 1e-4));
            left_out += !open;
            return open;
          };
          const bool fetch = l.t == 0 || opens(c_fetch, 2 * l.t);
          while (!l.travelling.empty()) arrive(k);
          if (fetch) l.w = plain.w, l.version = plain.version;
          l.told = std::accumulate(plain.v.begin(), plain.v.end(), 0.0) / double(plain.v.size());
          Doubles g(cluster.problem.n);
          cluster.problem.gradient(l.w.data(), Order().stream(position, 4), g.data());
          position += 4;
          if (l.t == 0 || opens(c_push, 2 * l.t + 1))
            l.travelling.push_back({0.25 * g, l.pushed = l.version});
          else
            l.travelling.push_back({{}, l.pushed});
          ++l.t;
          EXPECT_TRUE(cluster.step(k));
        }
        far = std::max(far, difference(plain.w, cluster.w.data()));
      }
      EXPECT_LE(far, rounding) << workers << " workers, c_fetch " << c_fetch << ", c_push " << c_push;
      EXPECT_GT(left_out, 20);
      for (const Shard& shard : cluster.shards) expect_same_staleness(shard, plain);
      EXPECT_EQ(cluster.shards[0].used(), plain.used);
    }
}

// Whoever computes which portion, and however often: the batch's gradient is that of its samples.
TEST(Twin, Sandblaster) {
  for (const int workers : {1, 2, 3, 5})
    for (const double rate : {0.125, 8.0})  // the first direction is too long with the second
      for (const auto& [resample, portion] : std::vector<std::pair<bool, int>>{
               {true, 1}, {true, 2}, {true, 5}, {false, 1}, {false, 2}, {false, 5}}) {
        const std::int64_t batch = 20;
        Cluster cluster("sandblaster",
                        {{"batch", batch},
                         {"portion", integer(portion)},
                         {"backups", integer(workers)},
                         {"history", integer(3)},
                         {"resample", resample}},
                        {.learning_rate = rate}, workers, 1, 1 << 20);
        PlainLbfgs plain{.w = Doubles(cluster.problem.n), .history = 3, .resample = resample, .rate = rate};
        Dice dice;
        double far = 0;
        const Shard& shard = cluster.shards[0];
        for (std::int64_t seen = 0; seen < 16;) {
          const int k = dice.roll(workers);
          if (dice.roll(3) > 0) {
            ASSERT_TRUE(cluster.step(k));
          } else {
            cluster.deliver(k);
          }
          for (; seen < shard.version(); ++seen) plain.step(cluster.problem, batch);
          far = std::max(far, difference(plain.w, cluster.w.data()));
          far = std::max(far, difference(plain.x, cluster.rules[0].master(cluster.w).data));
        }
        EXPECT_LE(far, 1e-3) << workers << " workers, portions of " << portion
                             << (resample ? ", fresh batches" : ", one batch");
        EXPECT_TRUE(plain.halved > 0 || rate < 1);
        EXPECT_EQ(shard.used(), batch * shard.version());
        EXPECT_EQ(shard.late() > 0, workers > 1) << "no copy was too late";
        const auto tau = shard.staleness();
        EXPECT_EQ(tau[0], shard.arrivals()) << "a gradient of another batch counted";
      }
}

// No step along d is better, and x again is a little worse: a sum in another order of arrival.
TEST(Lbfgs, GoesOnAfterASearchInVain) {
  for (const float slope : {1.0f, INFINITY}) {  // w + 1 * d is infinite with the second
    Lbfgs lbfgs(host_space(), 2, 3, nullptr);
    Vector w(host_space(), 2);
    fill(1, w);
    const auto at_x = [&] { return w.data()[0] == 1 && w.data()[1] == 1; };
    EXPECT_FALSE(lbfgs.rejects(w, 1));
    fill(slope, lbfgs.accept(w, 1));
    EXPECT_FALSE(lbfgs.learn());
    lbfgs.search(w, 1);
    EXPECT_FALSE(at_x());
    int rejected = 0;
    while (rejected < 100 && lbfgs.rejects(w, at_x() ? std::nextafter(1, 2) : 2)) ++rejected;
    EXPECT_EQ(rejected, 20);  // 2^-20 is below the shortest step
    EXPECT_TRUE(at_x()) << w.data()[0];
    fill(slope, lbfgs.accept(w, 1));
    EXPECT_TRUE(lbfgs.learn()) << "the search is over";
  }
}

// What a leaver gave back is for who still works, not for one that makes its last exchange.
TEST(Easgd, AsksForNoWorkAtItsEnd) {
  for (const char* strategy : {"easgd", "eamsgd"}) {
    Cluster cluster(strategy, {{"tau", integer(3)}}, {.learning_rate = 1.0 / 16}, 2, 2, 16);
    EXPECT_TRUE(cluster.step(1));  // is granted 12 samples
    EXPECT_TRUE(cluster.step(0));  // what is left
    cluster.local[1]->leave(true);
    EXPECT_FALSE(cluster.step(0));
    EXPECT_EQ(cluster.shards[0].pull(1, 100)->granted, 12) << strategy;
  }
}

// Bulk-synchronous: nobody pulls before all have pushed, and the updates of a round add up to one of sync at
// P times the rate. Exact where P is a power of two.
TEST(Ssp, WithoutSlackIsBulkSynchronous) {
  for (const int workers : {1, 2, 3, 4}) {
    const double rate = 1.0 / 16;
    Cluster cluster("ssp", {{"s", integer(0)}}, {.learning_rate = rate}, workers, 2, 1 << 20);
    PlainWorkers sync(cluster.problem, {.learning_rate = rate * workers},
                      {.kind = "shard", .workers = workers, .minibatch = 4, .budget = 1 << 20});
    for (int round = 0; round < 4; ++round) {
      for (int k = 0; k < workers; ++k) {
        EXPECT_FALSE(cluster.held(k));
        EXPECT_TRUE(cluster.step(k));
      }
      for (int k = 0; k + 1 < workers; ++k) EXPECT_TRUE(cluster.held(k)) << "the last one has not pushed";
      EXPECT_FALSE(cluster.held(workers - 1));
      sync.sync();
      EXPECT_LE(difference(sync.w[0], cluster.w.data()), workers == 3 ? rounding : 0) << "round " << round;
    }
  }
}

// Where a strategy of this order of arrivals ends, and what its rates have in common with asynchronous SGD.
std::vector<float> end_of(const std::string& strategy, const std::map<std::string, Value>& settings) {
  Cluster cluster(strategy, settings, {.learning_rate = 1.0 / 16}, 3, 2, 1 << 20, "shard");
  Dice dice;
  for (int event = 0; event < 100; ++event) {
    const int k = dice.roll(3);
    if (dice.roll(3) > 0)
      cluster.step(k);
    else
      cluster.deliver(k);
  }
  return {cluster.w.data(), cluster.w.data() + cluster.w.size()};
}
std::vector<float> end_of_asynchronous_sgd(const std::string& modulation) {
  return end_of("staleness_aware", {{"n", integer(3)}, {"modulation", modulation}});
}

// In the same order of arrivals, bit for bit.
TEST(AsynchronousSgd, IsSspWithABoundThatNobodyMeets) {
  EXPECT_EQ(end_of("ssp", {{"s", integer(1'000'000)}}), end_of_asynchronous_sgd("none"));
}
TEST(AsynchronousSgd, IsDcAsgdWithoutCompensation) {
  for (const auto& compensation : {"constant"s, "adaptive"s}) {
    EXPECT_EQ(end_of("dc_asgd", {{"compensation", compensation}, {"lambda", 0.0}}),
              end_of_asynchronous_sgd("none"));
    EXPECT_NE(end_of("dc_asgd", {{"compensation", compensation}}), end_of_asynchronous_sgd("none"));
  }
}

// lambda's default is that of the form.
TEST(DcAsgd, KnowsTheStrengthOfEachForm) {
  for (const auto& [compensation, lambda] : {std::pair{"constant"s, 0.04}, {"adaptive"s, 2.0}})
    EXPECT_EQ(end_of("dc_asgd", {{"compensation", compensation}}),
              end_of("dc_asgd", {{"compensation", compensation}, {"lambda", lambda}}));
}

// With v frozen at 1 what is left is the division by the staleness.
TEST(StalenessAware, IsFasgdWithItsScaleFrozen) {
  for (const auto& variant : {"intended"s, "printed"s}) {
    EXPECT_EQ(end_of("fasgd", {{"variant", variant}, {"beta", 1.0}}), end_of_asynchronous_sgd("inverse"));
    EXPECT_NE(end_of("fasgd", {{"variant", variant}}), end_of_asynchronous_sgd("inverse"));
  }
}

// What visit() names is all that a learner and a rule carry from step to step.
TEST(Checkpoint, OfLearnersAndRulesIsComplete) {
  for (const StrategyEntry* entry : all_strategies()) {
    if (!entry->make_rule) continue;
    for (const auto& optimizer : server_optimizers())
      for (const int workers : {1, 2, 3, 4}) {
        const auto end = [&](int interrupted_at) {
          Cluster cluster(entry->name, entry->tests.conformance, optimizer, workers,
                          entry->in_batches ? 1 : 2,
                          1 << 20);  // sums over shards need them at work side by side
          Dice dice;
          for (int event = 0; event < 60; ++event) {
            if (event == interrupted_at) cluster.restart();
            const int k = dice.roll(workers);
            if (dice.roll(3) > 0) {
              EXPECT_TRUE(cluster.held(k) || cluster.step(k));
            } else {
              cluster.deliver(k);
            }
          }
          std::vector<std::vector<float>> vectors{{cluster.w.data(), cluster.w.data() + cluster.w.size()}};
          for (const auto& replica : cluster.replicas) vectors.push_back(replica->weights());
          return vectors;
        };
        const auto uninterrupted = end(-1);
        for (const int event : {1, 20, 21, 22, 23, 24, 25, 50})
          EXPECT_EQ(end(event), uninterrupted) << entry->name << ", " << workers << " workers, optimizer "
                                               << int(optimizer.rule) << ", checkpoint at event " << event;
      }
  }
}

std::string downpour_log(const std::map<std::string, Value>& settings, int steps) {
  std::string text;
  Cluster cluster("downpour", settings, {.learning_rate = 1.0 / 16}, 1, 1, 4 * steps);
  open_log = &text;
  while (cluster.step(0)) log("|");
  open_log = nullptr;
  EXPECT_EQ(cluster.replicas[0]->t, steps);
  return text;
}

// The first push comes at once and carries one gradient, the later ones n_push, the last one the rest.
TEST(Downpour, FetchesAndPushesAtTheirOwnPeriods) {
  EXPECT_EQ(downpour_log({{"n_fetch", integer(2)}, {"n_push", integer(3)}, {"overlap", false}}, 6),
            "fetch fetched gradient push:4 | gradient | "
            "fetch fetched gradient | gradient push:12 | "
            "fetch fetched gradient | gradient | "
            "fetch fetched push:8 ");
}

// The fetch travels while the gradient is computed, and is behind the next step's gradient, not this one's:
// what is pushed was computed at the version before.
TEST(Downpour, OverlapsTheFetchWithTheGradient) {
  EXPECT_EQ(downpour_log({{"n_fetch", integer(2)}, {"n_push", integer(3)}}, 6),
            "fetch fetched fetch gradient push:4 fetched | gradient | "
            "fetch gradient fetched | gradient push:12 | "
            "fetch gradient fetched | gradient | "
            "push:8 ");
}

// One learner misses no updates but its own, and its local steps stand in for them.
TEST(Downpour, OfOneLearnerIsSerialSgdWithAndWithoutOverlap) {
  for (const bool overlap : {false, true}) {
    const OptimizerSettings sgd{.learning_rate = 0.25};
    Cluster cluster("downpour", {{"overlap", overlap}}, sgd, 1, 2, 10 * 4);
    PlainWorkers serial(cluster.problem, sgd, {.minibatch = 4, .budget = 10 * 4});
    while (cluster.step(0)) serial.sync();
    cluster.deliver(0);
    EXPECT_LE(difference(serial.w[0], cluster.w.data()), rounding);
  }
}

}  // namespace
}  // namespace dsgd::test
