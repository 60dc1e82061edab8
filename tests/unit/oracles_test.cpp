// SPDX-License-Identifier: Apache-2.0
// The optimizer, the servers' rules and the workers that push to them against traces of others' programs,
// made without a look at this one's code: tests/oracles.

#include <gtest/gtest.h>

#include <deque>

#include "oracle.h"

namespace dsgd::test {
namespace {

using Given = std::map<std::string, Value>;
using Optimization = OptimizerSettings::Rule;
using namespace std::string_literals;
Value integer(double n) { return std::int64_t(n); }

// Where an optimizer comes to, step by step.
void compare(const Oracle& o, OptimizerSettings settings) {
  const bool drop = o.settings.count("lr-drop");  // halved after five steps
  settings.learning_rate = o.number("lr");
  if (o.settings.count("weight_decay")) settings.l2 = o.number("weight_decay");
  if (drop) settings.schedule = {.kind = Schedule::Kind::step, .samples = 5, .factor = 0.5};
  const Doubles& init = o("init");
  Vector w(host_space(), init.size()), g(host_space(), init.size());
  if (!o.settings.count("zero-model")) OracleReplica::set(init, w);
  Optimizer optimizer(settings, host_space(), init.size());
  for (int t = 0; o.has("model", t); ++t) {
    OracleReplica::set(o("grad", t), g);
    if (o.settings.count("zero") && t == 0) fill(0, g);
    optimizer.step(w, g, 1, t);
    EXPECT_LE(relative(o("model", t), w), oracle_tolerance) << o.label() << ", step " << t;
  }
}

TEST(Oracle, TorchOptimizers) {
  for (const Oracle& o : oracles("torch_optim")) {
    const auto number = [&](const char* key, double fallback) {
      return o.settings.count(key) ? o.number(key) : fallback;
    };
    OptimizerSettings s{.epsilon = number("eps", o.name == "Adagrad" ? 1e-10 : 1e-8)};
    if (o.name == "SGD") {
      s.rule = !o.settings.count("momentum")  ? Optimization::sgd
               : o.settings.count("nesterov") ? Optimization::nesterov
                                              : Optimization::momentum;
      s.momentum = number("momentum", 0);
    } else if (o.name == "Adagrad") {
      s.rule = Optimization::adagrad;
      s.initial_accumulator = number("initial_accumulator_value", 0);
    } else {
      s.rule = o.name == "Adam" ? Optimization::adam : Optimization::adamw;
      if (o.settings.count("betas")) s.momentum = 0.5, s.beta2 = 0.75;  // the only ones in the trace
    }
    compare(o, s);
  }
}

// torchlars and the paper's formula. In torchlars a rate outside the velocity is the same while it is
// constant.
TEST(Oracle, Lars) {
  for (const Oracle& o : oracles("lars"))
    compare(o, {.rule = Optimization::lars, .momentum = o.number("momentum"), .trust = o.number("trust")});
}

// One shard with the rule of a strategy, and what each worker holds of it.
struct Server {
  Server(const std::string& strategy, const Given& given, const OptimizerSettings& optimizer,
         const Doubles& init, int workers)
      : entry(*find_strategy(strategy)), settings(entry.parameters, given), w(host_space(), init.size()) {
    OracleReplica::set(init, w);
    context.space = &host_space();
    context.parameters = init.size();
    context.workers = workers;
    context.servers = 1;
    context.minibatch = 1;
    context.optimizer = optimizer;
    rule = entry.make_rule(settings, context);
    shard = std::make_unique<Shard>(Shard::Options{.workers = workers, .minibatch = 1, .budget = 1'000'000},
                                    *rule, w);
  }
  const StrategyEntry& entry;
  Settings settings;
  Vector w;
  Context context;
  std::unique_ptr<Rule> rule;
  std::unique_ptr<Shard> shard;
};

Given rule_of(const Oracle& o, std::string& strategy) {
  strategy = o.name.substr(0, o.name.find('-'));
  if (strategy == "asgd" || strategy == "sasgd") {
    strategy = "staleness_aware";
    return {{"n", integer(o.workers() / o.number("c"))},
            {"modulation", o.name == "asgd"         ? "none"s
                           : o.name == "sasgd-fred" ? "inverse_plus_one"s
                                                    : "inverse"s}};
  }
  if (o.name == "fasgd-fred") return {{"variant", "released"s}};
  if (strategy == "fasgd")
    return {{"variant", o.name == "fasgd-tex" ? "printed"s : "intended"s},
            {"gamma", o.number("gamma")},
            {"beta", o.number("beta")},
            {"epsilon", o.number("eps")}};
  strategy = "dc_asgd";
  if (o.name == "dcasgd-c") return {{"compensation", "constant"s}, {"lambda", o.number("lambda")}};
  return {{"compensation", "adaptive"s},
          {"lambda", o.number("lambda0")},
          {"m", o.number("m")},
          {"epsilon", o.number("eps")}};
}

// n-softsync, FASGD as printed, as meant and as released, DC-ASGD. Where v begins FASGD's paper leaves open:
// here at 1, in the trace at 0.
TEST(Oracle, ServerRules) {
  for (const Oracle& o : oracles("push_servers")) {
    std::string strategy;
    const Given given = rule_of(o, strategy);
    Server server(
        strategy, given,
        {.rule = Optimization::sgd, .learning_rate = o.number(o.settings.count("lr") ? "lr" : "alpha")},
        o("init"), o.workers());
    Overwrite v("v", Doubles(o("init").size()));
    server.rule->visit(v);
    std::vector<std::int64_t> held(o.workers()), waiting;
    for (int k = 0; k < o.workers(); ++k) held[k] = server.shard->pull(k, 1)->version;
    for (const auto& push : o.events.at("push")) {
      const std::int64_t k = push[0], worker = push[1], version = server.shard->version();
      EXPECT_EQ(held[worker], push[2]);
      EXPECT_EQ(version - held[worker], push[3]);
      Vector g(host_space(), o("grad", k).size());
      OracleReplica::set(o("grad", k), g);
      server.shard->push(int(worker), held[worker], 1, g);
      waiting.push_back(worker);
      EXPECT_LE(relative(o("server", k), server.w), oracle_tolerance) << o.label() << ", push " << k;
      if (server.shard->version() == version) continue;
      for (const std::int64_t j : waiting) held[j] = server.shard->pull(int(j), 1)->version;
      waiting.clear();
    }
  }
}

// A worker's view of one shard, without delays.
class AtOnce final : public ParameterServer {
 public:
  AtOnce(Shard& shard, int worker)
      : ParameterServer(shard.settings().workers), shard_(shard), worker_(worker) {}
  void begin_pull(int minibatches) override {
    count_asked();
    reply_ = *shard_.pull(worker_, minibatches);
    count_granted(reply_.used);
  }
  ConstVec end_pull(Vec w) override {
    copy(shard_.w(), w);
    return w;
  }
  void pull_work(int minibatches) override { reply_ = *shard_.pull(worker_, minibatches, {.w = false}); }
  bool changed() const override { return true; }
  void push(float a, ConstVec g, std::int64_t samples, double number) override {
    count_pushed(samples);
    Vector scaled(host_space(), g.size);
    axpy(a, g, scaled);
    shard_.push(worker_, reply_.version, samples, scaled, {reply_.used, reply_.position, number});
  }
  void push_again(std::int64_t samples) override { shard_.push_again(worker_, samples); }
  double number() const override { return reply_.number; }
  Portion take(int) override { return {}; }
  void leave(bool) override {}

 private:
  Shard& shard_;
  int worker_;
  Shard::Reply reply_;
};

// Workers that take turns in the trace's order: where each asks for a gradient, where it and the servers are
// after its step.
void compare(const Oracle& o, const std::string& strategy, const Given& given,
             const OptimizerSettings& optimizer) {
  Server server(strategy, given, optimizer, o("init"), o.workers());
  std::vector<std::vector<std::int64_t>> events(o.workers());
  for (const auto& event : o.events.at("event")) events[event[1]].push_back(event[0]);
  std::deque<AtOnce> views;
  std::deque<OracleReplica> replicas;
  std::vector<std::unique_ptr<Strategy>> workers;
  for (int k = 0; k < o.workers(); ++k) {
    server.context.server = &views.emplace_back(*server.shard, k);
    server.context.rank = k;
    replicas.emplace_back(o("init"), o.workers(), [&o, &events, k](std::int64_t t) -> const Doubles& {
      return o("grad", events[k].at(t));
    });
    workers.push_back(server.entry.make(server.settings, server.context));
  }
  for (const auto& event : o.events.at("event")) {
    const std::int64_t k = event[0], worker = event[1];
    replicas[worker].step(*workers[worker]);
    EXPECT_LE(relative(o("at", k), replicas[worker].asked_at.data(), o("init").size()), oracle_tolerance)
        << o.label() << ", " << k;
    EXPECT_LE(relative(o("worker", k), replicas[worker].w), oracle_tolerance) << o.label() << ", " << k;
    EXPECT_LE(relative(o("server", k), server.w), oracle_tolerance) << o.label() << ", event " << k;
  }
}

TEST(Oracle, ElasticAveragingAndDownpour) {
  for (const Oracle& o : oracles("easgd_downpour")) {
    if (o.name == "eamsgd") {
      Given given{{"tau", integer(o.number("su"))}, {"beta", o.number("mva") * o.workers()}};
      if (o.number("mom") > 0) given["delta"] = o.number("mom");
      compare(o, o.number("mom") > 0 ? "eamsgd" : "easgd", given,
              {.rule = Optimization::sgd, .learning_rate = o.number("lr"), .l2 = o.number("l2wd")});
    } else if (o.name == "downpour-dean") {
      compare(o, "downpour",
              {{"n_fetch", integer(o.number("fetch"))},
               {"n_push", integer(o.number("push"))},
               {"overlap", false}},
              {.rule = Optimization::sgd, .learning_rate = o.number("lr")});
    }
  }
}

}  // namespace
}  // namespace dsgd::test
