// SPDX-License-Identifier: Apache-2.0
#include "config/experiment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include "config/cluster.h"
#include "config/expression.h"
#include "config/papers.h"
#include "device.h"
#include "fetch.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

Lines problems(const std::string& text, const Lines& overrides = {}) {
  try {
    parse_experiment(text, "x.toml", overrides);
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.what(), fmt::to_string(fmt::join(e.problems(), "\n")));
    return e.problems();
  }
  return {"no problem"};
}

Lines problems_of_file(const fs::path& file) {
  try {
    load_experiment(file);
  } catch (const ConfigError& e) {
    return e.problems();
  }
  return {"no problem"};
}

// One run, from lines above [strategy.NAME] and overrides.
RunConfig run_of(const std::string& text, const Lines& overrides = {}) {
  Experiment e = parse_experiment(text, "x.toml", overrides);
  EXPECT_EQ(e.runs.size(), 1u);
  return e.runs.front();
}

constexpr const char* all_keys = "those of `dsgd list keys`; `dsgd list keys WORD` searches them";

std::string shipped_list() {
  Lines names;
  for (const fs::path& file : shipped_experiments()) names.push_back(file.stem().string());
  return fmt::to_string(fmt::join(names, ", "));
}

constexpr const char* without_simgrid = "built without SimGrid: no run is simulated";

std::string strategy_list() {
  Lines names;
  for (const StrategyEntry* strategy : all_strategies()) names.push_back(strategy->name);
  return fmt::to_string(fmt::join(names, ", "));
}

struct Mistake {
  std::string text, message;
};
void PrintTo(const Mistake& m, std::ostream* out) { *out << m.text; }

class Mistakes : public testing::TestWithParam<Mistake> {};
TEST_P(Mistakes, AreNamedWithPlaceAndRemedy) {
  if (no_simulator() && GetParam().text.starts_with("engine = 'simulated'")) GTEST_SKIP() << without_simgrid;
  EXPECT_EQ(problems(GetParam().text), Lines{GetParam().message});
}
INSTANTIATE_TEST_SUITE_P(
    Types, Mistakes,
    testing::Values(
        Mistake{"workers = \"2\"\n[strategy.sync]",
                "x.toml:1:11: workers: expected an integer, got \"2\" (allowed: integers from 1 to 4096)"},
        Mistake{"workers = 2.0\n[strategy.sync]",
                "x.toml:1:11: workers: expected an integer, got 2.0 (allowed: integers from 1 to 4096)"},
        Mistake{"workers = [1, true]\n[strategy.sync]",
                "x.toml:1:15: workers: expected an integer, got true (allowed: integers from 1 to 4096)"},
        Mistake{"model = 3\n[strategy.sync]",
                "x.toml:1:9: model: expected text, got 3 (allowed: softmax, mlp, dnn, lenet, cifar_quick, "
                "resnet20)"},
        Mistake{
            "[strategy.downpour]\noverlap = 1",
            "x.toml:2:11: strategy.downpour.overlap: expected true or false, got 1 (allowed: true, false)"},
        Mistake{"target = 1979-05-27\n[strategy.sync]",
                "x.toml:1:10: target: expected a number, got a date (allowed: numbers from 0 to 1)"},
        Mistake{"target = 1979-05-27T07:32:00Z\n[strategy.sync]",
                "x.toml:1:10: target: expected a number, got a date (allowed: numbers from 0 to 1)"},
        Mistake{"target = 07:32:00\n[strategy.sync]",
                "x.toml:1:10: target: expected a number, got a time (allowed: numbers from 0 to 1)"},
        Mistake{"workers = [1, [2]]\n[strategy.sync]",
                "x.toml:1:15: workers: expected an integer, got an array in an array (allowed: integers from "
                "1 to "
                "4096)"},
        Mistake{"workers = {n = 2}\n[strategy.sync]",
                "x.toml:1:11: workers: expected an integer, got a table (allowed: integers from 1 to 4096)"},
        Mistake{"workers.n = 2\n[strategy.sync]",
                "x.toml:1:1: workers: expected an integer, got a table (allowed: integers from 1 to 4096)"},
        Mistake{"[[workers]]\n[strategy.sync]",
                "x.toml:1:1: workers: expected an integer, got a table (allowed: integers from 1 to 4096)"},
        Mistake{"synthetic = 3\n[strategy.sync]",
                "x.toml:1:13: synthetic: expected a table (allowed: synthetic.shape, synthetic.classes, "
                "synthetic.train, synthetic.test, synthetic.noise, synthetic.seed)"}));
INSTANTIATE_TEST_SUITE_P(
    Values, Mistakes,
    testing::Values(
        Mistake{"workers = 0\n[strategy.sync]",
                "x.toml:1:11: workers: 0 is out of range (allowed: integers from 1 to 4096)"},
        Mistake{"seed = [1,\n  2,\n  -3]\n[strategy.sync]",
                "x.toml:3:3: seed: -3 is out of range (allowed: integers from 0 up)"},
        Mistake{"optimizer.learning_rate = -0.1\n[strategy.sync]",
                "x.toml:1:27: optimizer.learning_rate: -0.1 is out of range (allowed: numbers from 0 to "
                "1000000)"},
        Mistake{
            "optimizer.learning_rate = nan\n[strategy.sync]",
            "x.toml:1:27: optimizer.learning_rate: nan is not a finite number (allowed: numbers from 0 to "
            "1000000)"},
        Mistake{"[strategy.downpour]\nlocal_learning_rate = inf",
                "x.toml:2:23: strategy.downpour.local_learning_rate: inf is not a finite number (allowed: "
                "numbers "
                "from 0 up)"},
        Mistake{"[optimizer]\nrule = 'adagard'\n[strategy.sync]",
                "x.toml:2:8: optimizer.rule: unknown value \"adagard\", did you mean adagrad? (allowed: sgd, "
                "momentum, nesterov, adagrad, adam, adamw, lars)"},
        Mistake{"model = 'vgg'\n[strategy.sync]",
                "x.toml:1:9: model: unknown value \"vgg\" (allowed: softmax, mlp, dnn, lenet, cifar_quick, "
                "resnet20)"},
        Mistake{"engine = 'simgrid'\n[strategy.sync]",
                "x.toml:1:10: engine: unknown value \"simgrid\" (allowed: mpi, simulated)"},
        Mistake{
            "[strategy.averaging]\nstate = 'averge'",
            "x.toml:2:9: strategy.averaging.state: unknown value \"averge\", did you mean average? (allowed: "
            "keep, "
            "average, reset)"},
        Mistake{"workers = []\n[strategy.sync]",
                "x.toml:1:11: workers: an empty array makes no runs (allowed: integers from 1 to 4096)"},
        Mistake{"workers = [1, 2, 1]\n[strategy.sync]",
                "x.toml:1:18: workers: duplicate run: 1 is repeated (allowed: each value once)"},
        Mistake{"optimizer.l2 = [1, 1.0]\n[strategy.sync]",
                "x.toml:1:20: optimizer.l2: duplicate run: 1.0 is repeated (allowed: each value once)"},
        Mistake{"target = [0.8, 0.9]\n[strategy.sync]",
                "x.toml:1:10: target: cannot be an axis, for it does not change what is computed (allowed: "
                "one of "
                "numbers from 0 to 1)"},
        Mistake{
            "synthetic.shape = '1xtwo'\n[strategy.sync]",
            "x.toml:1:19: synthetic.shape: shape \"1xtwo\": expected CHANNELSxHEIGHTxWIDTH as in 1x28x28, or "
            "one number (allowed: text such as \"1x28x28\")"},
        Mistake{
            "synthetic.shape = '3x1024x1024'\n[strategy.sync]",
            "x.toml:1:19: synthetic.shape: \"3x1024x1024\" has 3145728 values (allowed: up to 1048576)"}));
INSTANTIATE_TEST_SUITE_P(
    Keys, Mistakes,
    testing::Values(
        Mistake{"minibach = 32\n[strategy.sync]",
                "x.toml:1:1: minibach: unknown key, did you mean minibatch?"},
        Mistake{"learning_rate = 0.1\n[strategy.sync]",
                "x.toml:1:1: learning_rate: unknown key, did you mean optimizer.learning_rate?"},
        Mistake{"[optimiser]\nrule = 'sgd'\nl2 = 3\n[strategy.sync]",
                "x.toml:1:2: optimiser: unknown key, did you mean optimizer?"},
        Mistake{"optimizer.momentun = 0.9\n[strategy.sync]",
                "x.toml:1:11: optimizer.momentun: unknown key, did you mean optimizer.momentum?"},
        Mistake{"tau = 5\n[strategy.averaging]",
                "x.toml:1:1: tau: unknown key, did you mean strategy.averaging.tau?"},
        Mistake{"[strategy.downpour]\n  nfetch = 2",
                "x.toml:2:3: strategy.downpour.nfetch: unknown key, did you mean n_fetch?"},
        Mistake{
            "[strategy.downpour]\noptimizer.moment = 2",
            "x.toml:2:11: strategy.downpour.optimizer.moment: unknown key, did you mean optimizer.momentum?"},
        Mistake{"cluster.hosts.node.sped = 1\n[strategy.sync]",
                "x.toml:1:20: cluster.hosts.node.sped: unknown key, did you mean speed?"},
        Mistake{"cluster.hosts.node.seconds.lenett.32 = 1\n[strategy.sync]",
                "x.toml:1:28: cluster.hosts.node.seconds.lenett: unknown key, did you mean lenet?"},
        Mistake{"cluster.stragler.slowdown = 2\n[strategy.sync]",
                "x.toml:1:9: cluster.stragler: unknown key, did you mean cluster.straggler?"},
        Mistake{"cluster.slowdwn = 2\n[strategy.sync]",
                "x.toml:1:9: cluster.slowdwn: unknown key, did you mean cluster.straggler.slowdown?"},
        Mistake{"stragler = 2\n[strategy.sync]",
                "x.toml:1:1: stragler: unknown key, did you mean cluster.straggler?"},
        Mistake{"synthetic.sizes = 2\n[strategy.sync]",
                "x.toml:1:11: synthetic.sizes: unknown key (allowed: synthetic.shape, synthetic.classes, "
                "synthetic.train, synthetic.test, synthetic.noise, synthetic.seed)"},
        Mistake{"[faults]\n'a.b' = 2\n[strategy.sync]",
                "x.toml:2:1: faults.a.b: unknown key (allowed: faults.leave_step, faults.leave_worker, "
                "faults.drop)"},
        Mistake{
            "epochs = 3\n[strategy.sync]",
            "x.toml:1:1: epochs: unknown key, a budget is `samples`, of all workers together: epochs times "
            "the training set"},
        Mistake{"[strategy.averaging]\nbatch_size = 3",
                "x.toml:2:1: strategy.averaging.batch_size: unknown key, a worker's batch is `minibatch`"},
        Mistake{"lr = 0.1\n[strategy.sync]",
                "x.toml:1:1: lr: unknown key, the rate is `optimizer.learning_rate`"},
        Mistake{"[strategy.averaging]\nxyzzy = 3",
                "x.toml:2:1: strategy.averaging.xyzzy: unknown key (allowed: those of `dsgd list keys`; "
                "`dsgd list "
                "keys WORD` searches them)"},
        Mistake{
            "cluster.jitter = 0.1\ncluster = 'one-straggler'\n[strategy.sync]",
            "x.toml:2:11: syntax: Error while parsing key-value pair: cannot redefine existing table "
            "'cluster' "
            "(allowed: TOML, text in quotes; where a table has a short form, as cluster = \"NAME\" is, write "
            "cluster.name = \"NAME\" beside its other keys)"},
        Mistake{"\"a\\nb\" = 3\n[strategy.sync]",
                fmt::format("x.toml:1:1: a?b: unknown key (allowed: {})", all_keys)},
        Mistake{"optimizer.rule = 'sgd'\n\"optimizer.rule\" = 'sgd'\n[strategy.sync]",
                "x.toml:2:1: optimizer.rule: is set twice (allowed: once)"},
        Mistake{"[strategy.downpuor]",
                fmt::format("x.toml:1:11: strategy.downpuor: unknown strategy, did you mean "
                            "downpour? (allowed: {})",
                            strategy_list())},
        Mistake{
            "[strategy.hogwild]",
            fmt::format("x.toml:1:11: strategy.hogwild: unknown strategy (allowed: {})", strategy_list())},
        Mistake{"strategy = 'sync'",
                fmt::format("x.toml:1:1: strategy: expected a table [strategy.NAME] (allowed: "
                            "NAME one of {})",
                            strategy_list())},
        Mistake{"strategy.sync = true",
                fmt::format("x.toml:1:17: strategy.sync: expected a table (allowed: {})", all_keys)},
        Mistake{"workers = 2",
                fmt::format("x.toml:1:1: strategy: there is none (allowed: a table [strategy.NAME], "
                            "NAME one of {})",
                            strategy_list())},
        Mistake{"",
                fmt::format(
                    "x.toml:1:1: strategy: there is none (allowed: a table [strategy.NAME], NAME one of {})",
                    strategy_list())}));
INSTANTIATE_TEST_SUITE_P(
    Syntax, Mistakes,
    testing::Values(
        Mistake{"workers = 2\nworkers = 3\n",
                "x.toml:2:11: syntax: Error while parsing key-value pair: cannot redefine existing integer "
                "'workers' (allowed: TOML, text in quotes)"},
        Mistake{"model = lenet\n",
                "x.toml:1:9: syntax: Error while parsing value: could not determine value type "
                "(allowed: TOML, text in quotes)"},
        Mistake{
            "[strategy.sync\n",
            "x.toml:1:15: syntax: Error while parsing table header: expected ']', saw '\\n' (allowed: TOML, "
            "text in quotes)"},
        Mistake{"title = \"\xff\"",
                "x.toml:1:9: syntax: Encountered invalid utf-8 sequence (allowed: TOML, text in quotes)"}));
INSTANTIATE_TEST_SUITE_P(
    Combinations, Mistakes,
    testing::Values(
        Mistake{
            "samples = 20\n[strategy.sync]",
            "x.toml:1:11: samples: a budget of 20 samples is less than one minibatch of 32 (allowed: samples "
            "from 32 up)"},
        Mistake{"samples = 100\nseed = [1, 2]\n[strategy.sync]\nminibatch = [100, 101]",
                "x.toml:1:11: samples: a budget of 100 samples is less than one minibatch of 101 (allowed: "
                "samples "
                "from 101 up)"},
        Mistake{
            "samples = 5000\n[strategy.sandblaster]",
            "x.toml:1:11: samples: a budget of 5000 samples is too small: an update is made of batch = 6000 "
            "samples (allowed: samples from 6000 up)"},
        Mistake{
            "samples = 5000\nworkers = 8\n[strategy.sandblaster]\nbatch = 500\nportion = 40",
            "x.toml:1:11: samples: a budget of 5000 samples is too small: workers take portion = 40 "
            "minibatches of 32 at a time, and not all of 8 would get some (allowed: samples from 8961 up)"},
        Mistake{
            "samples = 96\nworkers = 4\n[strategy.staleness_aware]",
            "x.toml:1:11: samples: a budget of 96 samples is too small: workers take a minibatch of 32 at a "
            "time, and not all of 4 would get some (allowed: samples from 97 up)"},
        Mistake{
            "samples = 96\nworkers = 4\n[strategy.adpsgd]",
            "x.toml:1:11: samples: a budget of 96 samples is too small: workers take a minibatch of 32 at a "
            "time, and not all of 4 would get some (allowed: samples from 97 up)"},
        Mistake{
            "workers = 4\n[strategy.downpour]\nn_fetch = 1000",
            "x.toml:1:11: workers: a budget of 60000 samples is too small: workers take "
            "n_fetch = 1000 "
            "minibatches of 32 at a time, and not all of 4 would get some (allowed: samples from 96001 up)"},
        Mistake{
            "samples = 6400\nworkers = 2\n[strategy.easgd]\ntau = 200",
            "x.toml:1:11: samples: a budget of 6400 samples is too small: workers take tau = 200 minibatches "
            "of 32 at a time, and not all of 2 would get some (allowed: samples from 6401 up)"},
        Mistake{
            "samples = 64000\nworkers = 2\n[strategy.downpour]\nwarm_start = 64000",
            "x.toml:1:11: samples: a budget of 64000 samples is too small: the first replica works on "
            "warm_start = 64000 samples alone, and the others would get none (allowed: samples from 64001 "
            "up)"},
        Mistake{"samples = 100\nworkers = 4\n[strategy.sync]",
                "x.toml:1:11: samples: a budget of 100 samples is too small: a step of 4 workers takes 4 "
                "minibatches of 32 (allowed: samples from 128 up)"},
        Mistake{
            "dataset = 'synthetic'\nworkers = [2, 512]\n[strategy.sync]",
            "x.toml:2:15: workers: 512 workers would take 16384 samples in a step, more than the 10000 of "
            "the training set (allowed: minibatch up to 19, or workers up to 312)"},
        Mistake{
            "minibatch = 40000\nsamples = 120000\nworkers = 2\n[strategy.downpour]",
            "x.toml:1:13: minibatch: 2 workers would take 80000 samples in a step, more than the 60000 of "
            "the training set (allowed: minibatch up to 30000, or workers up to 1)"},
        Mistake{"minibatch = 60001\nsamples = 600000\n[strategy.staleness_aware]",
                "x.toml:1:13: minibatch: 1 worker would take 60001 samples in a step, more than the 60000 of "
                "the training set (allowed: minibatch up to 60000)"},
        Mistake{"sample_fraction = [0.01, 0.00001]\n[strategy.sync]",
                "x.toml:1:26: sample_fraction: 1e-05 of 60000 training samples is less than one in a step "
                "(allowed: 0, or numbers from 1.66667e-05 up)"},
        Mistake{
            "dataset = 'synthetic'\nsynthetic.shape = '1x4x4'\n[strategy.sync]",
            "x.toml:2:19: synthetic.shape: lenet does not fit: layer 1, conv 5x5x20, cannot take 1x4x4 (the "
            "network's input is 1x4x4) (allowed: softmax, mlp, dnn, resnet20)"},
        Mistake{"[strategy.downpour]\ndata_order = 'global'",
                "x.toml:2:14: strategy.downpour.data_order: \"global\" needs workers in lock-step, which "
                "downpour "
                "has not (allowed: auto, shard, queue)"},
        Mistake{
            "data_order = ['auto', 'queue']\n[strategy.sync]",
            "x.toml:1:23: data_order: \"queue\" needs a parameter server, which sync has not (allowed: auto, "
            "global, shard)"},
        Mistake{
            "sample_fraction = 0.1\n[strategy.adpsgd]",
            "x.toml:1:19: sample_fraction: needs workers in lock-step, which adpsgd has not (allowed: 0)"},
        Mistake{
            "shares = 'proportional'\n[strategy.averaging]",
            "x.toml:1:10: shares: \"proportional\" needs data_order \"global\" and a strategy that weighs "
            "workers by their samples, which averaging does not (allowed: equal)"},
        Mistake{
            "[strategy.adpsgd]\ndata_order = 'queue'",
            "x.toml:2:14: strategy.adpsgd.data_order: \"queue\" needs a parameter server, which adpsgd has "
            "not (allowed: auto, shard)"},
        Mistake{"optimizer.schedule = 'step'\n[strategy.sync]",
                "x.toml:1:22: optimizer.schedule: \"step\" needs a length (allowed: "
                "optimizer.schedule_samples from "
                "1 up)"},
        Mistake{"workers = 2\n[strategy.bmuf]\neta = 0.9",
                "x.toml:2:11: strategy.bmuf: eta, zeta and convention make an effective gain of 10 with 2 "
                "workers (allowed: 0.5 to 4, or force_gain = true)"},
        Mistake{"servers = 2\noptimizer.rule = 'lars'\n[strategy.ssp]",
                "x.toml:1:11: servers: lars needs norms over what 2 servers hold in parts (allowed: 1)"},
        Mistake{
            "servers = 2\noptimizer.clip = 1\n[strategy.ssp]\n[strategy.easgd]\n[strategy.sync]",
            "x.toml:1:11: servers: optimizer.clip needs norms over what 2 servers hold in parts (allowed: "
            "1)"},
        Mistake{"optimizer.rule = 'adam'\noptimizer.momentum = 1\n[strategy.sync]",
                "x.toml:2:22: optimizer.momentum: adam never moves with 1 (allowed: numbers below 1)"},
        Mistake{
            "workers = [1, 2]\n[faults]\nleave_step = 3\n[strategy.sync]",
            "x.toml:3:14: faults.leave_step: nobody would be left to go on (allowed: 0, or workers from 2 "
            "up)"},
        Mistake{"workers = 2\n[faults]\nleave_step = 3\nleave_worker = 2\n[strategy.sync]",
                "x.toml:4:16: faults.leave_worker: there is no worker 2 (allowed: up to 1)"},
        Mistake{"workers = [2, 4]\ncluster.straggler.workers = 3\ncluster.straggler.slowdown = [1, "
                "4]\n[strategy.sync]",
                "x.toml:2:29: cluster.straggler.workers: there are only 2 workers (allowed: up to 2)"},
        Mistake{
            "engine = 'simulated'\n[cluster]\nstraggler.workers = 2\nstraggler.slowdown = 4\n[strategy.sync]",
            "x.toml:3:21: cluster.straggler.workers: there is only 1 worker (allowed: up to 1)"},
        Mistake{"faults.drop = [0, 0.1]\n[strategy.sync]",
                "x.toml:1:19: faults.drop: sync does not tolerate a push that never arrives (allowed: 0, or "
                "strategies downpour, staleness_aware, dc_asgd, fasgd, sandblaster)"},
        Mistake{"[strategy.eamsgd]\noptimizer.rule = 'momentum'",
                "x.toml:1:11: strategy.eamsgd: delta is the momentum of its local steps (allowed: "
                "optimizer.rule = \"sgd\")"},
        Mistake{
            "dataset = 'synthetic'\nsynthetic.train = 3\nworkers = [2, 4]\n[strategy.sync]\nminibatch = 1",
            "x.toml:2:19: synthetic.train: 3 training samples are too few for 4 workers (allowed: "
            "synthetic.train from 4 up)"},
        Mistake{
            "servers = [1, 2]\n[strategy.downpour]\n[strategy.sync]",
            "x.toml:1:15: servers: duplicate run: 1 and 2 make no difference to sync with its other settings "
            "(allowed: values that do; an axis for some strategies only belongs into their tables)"},
        Mistake{
            "seed = [1, 2]\n[strategy.sync]\noptimizer.momentum = [0.5, 0.9]",
            "x.toml:3:28: strategy.sync.optimizer.momentum: duplicate run: 0.5 and 0.9 make no difference to "
            "sync with its other settings (allowed: values that do; an axis for some strategies only belongs "
            "into their tables)"},
        Mistake{
            "data_order = ['auto', 'global']\n[strategy.sync]",
            "x.toml:1:23: data_order: duplicate run: \"auto\" and \"global\" make no difference to sync with "
            "its "
            "other settings (allowed: values that do; an axis for some strategies only belongs into their "
            "tables)"}));

// Of the optimizer's rules and options no strategy refuses others than these: mpi_identities_test, which
// leaves out the same, runs all the rest.
TEST(Experiment, RefusesAnOptimizerWhereItMeansNothing) {
  for (const StrategyEntry* strategy : all_strategies())
    for (const std::string& rule : optimizer_rules())
      for (const int clip : {0, 1})
        for (const int servers : {1, 2}) {
          const std::string& name = strategy->name;
          const bool elastic = name == "easgd" || name == "eamsgd";
          const bool own_rule = name == "eamsgd" || name == "eamsgd_sync" || name == "sandblaster";
          const bool refused = (own_rule && rule != "sgd") ||
                               ((name == "sandblaster" || name == "signsgd") && clip) ||
                               (strategy->make_rule && servers > 1 && !elastic &&
                                (rule == "lars" || (clip && name != "downpour")));
          const std::string text =
              fmt::format("servers = {}\noptimizer.rule = '{}'\noptimizer.clip = {}\n[strategy.{}]", servers,
                          rule, clip, name);
          EXPECT_EQ(problems(text) != Lines{"no problem"}, refused) << text;
        }
}

// One sample less is a mistake above.
TEST(Experiment, TakesTheSmallestBudgets) {
  for (const char* text :
       {"samples = 6000\n[strategy.sandblaster]",
        "samples = 8961\nworkers = 8\n[strategy.sandblaster]\nbatch = 500\nportion = 40",
        "samples = 97\nworkers = 4\n[strategy.staleness_aware]\n[strategy.adpsgd]\n[strategy.ssp]",
        "samples = 96001\nworkers = 4\n[strategy.downpour]\nn_fetch = 1000",
        "samples = 6401\nworkers = 2\n[strategy.easgd]\ntau = 200\n[strategy.eamsgd]\ntau = 200",
        "samples = 32\n[strategy.downpour]\nwarm_start = 64\nn_fetch = 1000",
        "samples = 128\nworkers = 4\n[strategy.sync]\n[strategy.averaging]\ntau = 1000",
        "dataset = 'synthetic'\nworkers = 312\n[strategy.sync]",
        "minibatch = 60000\n[strategy.staleness_aware]",
        "samples = 60001\nworkers = 2\nminibatch = 60000\ndata_order = 'queue'\n[strategy.downpour]",
        "sample_fraction = 0.0001\n[strategy.sync]"})
    EXPECT_NO_THROW(parse_experiment(text, "x.toml")) << text;
}

TEST(Experiment, ReportsAllMistakesAtOnceInTheFilesOrder) {
  const std::string text =
      "workers = [1, 0]\n"
      "minibach = 32\n"
      "optimizer.rule = 'fast'\n"
      "samples = 'many'\n"
      "\n"
      "[strategy.bmuf]\n"
      "zeta = -1\n"
      "blok = 3\n"
      "[strategy.hogwild]\n"
      "[strategy.downpour]\n"
      "n_fetch = 0\n"
      "data_order = 'global'\n";
  EXPECT_EQ(
      problems(text, {"seed=x", "stall_limit=0"}),
      (Lines{
          "x.toml:1:15: workers: 0 is out of range (allowed: integers from 1 to 4096)",
          "x.toml:2:1: minibach: unknown key, did you mean minibatch?",
          "x.toml:3:18: optimizer.rule: unknown value \"fast\" (allowed: sgd, momentum, nesterov, adagrad, "
          "adam, adamw, lars)",
          "x.toml:4:12: samples: in \"many\": unknown name \"many\" (allowed: a number, minibatch, workers, "
          "sqrt(...), parentheses)",
          "x.toml:7:8: strategy.bmuf.zeta: -1 is out of range (allowed: numbers from 0 to 100)",
          "x.toml:8:1: strategy.bmuf.blok: unknown key, did you mean block?",
          fmt::format("x.toml:9:11: strategy.hogwild: unknown strategy (allowed: {})", strategy_list()),
          "x.toml:11:11: strategy.downpour.n_fetch: 0 is out of range (allowed: integers from 1 to "
          "1000000000)",
          "x.toml:12:14: strategy.downpour.data_order: \"global\" needs workers in lock-step, which downpour "
          "has "
          "not (allowed: auto, shard, queue)",
          "--set seed=x: seed: expected an integer, got \"x\" (allowed: integers from 0 up)",
          "--set stall_limit=0: stall_limit: 0 is out of range (allowed: numbers from 1 to 100000000)"}));
}

TEST(Experiment, AMistakenKeyCausesNoMoreComplaints) {
  // Neither "20 samples are less than a minibatch of 32", nor "momentum makes no difference to sgd".
  EXPECT_EQ(problems("samples = 20\nminibatch = 0\noptimizer.rule = 'x'\noptimizer.momentum = [0.1, 0.2]\n"
                     "[strategy.sync]"),
            (Lines{"x.toml:2:13: minibatch: 0 is out of range (allowed: integers from 1 to 65536)",
                   "x.toml:3:18: optimizer.rule: unknown value \"x\" (allowed: sgd, momentum, nesterov, "
                   "adagrad, adam, adamw, lars)"}));
}

TEST(Experiment, RefusesAbsurdProducts) {
  std::string hundred = "1";
  for (int i = 2; i <= 101; ++i) hundred += fmt::format(", {}", i);
  EXPECT_EQ(problems(fmt::format("seed = [{}]\nworkers = [1, 2]\n[strategy.sync]\nminibatch = [{}]", hundred,
                                 hundred.substr(0, hundred.rfind(',')))),
            Lines{"x.toml:1:1: seed: the axes multiply to 20200 runs (allowed: up to 10000)"});
}

TEST(Experiment, PrecisionMustSuitTheDevice) {
  EXPECT_EQ(problems("device = 'reference'\nprecision = ['fp32', 'bf16']\n[strategy.sync]"),
            Lines{"x.toml:2:22: precision: not with device reference: it is the specification, in double "
                  "precision (allowed: fp32)"});
  const RunConfig plain = run_of("[strategy.sync]");
  EXPECT_EQ(run_of("precision = 'fp32'\n[strategy.sync]").id(), plain.id());
  if (!plain.device().unavailable(Precision::bf16).empty()) return;
  const RunConfig half = run_of("precision = 'bf16'\n[strategy.sync]");
  EXPECT_NE(half.id(), plain.id());
  EXPECT_EQ(half.precision(), Precision::bf16);
}

TEST(Experiment, DevicesThatCannotBeUsedSayWhy) {
  Lines usable{"auto"};
  for (const DeviceEntry& d : all_devices())
    if (d.unavailable().empty()) usable.push_back(d.name);
  ASSERT_GE(usable.size(), 2u);
  EXPECT_EQ(run_of("[strategy.sync]").settings.text("device"), usable.back());
  for (const DeviceEntry& d : all_devices()) {
    const std::string text = fmt::format("device = '{}'\n[strategy.sync]", d.name);
    if (d.unavailable().empty())
      EXPECT_EQ(run_of(text).settings.text("device"), d.name);
    else
      EXPECT_EQ(problems(text),
                Lines{fmt::format("x.toml:1:10: device: \"{}\" cannot be used here: {} (allowed: {})", d.name,
                                  d.unavailable(), fmt::join(usable, ", "))});
  }
}

// As written by experiments, and hashed into ids, before the device had its name.
TEST(Experiment, FormerNameOfADeviceMeansTheSameRun) {
  const RunConfig now = run_of("device = 'cpu'\n[strategy.sync]"),
                  then = run_of("device = 'onednn'\n[strategy.sync]");
  EXPECT_EQ(then.settings.text("device"), "cpu");
  EXPECT_EQ(then.id(), now.id());
  std::string text = now.canonical();
  text.replace(text.find("\"cpu\""), 5, "\"onednn\"");
  EXPECT_EQ(now.id(), sha256_text(text).substr(0, 12));
  EXPECT_EQ(problems("device = ['cpu', 'onednn']\n[strategy.sync]").size(), 1u) << "the same run twice";
}

// In a build without SimGrid: what was found, why that does not do, and what helps.
TEST(Experiment, EngineMustBeUsable) {
  Lines expected{"no problem"};
  if (const auto lack = no_simulator()) {
    EXPECT_NE(lack->why, "");
    EXPECT_NE(lack->remedy, "");
    expected = {fmt::format("x.toml:1:10: engine: \"simulated\" cannot be used here: {}; {} (allowed: mpi)",
                            lack->why, lack->remedy)};
  }
  EXPECT_EQ(problems("engine = 'simulated'\n[strategy.sync]"), expected);
}

TEST(Experiment, DefaultsAreThoseOfTheTable) {
  const RunConfig run = run_of("[strategy.sync]");
  for (const RunKey& key : run_keys()) {
    if (key.name == "device" || key.name == "data_order" || key.name == "normalise") continue;  // resolved
    if (key.name.starts_with("cluster.")) continue;  // of simulated runs
    EXPECT_EQ(run.settings.values().at(key.name), key.fallback) << key.name;
    EXPECT_EQ(run.data_order(), DataOrder::global);
  }
  EXPECT_EQ(run.settings.text("data_order"), "global");
  EXPECT_EQ(run.settings.text("normalise"), "none");
  EXPECT_EQ(run.servers(), 0);
  EXPECT_EQ(run.ranks(), 1);
  EXPECT_EQ(run_of("workers = 3\nservers = 2\n[strategy.downpour]").ranks(), 5);
}

TEST(Experiment, PixelsAreReadAsTheSetOrTheRunSays) {
  const RunConfig plain = run_of("[strategy.sync]");
  EXPECT_FALSE(plain.normalised());
  EXPECT_FALSE(plain.augmentation().crop_flip);
  const RunConfig other = run_of("normalise = 'channel'\naugment = 'crop_flip'\nseed = 5\n[strategy.sync]");
  EXPECT_TRUE(other.normalised());
  EXPECT_TRUE(other.augmentation().crop_flip);
  EXPECT_EQ(other.augmentation().seed, 5u);
  EXPECT_EQ(problems("normalise = ['auto', 'none']\n[strategy.sync]").size(), 1u);  // twins
  EXPECT_EQ(problems("dataset = 'synthetic'\nmodel = 'mlp'\nsynthetic.shape = '3x4x32'\n"
                     "augment = 'crop_flip'\n[strategy.sync]"),
            Lines{"x.toml:4:11: augment: \"crop_flip\" shifts by up to 4 pixels and could leave nothing of "
                  "images of 3x4x32 (allowed: none)"});
}

TEST(Experiment, DottedKeysTablesAndInlineTablesAreTheSame) {
  const RunConfig dotted = run_of(
      "dataset = 'synthetic'\nsynthetic.shape = '20'\nsynthetic.train = 640\nmodel = 'mlp'\n"
      "optimizer.rule = 'nesterov'\noptimizer.learning_rate = 1\noptimizer.schedule = 'warmup'\n"
      "optimizer.schedule_samples = 64\noptimizer.schedule_factor = 0.5\nstrategy.averaging.tau = 3\n");
  const RunConfig tables = run_of(
      "# a comment\nmodel   = \"mlp\"\n\ndataset='synthetic'\n[strategy.averaging]\ntau=3\n"
      "[optimizer]\nschedule_factor = 5e-1\nlearning_rate = 1.0\nschedule = 'warmup'\nschedule_samples = "
      "0x40\n"
      "rule = 'nesterov'\n[synthetic]\ntrain=6_40\nshape='20x1x1'\n");
  const RunConfig inlined = run_of(
      "dataset = 'synthetic'\nsynthetic = {shape = '20', train = 640}\nmodel = 'mlp'\noptimizer = {rule = "
      "'nesterov', learning_rate = 1, schedule = 'warmup', schedule_samples = 64, schedule_factor = 0.5}\n"
      "strategy = {averaging = {tau = 3}}\n");
  EXPECT_EQ(dotted.id(), tables.id());
  EXPECT_EQ(dotted.text(), tables.text());
  EXPECT_EQ(dotted.text(), inlined.text());
  const OptimizerSettings o = tables.optimizer();
  EXPECT_EQ(o.rule, OptimizerSettings::Rule::nesterov);
  EXPECT_EQ(o.learning_rate, 1);
  EXPECT_EQ(o.schedule.kind, Schedule::Kind::warmup);
  EXPECT_EQ(o.schedule.samples, 64);
  EXPECT_EQ(o.schedule.factor, 0.5);
  const SyntheticSpec s = tables.synthetic();
  EXPECT_EQ(s.shape, (Shape{20, 1, 1}));
  EXPECT_EQ(s.train, 640u);
  EXPECT_EQ(tables.strategy_settings.integer("tau"), 3);
}

// The product.

Lines described(const Experiment& e) {
  Lines lines;
  for (const RunConfig& r : e.runs)
    lines.push_back(fmt::format("{} {} {}w b{}{}", r.seed(), r.strategy->name, r.workers(), r.minibatch(),
                                r.strategy_settings.values().contains("tau")
                                    ? fmt::format(" tau{}", r.strategy_settings.integer("tau"))
                                    : ""));
  return lines;
}

TEST(Experiment, InterleavesSeedsThenWorkersThenStrategiesAsInTheFile) {
  const Experiment e = parse_experiment(
      "title = 'T'\nseed = [7, 3]\nworkers = [2, 1]\n"
      "[strategy.downpour]\nminibatch = [64, 32]\n"
      "[strategy.averaging]\ntau = [5, 1]\n"
      "[strategy.bmuf]\nworkers = 2\n",
      "x.toml");
  EXPECT_EQ(e.title, "T");
  EXPECT_EQ(described(e), (Lines{"7 downpour 2w b64", "7 downpour 2w b32", "7 averaging 2w b32 tau5",
                                 "7 averaging 2w b32 tau1", "7 bmuf 2w b32", "7 downpour 1w b64",
                                 "7 downpour 1w b32", "7 averaging 1w b32 tau5",
                                 "7 averaging 1w b32 tau1",  //
                                 "3 downpour 2w b64", "3 downpour 2w b32", "3 averaging 2w b32 tau5",
                                 "3 averaging 2w b32 tau1", "3 bmuf 2w b32", "3 downpour 1w b64",
                                 "3 downpour 1w b32", "3 averaging 1w b32 tau5", "3 averaging 1w b32 tau1"}));
}

TEST(Experiment, AStrategysTableTakesThePlaceOfTheTopLevelForItsRunsOnly) {
  const Experiment e = parse_experiment(
      "optimizer.rule = 'momentum'\nminibatch = [16, 32]\ntarget = 0.8\n"
      "[strategy.sync]\n[strategy.bmuf]\nminibatch = 8\ntarget = 0.9\noptimizer.learning_rate = 0.5\n"
      "momentum = 'classic'\n",
      "x.toml");
  EXPECT_EQ(described(e), (Lines{"1 sync 1w b16", "1 sync 1w b32", "1 bmuf 1w b8"}));
  EXPECT_EQ(e.runs[0].optimizer().learning_rate, 0.1);
  EXPECT_EQ(e.runs[2].optimizer().learning_rate, 0.5);
  EXPECT_EQ(e.runs[2].optimizer().rule, OptimizerSettings::Rule::momentum);
  EXPECT_EQ(e.runs[2].optimizer().momentum, 0.9);  // not bmuf's own parameter of that name
  EXPECT_EQ(e.runs[2].strategy_settings.text("momentum"), "classic");
  EXPECT_EQ(e.runs[1].settings.number("target"), 0.8);
  EXPECT_EQ(e.runs[2].settings.number("target"), 0.9);
}

// Settings that depend on the number of workers.

double value_of(const std::string& text, double workers = 4, double minibatch = 32) {
  const Expression expression = parse_expression(text, {"workers", "minibatch"});
  return evaluate(expression, {{"workers", workers}, {"minibatch", minibatch}}).value();
}

TEST(Expressions, FollowTheRulesOfArithmetic) {
  EXPECT_EQ(value_of("workers"), 4);
  EXPECT_EQ(value_of("2 + 3 * workers"), 14);
  EXPECT_EQ(value_of("(2 + 3) * workers"), 20);
  EXPECT_EQ(value_of("20 - 4 - 3"), 13);
  EXPECT_EQ(value_of("64 / 4 / 2"), 8);
  EXPECT_EQ(value_of("256 / workers * 2"), 128);
  EXPECT_EQ(value_of("-workers + 5"), 1);
  EXPECT_EQ(value_of("2 * -workers"), -8);
  EXPECT_EQ(value_of("--1"), 1);
  EXPECT_EQ(value_of("sqrt(workers * 4) / minibatch"), 0.125);
  EXPECT_EQ(value_of("  .5e1*workers "), 20);
  EXPECT_EQ(parse_expression(" 0.1 *  workers", {"workers"}).text, "0.1*workers");
  EXPECT_EQ(parse_expression("workers * 2", {"workers", "minibatch"}).names,
            std::set<std::string>{"workers"});
}

TEST(Expressions, GiveTheNumberThatWouldBeWritten) {
  EXPECT_NE(0.1 * 3, 0.3);
  EXPECT_EQ(value_of("0.1 * workers", 3), 0.3);
  EXPECT_EQ(value_of("0.1 * workers * 10", 3), 3);
  EXPECT_EQ(value_of("1 / workers", 3), 0.333333333333333);
}

TEST(Expressions, DivisionByZeroHasNoValue) {
  for (const char* text : {"1 / (workers - 4)", "1 / (1 / (workers - 4))", "0 / 0"})
    EXPECT_EQ(evaluate(parse_expression(text, {"workers"}), {{"workers", 4}}), std::nullopt) << text;
}

TEST(Expressions, MistakesAreNamedWithPlaceAndRemedy) {
  const auto mistake = [](const std::string& text) {
    try {
      parse_expression(text, {"workers", "minibatch"});
    } catch (const ExpressionError& e) {
      return fmt::format("{} {}", e.at, e.what());
    }
    return std::string("none");
  };
  const std::string allowed = " (allowed: a number, minibatch, workers, sqrt(...), parentheses)";
  EXPECT_EQ(mistake("0.1 * worker"), "6 unknown name \"worker\", did you mean workers?" + allowed);
  EXPECT_EQ(mistake("square(4)"), "0 unknown name \"square\"" + allowed);
  EXPECT_EQ(mistake("256 /"), "5 expected a number or a name, got the end" + allowed);
  EXPECT_EQ(mistake(""), "0 expected a number or a name, got the end" + allowed);
  EXPECT_EQ(mistake("2 ^ workers"), "2 expected an operator, got \"^ workers\" (allowed: + - * /)");
  EXPECT_EQ(mistake("2 workers"), "2 expected an operator, got \"workers\" (allowed: + - * /)");
  EXPECT_EQ(mistake("(workers + 1"), "12 expected \")\", got the end (allowed: + - * / ))");
  EXPECT_EQ(mistake("1e999"), "0 expected a number, got \"1e999\" (allowed: numbers such as 0.1 or 1e-3)");
  EXPECT_EQ(mistake("."), "0 expected a number, got \".\" (allowed: numbers such as 0.1 or 1e-3)");
  EXPECT_EQ(mistake(std::string(100000, '(')), "200 is too long (allowed: up to 200 letters)");
}

using ExpressionsOf = std::map<std::string, std::string>;

TEST(Experiment, SettingsMayDependOnTheNumberOfWorkers) {
  const Experiment e = parse_experiment(
      "workers = [1, 4]\nminibatch = '64 / workers'\n[strategy.sync]\noptimizer.learning_rate = '0.1 * "
      "workers * minibatch'\n[strategy.staleness_aware]\nn = 'workers'\n",
      "x.toml");
  EXPECT_EQ(described(e), (Lines{"1 sync 1w b64", "1 staleness_aware 1w b64", "1 sync 4w b16",
                                 "1 staleness_aware 4w b16"}));
  EXPECT_EQ(e.runs[0].optimizer().learning_rate, 6.4);
  EXPECT_EQ(e.runs[3].strategy_settings.integer("n"), 4);
  EXPECT_EQ(e.runs[2].expressions, (ExpressionsOf{{"minibatch", "64/workers"},
                                                  {"optimizer.learning_rate", "0.1*workers*minibatch"}}));
  EXPECT_EQ(e.runs[3].expressions, (ExpressionsOf{{"minibatch", "64/workers"}, {"strategy.n", "workers"}}));
  EXPECT_EQ(run_of("optimizer.learning_rate = '0.1 * minibatch'\nworkers = 2\nminibatch = '128 / "
                   "workers'\n[strategy.sync]")
                .optimizer()
                .learning_rate,
            6.4);  // in whatever order
  const RunConfig set =
      run_of("workers = 3\n[strategy.staleness_aware]",
             {"strategy.staleness_aware.n=workers", "optimizer.learning_rate=0.1 * workers"});
  const RunConfig said =
      run_of("workers = 3\noptimizer.learning_rate = 0.3\n[strategy.staleness_aware]\nn = 3");
  EXPECT_EQ(set.id(), said.id());
  EXPECT_EQ(set.text(), said.text());
  EXPECT_EQ(said.expressions, ExpressionsOf());
  EXPECT_EQ(parse_experiment("workers = [2, 4]\n[strategy.sync]", "x.toml",
                             {"minibatch=[128 / workers, 8, (workers + 2)*5]"})
                .runs.size(),
            6u);
}

INSTANTIATE_TEST_SUITE_P(
    Expressions, Mistakes,
    testing::Values(
        Mistake{"workers = 4\nminibatch = '256 / wokers'\n[strategy.sync]",
                "x.toml:2:20: minibatch: in \"256 / wokers\": unknown name \"wokers\", did you mean workers? "
                "(allowed: a number, workers, sqrt(...), parentheses)"},
        Mistake{
            "[strategy.sync]\noptimizer.learning_rate = [0.1, '0.1 * (workers']",
            "x.toml:2:48: strategy.sync.optimizer.learning_rate: in \"0.1 * (workers\": expected \")\", got "
            "the end (allowed: + - * / ))"},
        Mistake{
            "workers = [1, 3]\nminibatch = '256 / workers'\n[strategy.sync]",
            "x.toml:2:13: minibatch: \"256/workers\" is 85.3333333333333 with workers = 3 (allowed: integers "
            "from 1 to 65536)"},
        Mistake{
            "workers = [1, 32]\nminibatch = '4000 * workers'\noptimizer.learning_rate = '0.1 * minibatch'\n"
            "[strategy.sync]\n[strategy.averaging]",
            "x.toml:2:13: minibatch: \"4000*workers\" is 128000 with workers = 32 (allowed: integers from 1 "
            "to 65536)"},
        Mistake{"workers = [1, 2]\noptimizer.learning_rate = '1 / (workers - 1)'\n[strategy.sync]",
                "x.toml:2:27: optimizer.learning_rate: \"1/(workers-1)\" divides by zero with workers = 1 "
                "(allowed: numbers from 0 to 1000000)"},
        Mistake{"optimizer.learning_rate = 'sqrt(workers - minibatch)'\n[strategy.sync]",
                "x.toml:1:27: optimizer.learning_rate: \"sqrt(workers-minibatch)\" has no value with "
                "minibatch = 32, "
                "workers = 1 (allowed: numbers from 0 to 1000000)"},
        Mistake{
            "samples = '1e20 * workers'\n[strategy.sync]",
            "x.toml:1:11: samples: \"1e20*workers\" is 1e+20 with workers = 1 (allowed: integers from 1 to "
            "1000000000000)"},
        Mistake{"minibatch = '32'\n[strategy.sync]",
                "x.toml:1:13: minibatch: expected an integer, got \"32\" (allowed: integers from 1 to 65536, "
                "or in "
                "terms of workers)"},
        Mistake{"minibatch = 'minibatch'\n[strategy.sync]",
                "x.toml:1:14: minibatch: in \"minibatch\": unknown name \"minibatch\" (allowed: a number, "
                "workers, "
                "sqrt(...), parentheses)"},
        Mistake{"seed = 'workers'\n[strategy.sync]",
                "x.toml:1:8: seed: expected an integer, got \"workers\" (allowed: integers from 0 up)"},
        Mistake{"workers = 0\nminibatch = '3 / workers'\n[strategy.sync]",
                "x.toml:1:11: workers: 0 is out of range (allowed: integers from 1 to 4096)"}));

TEST(Experiment, ListsMayGoTogether) {
  const std::string text =
      "workers = [1, 2, 4]\nminibatch = [64, 32, 16]\nseed = [1, 2]\n[strategy.averaging]\ntau = [1, 5]\n";
  EXPECT_EQ(parse_experiment(text, "x.toml").runs.size(), 36u);
  for (const char* together :
       {"together = ['workers', 'minibatch']\n", "together = [['minibatch', 'workers']]\n"})
    EXPECT_EQ(described(parse_experiment(together + text, "x.toml")),
              (Lines{"1 averaging 1w b64 tau1", "1 averaging 1w b64 tau5", "1 averaging 2w b32 tau1",
                     "1 averaging 2w b32 tau5", "1 averaging 4w b16 tau1", "1 averaging 4w b16 tau5",
                     "2 averaging 1w b64 tau1", "2 averaging 1w b64 tau5", "2 averaging 2w b32 tau1",
                     "2 averaging 2w b32 tau5", "2 averaging 4w b16 tau1", "2 averaging 4w b16 tau5"}));
  EXPECT_EQ(described(parse_experiment(
                text, "x.toml", {"together=[workers, minibatch]", "seed=3", "strategy.averaging.tau=5"})),
            (Lines{"3 averaging 1w b64 tau5", "3 averaging 2w b32 tau5", "3 averaging 4w b16 tau5"}));
  // In a strategy's table, values repeated.
  const Experiment e = parse_experiment(
      "workers = [1, 2, 4]\n[strategy.sync]\n[strategy.averaging]\ntau = [1, 5, 5]\ntogether = ['workers', "
      "'tau']\n",
      "x.toml");
  EXPECT_EQ(described(e), (Lines{"1 sync 1w b32", "1 averaging 1w b32 tau1", "1 sync 2w b32",
                                 "1 averaging 2w b32 tau5", "1 sync 4w b32", "1 averaging 4w b32 tau5"}));
  EXPECT_EQ(e.runs[1].expressions, (ExpressionsOf{{"strategy.tau", "1,5,5 for workers=1,2,4"}}));
  EXPECT_EQ(e.runs[0].expressions, ExpressionsOf());
  // In place of the top level's.
  EXPECT_EQ(
      described(parse_experiment(
          "together = ['workers', 'minibatch']\nworkers = [1, 2]\nminibatch = [64, 32]\n[strategy.sync]\n"
          "[strategy.averaging]\ntau = [1, 5]\ntogether = ['workers', 'tau']\n",
          "x.toml")),
      (Lines{"1 sync 1w b64", "1 averaging 1w b64 tau1", "1 averaging 1w b32 tau1", "1 sync 2w b32",
             "1 averaging 2w b64 tau5", "1 averaging 2w b32 tau5"}));
}

INSTANTIATE_TEST_SUITE_P(
    Together, Mistakes,
    testing::Values(
        Mistake{
            "together = ['workers', 'minibatch']\nworkers = [1, 2]\nminibatch = [3, 4, 5]\n[strategy.sync]",
            "x.toml:3:1: minibatch: has 3 values and workers has 2, but they go together (allowed: as many)"},
        Mistake{"together = ['workers', 'minibatch']\nworkers = [1, 2]\n[strategy.sync]",
                "x.toml:1:1: together: minibatch has no values for sync (allowed: keys with arrays)"},
        Mistake{"together = ['workers', 'minibach']\nworkers = [1, 2]\n[strategy.sync]",
                "x.toml:1:24: together: unknown key minibach, did you mean minibatch? (allowed: keys of this "
                "table)"},
        Mistake{"together = [['workers', 'minibatch'], ['seed', 'workers']]\n[strategy.sync]",
                "x.toml:1:48: together: workers is named twice (allowed: once)"},
        Mistake{"together = 'workers'\n[strategy.sync]",
                "x.toml:1:12: together: expected lists of keys (allowed: such as [\"workers\", "
                "\"minibatch\"], or "
                "several in a list)"},
        Mistake{"together = ['workers']\n[strategy.sync]",
                "x.toml:1:12: together: expected lists of keys (allowed: such as [\"workers\", "
                "\"minibatch\"], or "
                "several in a list)"},
        Mistake{"togethr = ['workers', 'seed']\n[strategy.sync]",
                "x.toml:1:1: togethr: unknown key, did you mean together?"}));

// Overrides.

TEST(Override, TakesThePlaceOfALine) {
  const std::string text =
      "workers = [1, 2]\nmodel = 'lenet'\n[strategy.averaging]\ntau = 5\n[strategy.sync]\n";
  EXPECT_EQ(described(parse_experiment(text, "x.toml",
                                       {"workers=3", "strategy.averaging.tau=[1, 2]", "minibatch=8",
                                        "strategy.sync.minibatch=16", "minibatch=4"})),
            (Lines{"1 averaging 3w b4 tau1", "1 averaging 3w b4 tau2", "1 sync 3w b16"}));
}

TEST(Override, BareWordsAreText) {
  const std::string text = "[strategy.sync]";
  EXPECT_EQ(run_of(text, {"model=mlp"}).settings.text("model"), "mlp");
  EXPECT_EQ(run_of(text, {"model=\"mlp\""}).settings.text("model"), "mlp");
  EXPECT_EQ(run_of(text, {"title=My = run"}).settings.text("title"), "My = run");
  EXPECT_EQ(run_of(text, {"title="}).settings.text("title"), "");
  EXPECT_EQ(run_of(text, {"dataset=synthetic", "synthetic.shape=1x28x28"}).synthetic().shape,
            (Shape{1, 28, 28}));
  EXPECT_EQ(run_of(text, {"optimizer={rule='sgd', l2=0.5}"}).optimizer().l2, 0.5);
  const Experiment e = parse_experiment(text, "x.toml", {"model=[mlp, \"dnn\",lenet]", "seed=[1,2]"});
  ASSERT_EQ(e.runs.size(), 6u);
  EXPECT_EQ(e.runs[0].settings.text("model"), "mlp");
  EXPECT_EQ(e.runs[2].settings.text("model"), "lenet");
}

TEST(Override, MistakesNameTheOverride) {
  const std::string text = "[strategy.sync]\n[strategy.bmuf]\noptimizer.l2=0";
  const auto of = [&](const std::string& override) { return problems(text, {override}); };
  EXPECT_EQ(of("workers=0"),
            Lines{"--set workers=0: workers: 0 is out of range (allowed: integers from 1 to 4096)"});
  EXPECT_EQ(of("worker=1"), Lines{"--set worker=1: worker: unknown key, did you mean workers?"});
  EXPECT_EQ(
      of("workers=1,2"),
      Lines{
          "--set workers=1,2: workers: expected an integer, got \"1,2\" (allowed: integers from 1 to 4096)"});
  EXPECT_EQ(
      of("workers=[]"),
      Lines{"--set workers=[]: workers: an empty array makes no runs (allowed: integers from 1 to 4096)"});
  EXPECT_EQ(of("workers"),
            Lines{"--set workers: workers: expected KEY=VALUE (allowed: a key from `dsgd list keys`)"});
  EXPECT_EQ(of("#seed=3"),
            Lines{"--set #seed=3: #seed: expected KEY=VALUE (allowed: a key from `dsgd list keys`)"});
  EXPECT_EQ(of("=3"), Lines{"--set =3: : expected KEY=VALUE (allowed: a key from `dsgd list keys`)"});
  EXPECT_EQ(of("strategy.bmuf.blok=3"),
            Lines{"--set strategy.bmuf.blok=3: strategy.bmuf.blok: unknown key, did you mean block?"});
  EXPECT_EQ(
      of("strategy.averaging.tau=3"),
      Lines{"--set strategy.averaging.tau=3: strategy.averaging: is not in this experiment (allowed: sync, "
            "bmuf)"});
  EXPECT_EQ(of("strategy.bmf.tau=3"),
            Lines{fmt::format("--set strategy.bmf.tau=3: strategy.bmf: unknown strategy, did you mean bmuf? "
                              "(allowed: {})",
                              strategy_list())});
  EXPECT_EQ(
      of("title=\"open"),
      Lines{"--set title=\"open: title: Error while parsing string: encountered end-of-file (allowed: TOML, "
            "text in quotes)"});
  EXPECT_EQ(of("a b=3"),
            Lines{"--set a b=3: a b: Error while parsing key-value pair: expected '=', saw 'b' (allowed: "
                  "TOML, text in quotes)"});
  EXPECT_EQ(
      problems("[strategy.sync]\noptimizer.l2 = 0\n[strategy.bmuf]\noptimizer.l2=0", {"optimizer.l2=1"}),
      Lines{"--set optimizer.l2=1: optimizer.l2: has no effect, for every strategy sets its own (allowed: "
            "strategy.NAME.optimizer.l2)"});
}

// Identity and round trip.

std::map<std::string, Value> everything(const RunConfig& run) {
  std::map<std::string, Value> all = run.settings.values();
  for (const auto& [key, value] : run.strategy_settings.values()) all["strategy." + key] = value;
  all["strategy"] = run.strategy->name;
  all.erase("cluster.name");  // a run holds all that the file says
  return all;
}

void expect_round_trip(RunConfig run) {
  const RunConfig again = parse_run(run.text());
  if (run.simulated()) run.settings.set("cluster.name", std::string());  // what it stands for is said
  EXPECT_EQ(everything(again), everything(run));
  EXPECT_EQ(again.text(), run.text());
  EXPECT_EQ(again.name(), run.name());
}

TEST(Run, TextReadsBackToTheSameRun) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  for (const fs::path& file : shipped_experiments()) {
    const bool local = file.stem() == "validate-simulation";  // simulates what this machine may not have
    for (const RunConfig& run : load_experiment(file, local ? Lines{"engine=mpi"} : Lines{}).runs)
      expect_round_trip(run);
  }
  const Experiment odd = parse_experiment(
      "title = \"quote \\\" backslash \\\\ newline \\n tab \\t bell \\u0007 umlaut \u00fc\"\n"
      "optimizer.rule = ['adagrad', 'nesterov']\noptimizer.learning_rate = [0.1, 1e-30, 3, "
      "0.30000000000000004]\n"
      "optimizer.schedule = 'step'\noptimizer.schedule_samples = 999999999999\nsamples = 1_000_000_000_000\n"
      "seed = [0, 9223372036854775807]\nservers = 3\ndataset = ['synthetic', 'mnist']\ntarget = -0.0\n"
      "[strategy.sync]\n[strategy.downpour]\n[strategy.bmuf]\neta = 0.3333333333333333\n",
      "x.toml");
  EXPECT_EQ(odd.runs.size(), 96u);
  for (const RunConfig& run : odd.runs) expect_round_trip(run);
}

TEST(Run, CanonicalFormIsPinned) {
  // Changing these lines changes the name of every result that users have.
  EXPECT_EQ(run_of("device = 'reference'\nworkers = 2\nservers = 4\n[strategy.sync]").canonical(),
            "data_order = \"global\"\n"
            "dataset = \"fashion-mnist\"\n"
            "device = \"reference\"\n"
            "engine = \"mpi\"\n"
            "minibatch = 32\n"
            "model = \"lenet\"\n"
            "optimizer.l2 = 0.0\n"
            "optimizer.learning_rate = 0.1\n"
            "optimizer.rule = \"sgd\"\n"
            "optimizer.schedule = \"constant\"\n"
            "samples = 60000\n"
            "seed = 1\n"
            "snapshots = 10\n"
            "strategy.sync.aggregation = \"allreduce\"\n"
            "strategy.sync.depth = 2\n"
            "workers = 2\n");
  EXPECT_EQ(run_of("[strategy.sync]\nbucket_mib = 4").canonical(), run_of("[strategy.sync]").canonical())
      << "of GPUs alone";
  const RunConfig run = run_of("device = 'reference'\noptimizer.rule = 'adagrad'\n[strategy.downpour]");
  EXPECT_EQ(run.canonical(),
            "data_order = \"shard\"\n"
            "dataset = \"fashion-mnist\"\n"
            "device = \"reference\"\n"
            "engine = \"mpi\"\n"
            "minibatch = 32\n"
            "model = \"lenet\"\n"
            "optimizer.epsilon = 1e-08\n"
            "optimizer.initial_accumulator = 0.1\n"
            "optimizer.l2 = 0.0\n"
            "optimizer.learning_rate = 0.1\n"
            "optimizer.rule = \"adagrad\"\n"
            "optimizer.schedule = \"constant\"\n"
            "samples = 60000\n"
            "seed = 1\n"
            "servers = 1\n"
            "snapshots = 10\n"
            "strategy.downpour.local_learning_rate = 0.0\n"
            "strategy.downpour.n_fetch = 1\n"
            "strategy.downpour.n_push = 1\n"
            "strategy.downpour.overlap = true\n"
            "strategy.downpour.warm_start = 0\n"
            "workers = 1\n");
}

TEST(Run, IdentityChangesWithEveryKeyThatMatters) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  struct Case {
    Lines base, changed;
  };
  const Lines synthetic{"dataset=synthetic"}, adagrad{"optimizer.rule=adagrad"},
      steps{"optimizer.schedule=step", "optimizer.schedule_samples=100"};
  const std::map<std::string, Case> cases{
      {"dataset", {{}, {"dataset=mnist"}}},
      {"dataset_sha256", {{}, {"dataset_sha256=" + std::string(64, 'a')}}},
      {"model", {{}, {"model=mlp"}}},
      {"normalise", {{}, {"normalise=channel"}}},
      {"augment", {{}, {"augment=crop_flip"}}},
      {"statistics_samples", {{"model=resnet20"}, {"statistics_samples=1024"}}},
      {"workers", {{}, {"workers=2"}}},
      {"servers", {{}, {"servers=2"}}},
      {"minibatch", {{}, {"minibatch=33"}}},
      {"samples", {{}, {"samples=60001"}}},
      {"seed", {{}, {"seed=2"}}},
      {"snapshots", {{}, {"snapshots=11"}}},
      {"data_order", {{}, {"data_order=queue"}}},
      {"optimizer.rule", {{}, {"optimizer.rule=momentum"}}},
      {"optimizer.learning_rate", {{}, {"optimizer.learning_rate=0.10000000000000002"}}},
      {"optimizer.momentum", {{"optimizer.rule=momentum"}, {"optimizer.momentum=0.8"}}},
      {"optimizer.l2", {{}, {"optimizer.l2=1e-9"}}},
      {"optimizer.initial_accumulator", {adagrad, {"optimizer.initial_accumulator=0"}}},
      {"optimizer.epsilon", {adagrad, {"optimizer.epsilon=1e-7"}}},
      {"optimizer.beta2", {{"optimizer.rule=adam"}, {"optimizer.beta2=0.99"}}},
      {"optimizer.trust", {{"optimizer.rule=lars"}, {"optimizer.trust=0.01"}}},
      {"optimizer.clip", {{}, {"optimizer.clip=1"}}},
      {"optimizer.schedule", {{}, steps}},
      {"optimizer.schedule_samples", {steps, {"optimizer.schedule_samples=101"}}},
      {"optimizer.schedule_factor", {steps, {"optimizer.schedule_factor=0.2"}}},
      {"synthetic.shape", {synthetic, {"synthetic.shape=1x28x29"}}},
      {"synthetic.classes", {synthetic, {"synthetic.classes=11"}}},
      {"synthetic.train", {synthetic, {"synthetic.train=9999"}}},
      {"synthetic.test", {synthetic, {"synthetic.test=1999"}}},
      {"synthetic.noise", {synthetic, {"synthetic.noise=0.6"}}},
      {"synthetic.seed", {synthetic, {"synthetic.seed=2"}}},
      {"faults.leave_step", {{}, {"workers=2", "faults.leave_step=1"}}},
      {"faults.leave_worker", {{"workers=3", "faults.leave_step=1"}, {"faults.leave_worker=0"}}},
      {"faults.drop", {{}, {"faults.drop=0.5"}}},
  };
  const std::string text = "[strategy.downpour]";
  std::set<std::string> ids;
  for (const RunKey& key : run_keys()) {
    if (key.policy || key.name == "engine" || key.name == "device" || key.name == "precision" ||
        key.name == "sample_fraction" || key.name == "shares" || key.name == "gradient" ||
        key.name.starts_with("cluster."))
      continue;  // of lock-step, below; as many values as there are, or as this host has; simulated runs
    ASSERT_TRUE(cases.contains(key.name)) << "no case for " << key.name;
    const Case& c = cases.at(key.name);
    Lines both = c.base;
    both.insert(both.end(), c.changed.begin(), c.changed.end());
    const RunConfig before = run_of(text, c.base), after = run_of(text, both);
    EXPECT_NE(before.id(), after.id()) << key.name;
    if (!c.base.empty()) {  // it matters there, but not here
      EXPECT_EQ(run_of(text).id(), run_of(text, c.changed).id()) << key.name;
    }
    ids.insert(after.id());
  }
  EXPECT_EQ(ids.size(), cases.size());
  const Lines simulated{"engine=simulated"}, skipped{"engine=simulated", "gradient=skipped"};
  EXPECT_NE(run_of(text, simulated).id(), run_of(text, skipped).id());
  for (const char* own :
       {"n_fetch=2", "n_push=2", "overlap=false", "local_learning_rate=0.1", "warm_start=1"})
    EXPECT_TRUE(ids.insert(run_of(text, {std::string("strategy.downpour.") + own}).id()).second) << own;
  EXPECT_TRUE(ids.insert(run_of("[strategy.staleness_aware]").id()).second);
  for (const char* own : {"seed=1", "sample_fraction=0.01", "shares=proportional"})
    EXPECT_TRUE(ids.insert(run_of("[strategy.sync]", {own}).id()).second) << own;
  EXPECT_NE(run_of(text).canonical().find("engine = \"mpi\"\n"), std::string::npos);
  EXPECT_NE(run_of(text).canonical().find("\ndevice = \""), std::string::npos);
}

// As their help says.
TEST(Run, IdentityChangesWithWhatTheOptimizersRuleReads) {
  using Names = std::set<std::string>;
  const std::map<std::string, Names> rules{{"momentum", {"momentum", "nesterov", "lars", "adam", "adamw"}},
                                           {"initial_accumulator", {"adagrad"}},
                                           {"epsilon", {"adagrad", "adam", "adamw"}},
                                           {"beta2", {"adam", "adamw"}},
                                           {"trust", {"lars"}}};
  const std::string text = "[strategy.sync]";
  for (const auto& [key, readers] : rules)
    for (const std::string& rule : optimizer_rules()) {
      const std::string is = "optimizer.rule=" + rule;
      EXPECT_EQ(run_of(text, {is}).id() != run_of(text, {is, "optimizer." + key + "=0.5"}).id(),
                readers.contains(rule))
          << rule << " " << key;
    }
  for (const char* kind : {"constant", "step", "warmup"}) {
    const Lines schedule{std::string("optimizer.schedule=") + kind, "optimizer.schedule_samples=100"};
    EXPECT_EQ(run_of(text, schedule).id() !=
                  run_of(text, {schedule[0], schedule[1], "optimizer.schedule_factor=0.5"}).id(),
              std::string(kind) != "constant");
  }
}

TEST(Experiment, TakesAsManyWorkersAsThereAre) {
  for (const char* text : {"workers = 2\ncluster.straggler.workers = 2\ncluster.straggler.slowdown = 4",
                           "dataset = 'synthetic'\nsynthetic.train = 4\nworkers = 4\nminibatch = 1"})
    EXPECT_NO_THROW(parse_experiment(text + std::string("\n[strategy.sync]"), "x.toml")) << text;
}

TEST(Run, IsSlowedByJitterAlone) {
  EXPECT_FALSE(run_of("[strategy.sync]").slowed());
  EXPECT_TRUE(run_of("[strategy.sync]", {"cluster.jitter=0.1"}).slowed());
  EXPECT_TRUE(run_of("[strategy.sync]", {"cluster.straggler.slowdown=1.1"}).slowed());
  EXPECT_FALSE(run_of("[strategy.sync]", {"cluster.straggler.share=0.1"}).slowed());
}

TEST(Run, AnyWorkerMayLeave) {
  const auto with = [](int worker) {
    return run_of("[strategy.downpour]",
                  {"workers=3", "faults.leave_step=1", fmt::format("faults.leave_worker={}", worker)});
  };
  for (const int worker : {0, 1, 2}) EXPECT_EQ(with(worker).leaver(), worker);
  EXPECT_EQ(with(-1).leaver(), 2);
  EXPECT_EQ(with(-1).id(), with(2).id());
  EXPECT_EQ(run_of("[strategy.downpour]", {"workers=3", "faults.leave_worker=1"}).leaver(), -1);
}

// Keys that came after results had ids: dataset_sha256 here, a strategy's own likewise.
TEST(Run, AddedKeysAreInNoIdAtTheirDefault) {
  for (const RunKey& key : run_keys())
    if (key.added) {
      EXPECT_EQ(run_of("[strategy.sync]").canonical().find(key.name), std::string::npos) << key.name;
      EXPECT_FALSE(key.policy) << key.name;
    }
  StrategyEntry mine = *find_strategy("sync");
  RunConfig run = run_of("[strategy.sync]");
  const std::string id = run.id();
  run.strategy = &mine;
  mine.parameters.push_back({"mine", std::int64_t(3), "", 0, 9});
  run.strategy_settings = Settings(mine.parameters);
  EXPECT_NE(run.id(), id);
  mine.parameters.back().added = true;
  EXPECT_EQ(run.id(), id);
  run.strategy_settings.set("mine", std::int64_t(4));
  EXPECT_NE(run.id(), id);
}

// Of a cluster's keys real runs have those that slow ranks, where they do.
TEST(Run, IdentityOfRealRunsChangesWithWhatSlowsThem) {
  const std::string text = "[strategy.sync]";
  for (const char* other : {"cluster.straggler.workers=1", "cluster.straggler.share=0.5",
                            "cluster.straggler.slowdown=1", "cluster.round=1", "cluster=one-straggler"})
    EXPECT_EQ(run_of(text, {other}).id(), run_of(text).id()) << other;
  EXPECT_EQ(run_of(text, {"cluster.straggler.workers=9"}).id(), run_of(text).id());  // nobody is slow
  const Lines slow{"cluster.straggler.slowdown=4"};
  const RunConfig slowed = run_of(text, slow);
  std::set<std::string> ids{run_of(text).id(), slowed.id()};
  for (const char* more : {"cluster.straggler.workers=1", "cluster.straggler.share=0.5", "cluster.jitter=1"})
    ids.insert(run_of(text, {slow[0], more}).id());
  EXPECT_EQ(ids.size(), 5u);
  EXPECT_EQ(parse_run(slowed.text()).canonical(), slowed.canonical());
  EXPECT_FALSE(slowed.settings.values().contains("cluster.round"));
}

TEST(Run, IdentityDoesNotDependOnPolicy) {
  const RunConfig plain = run_of("[strategy.bmuf]");
  std::set<std::string> texts;
  for (const RunKey& key : run_keys()) {
    if (!key.policy || key.name.starts_with("cluster.")) continue;
    const std::string value = key.name == "title"    ? "another"
                              : key.name == "target" ? "0.5"
                              : key.name == "trace"  ? "true"
                                                     : "77";
    const RunConfig other = run_of("[strategy.bmuf]", {key.name + "=" + value});
    EXPECT_EQ(other.canonical(), plain.canonical()) << key.name;
    EXPECT_NE(other.text(), plain.text()) << key.name;
    texts.insert(other.text());
  }
  EXPECT_EQ(texts.size(), 7u);
  EXPECT_EQ(plain.name(), "bmuf-1w-seed1-" + plain.id());
  EXPECT_EQ(plain.id().find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(plain.id().size(), 12u);
}

TEST(Run, ParseRunWantsOneRun) {
  EXPECT_THROW(
      {
        try {
          parse_run("workers = [1, 2]\n[strategy.sync]");
        } catch (const ConfigError& e) {
          EXPECT_STREQ(e.what(), "run: describes 2 runs (allowed: one)");
          throw;
        }
      },
      ConfigError);
  EXPECT_THROW(parse_run("[strategy.sync"), ConfigError);
}

// Files.

class Files : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / fmt::format("dsgd_experiment_{}", std::random_device{}());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  fs::path folder_;
};

TEST_F(Files, AreNamedInMessages) {
  const fs::path file = write("mine.toml", "workers = 0\r\n[strategy.sync]\r\n");
  EXPECT_EQ(problems_of_file(file),
            Lines{file.string() + ":1:11: workers: 0 is out of range (allowed: integers from 1 to 4096)"});
}

TEST_F(Files, ThatCannotBeReadSayWhy) {
  EXPECT_EQ(problems_of_file(folder_ / "none.toml"),
            Lines{fmt::format(
                "{}/none.toml: cannot be read: No such file or directory (allowed: a TOML file, or one "
                "of {})",
                folder_.string(), shipped_list())});
  EXPECT_EQ(problems_of_file(folder_),
            Lines{fmt::format("{}: cannot be read: it is a folder (allowed: a TOML file, or one of {})",
                              folder_.string(), shipped_list())});
}

TEST_F(Files, LargeOrDeepOnesAreRefused) {
  const fs::path large = write("large.toml", std::string(40000, '#'));
  EXPECT_EQ(problems_of_file(large),
            Lines{large.string() + ":1:1: experiment: is too large (allowed: up to 32 KiB)"});
  std::string deep = "a";
  while (deep.size() < 32000) deep += ".a";
  EXPECT_EQ(problems(deep + " = 1\n[strategy.sync]"),
            Lines{fmt::format("x.toml:1:1: a: unknown key (allowed: {})", all_keys)});
  EXPECT_EQ(problems("[" + deep + "]\n[strategy.sync]"),
            Lines{fmt::format("x.toml:1:2: a: unknown key (allowed: {})", all_keys)});
  EXPECT_EQ(problems("a = " + std::string(10000, '[')).front().substr(0, 33),
            "x.toml:1:261: syntax: Error while");
}

TEST_F(Files, AreFoundByPathOrAsShippedOnes) {
  const fs::path mine = write("mine.toml", "[strategy.sync]");
  EXPECT_EQ(find_experiment(mine.string()), mine);
  EXPECT_EQ(find_experiment("quickstart"), fs::path(DSGD_SOURCE_DIR) / "harness/experiments/quickstart.toml");
  for (const StrategyEntry* strategy : all_strategies())
    EXPECT_EQ(find_experiment(strategy->name).filename(), strategy->name + ".toml");
  try {
    find_experiment("quikstart");
    FAIL() << "found";
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.what(),
              fmt::format("quikstart: no such file or shipped experiment, did you mean quickstart? (allowed: "
                          "a TOML file, or one of {})",
                          shipped_list()));
  }
}

// Bases.

Lines texts(const Experiment& e) {
  Lines all{e.title};
  for (const RunConfig& run : e.runs) all.push_back(run.text());
  return all;
}

TEST_F(Files, AnExperimentIsItsBaseButForWhatItSays) {
  write("first.toml",
        "title = 'First'\nminibatch = 8\nsamples = 640\nseed = [1, 2]\noptimizer = {rule = "
        "'momentum', l2 = 0.5}\n[strategy.sync]\n[strategy.topk]\n");
  fs::create_directory(folder_ / "inner");
  write("inner/second.toml",
        "base = '../first.toml'\ntitle = 'Second'\n[strategy.averaging]\ntau = 5\n"
        "minibatch = 32\noptimizer.momentum = 0.5\n[strategy.easgd]\n"
        "optimizer.rule = 'sgd'\n");
  const fs::path mine = write("mine.toml",
                              "base = 'inner/second.toml'\nminibatch = 16\nseed = 3\noptimizer.l2 = 0.25\n"
                              "[strategy]\ntopk = false\neasgd = {}\n[strategy.averaging]\ntau = [1, 7]\n"
                              "[strategy.bmuf]\nblock = 9\n");
  const Experiment whole = parse_experiment(
      "title = 'Second'\nminibatch = 16\nsamples = 640\nseed = 3\noptimizer = {rule = 'momentum', l2 = "
      "0.25}\n"
      "[strategy.sync]\n[strategy.averaging]\ntau = [1, 7]\nminibatch = 32\noptimizer.momentum = 0.5\n"
      "[strategy.easgd]\noptimizer.rule = 'sgd'\n[strategy.bmuf]\nblock = 9\n",
      "x.toml");
  EXPECT_EQ(texts(load_experiment(mine)), texts(whole));
  EXPECT_EQ(described(load_experiment(mine, {"strategy.averaging=false", "samples=320"})),
            (Lines{"3 sync 1w b16", "3 easgd 1w b16 tau10", "3 bmuf 1w b16"}));
}

TEST_F(Files, ANamedClusterTakesThePlaceOfAllOfTheBases) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  const auto clusters = [&](const std::string& base, const std::string& said) {
    write("base.toml", "engine = 'simulated'\n" + base + "\n[strategy.sync]");
    std::set<std::string> found;
    for (const RunConfig& run : load_experiment(write("mine.toml", "base = 'base.toml'\n" + said)).runs)
      found.insert(fmt::format("{} {} {}", run.settings.text("cluster.name"),
                               run.settings.number("cluster.jitter"),
                               run.settings.number("cluster.straggler.slowdown")));
    return Lines(found.begin(), found.end());
  };
  const std::string full = "[cluster]\nname = 'one-straggler'\njitter = 0.1\nstraggler.slowdown = [2, 8]";
  EXPECT_EQ(clusters("cluster = 'ethernet-1g'", full), (Lines{"one-straggler 0.1 2", "one-straggler 0.1 8"}));
  EXPECT_EQ(clusters(full, "cluster = 'ethernet-1g'"), Lines{"ethernet-1g 0 1"});
  EXPECT_EQ(clusters(full, "cluster.jitter = 0.3"), (Lines{"one-straggler 0.3 2", "one-straggler 0.3 8"}));
}

TEST_F(Files, MistakesOfBasesNameTheFileAndPlace) {
  const auto of = [&](const std::string& text) { return problems_of_file(write("mine.toml", text)); };
  const std::string mine = (folder_ / "mine.toml").string(), base = (folder_ / "base.toml").string();
  EXPECT_EQ(of("samples = 640\nbase = 'comparee-8'"),
            Lines{fmt::format("{}:2:8: base: comparee-8: no such file or shipped experiment, did you mean "
                              "compare-8? (allowed: a TOML file, or one of {})",
                              mine, shipped_list())});
  EXPECT_EQ(of("base = ['sync', 'topk']"),
            Lines{fmt::format("{}:1:8: base: expected text (allowed: a TOML file, or one of {})", mine,
                              shipped_list())});
  write("base.toml", "base = 'mine.toml'\n[strategy.sync]");
  EXPECT_EQ(of("base = 'base.toml'"),
            Lines{fmt::format("{}:1:8: base: {} is itself based on this (allowed: no circles)", base, mine)});
  EXPECT_EQ(of("base = 'mine.toml'"),
            Lines{fmt::format("{0}:1:8: base: {0} is itself based on this (allowed: no circles)", mine)});
  write("base.toml", "samples = 640\nseed = -1\n[strategy.sync]\nminibatch = 8\nworkrs = 2");
  EXPECT_EQ(of("base = 'base.toml'\nworkers = 0"),
            (Lines{base + ":2:8: seed: -1 is out of range (allowed: integers from 0 up)",
                   base + ":5:1: strategy.sync.workrs: unknown key, did you mean workers?",
                   mine + ":2:11: workers: 0 is out of range (allowed: integers from 1 to 4096)"}));
  write("base.toml", "samples =");
  EXPECT_EQ(of("base = 'base.toml'").front().substr(0, base.size() + 13), base + ":1:10: syntax");
  write("base.toml", "samples = 640\n[strategy.sync]\nminibatch = 8");
  EXPECT_EQ(of("base = 'base.toml'\nminibatch = 16"),
            Lines{mine + ":2:1: minibatch: has no effect, for every strategy sets its own (allowed: "
                         "strategy.NAME.minibatch)"});
  write("base.toml", "samples = 640\n[strategy.bmuf]");  // of one file, it is as it is without a base
  EXPECT_EQ(of("base = 'base.toml'\nminibatch = 16\n[strategy.bmuf]\nminibatch = 8"), Lines{"no problem"});
  write("base.toml", "samples = 640\n[strategy.sync]\nminibatch = 8");
  EXPECT_EQ(
      of("base = 'base.toml'\nstrategy.sync = false"),
      Lines{fmt::format("{}:1:1: strategy: there is none (allowed: a table [strategy.NAME], NAME one of {})",
                        mine, strategy_list())});
  EXPECT_EQ(of("base = 'base.toml'\nstrategy.topk = false"),
            Lines{mine + ":2:10: strategy.topk: is not in this experiment (allowed: sync)"});
  EXPECT_EQ(
      problems("[strategy.sync]", {"base=compare-8"}),
      Lines{"--set base=compare-8: base: can be said by an experiment's file alone (allowed: other keys)"});
}

TEST(Shipped, ExperimentsCanBeBases) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  const Experiment whole = load_experiment(find_experiment("compare-8"), {"workers=4", "seed=9"});
  EXPECT_EQ(texts(parse_experiment("base = 'compare-8'\nworkers = 4\nseed = 9", "x.toml")), texts(whole));
}

TEST(Shipped, QuickstartSweepsFiveStrategies) {
  const Experiment e = load_experiment(find_experiment("quickstart"));
  std::map<std::string, int> runs;
  for (const RunConfig& run : e.runs) ++runs[run.strategy->name];
  for (const char* name : {"sync", "averaging", "downpour", "staleness_aware", "bmuf"})
    EXPECT_EQ(runs[name], 2 * 3) << name;  // workers x seeds
  EXPECT_EQ(e.runs.size(), 5u * 2 * 3);
  EXPECT_FALSE(e.title.empty());
}

TEST(Papers, NamesAreOfSettingsThatThereAre) {
  for (const PaperName& name : paper_names()) {
    EXPECT_EQ(find_strategy(name.name), nullptr) << name.name;
    ASSERT_NE(find_strategy(name.strategy), nullptr) << name.name;
    EXPECT_EQ(find_paper_name(name.name), &name) << "is there twice";
    run_of(fmt::format("samples = 600000\nstrategy.{} = {{ {} }}", name.strategy, name.settings));
  }
}

TEST(Papers, AreFoundWhateverTheirSpelling) {
  EXPECT_EQ(find_paper_name("sasgd")->says(), "staleness_aware with n = \"workers\"");
  EXPECT_EQ(find_paper_name("post_local_sgd"), find_paper_name("Post-local SGD"));
  EXPECT_EQ(find_paper_name("hogwild"), nullptr);
  EXPECT_TRUE(mentions(*find_strategy("staleness_aware"), "sasgd"));
  EXPECT_TRUE(mentions(*find_strategy("adpsgd"), "AD-PSGD"));
  EXPECT_TRUE(mentions(*find_strategy("averaging"), "moritz"));
  EXPECT_FALSE(mentions(*find_strategy("sync"), "sasgd"));
  EXPECT_FALSE(mentions(*find_strategy("sync"), "-"));
  EXPECT_EQ(problems("[strategy.sasgd]"),
            Lines{fmt::format(
                "x.toml:1:11: strategy.sasgd: unknown strategy, did you mean staleness_aware with n = "
                "\"workers\"? (allowed: {})",
                strategy_list())});
}

// What depends on the number of workers is one experiment each.
TEST(Shipped, ScalingRulesExpandAsMeant) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  std::set<int> workers;
  for (const RunConfig& run : load_experiment(find_experiment("strong-scaling")).runs) {
    workers.insert(run.workers());
    EXPECT_EQ(run.workers() * run.minibatch(), 256);
    EXPECT_EQ(run.expressions, (ExpressionsOf{{"minibatch", "256/workers"}}));
  }
  EXPECT_EQ(workers, (std::set<int>{1, 2, 4, 8, 16}));
  workers.clear();
  for (const RunConfig& run : load_experiment(find_experiment("goyal")).runs) {
    workers.insert(run.workers());
    EXPECT_EQ(run.minibatch(), 32);
    EXPECT_DOUBLE_EQ(run.optimizer().learning_rate, 0.01 * run.workers());
    EXPECT_EQ(run.optimizer().schedule.kind, Schedule::Kind::warmup);
    EXPECT_DOUBLE_EQ(run.optimizer().schedule.factor * run.optimizer().learning_rate, 0.01);
  }
  EXPECT_EQ(workers, (std::set<int>{1, 2, 4, 8, 16}));
  std::map<std::string, int> runs;
  for (const RunConfig& run : load_experiment(find_experiment("sasgd")).runs) {
    ++runs[run.strategy->name];
    EXPECT_EQ(run.workers() * run.minibatch(), 128);
    if (run.strategy->name == "fasgd") continue;
    EXPECT_EQ(run.strategy_settings.integer("n"), run.workers());
  }
  EXPECT_EQ(runs, (std::map<std::string, int>{{"fasgd", 4}, {"staleness_aware", 4}}));
}

TEST(Shipped, EveryStrategyHasAnExperiment) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  for (const StrategyEntry* strategy : all_strategies()) {
    const Experiment e = load_experiment(find_experiment(strategy->name));
    EXPECT_FALSE(e.title.empty()) << strategy->name;
    EXPECT_GT(e.runs.size(), 1u) << strategy->name;
  }
}

// The ids of all shipped experiments' runs, as commit 28d1553 made them: a new key at its default changes
// none. Of the device it is the specification's, which every machine has.
TEST(Shipped, IdsArePinned) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  std::map<std::string, std::string> pinned, made;
  std::ifstream in(fs::path(DSGD_SOURCE_DIR) / "tests/fixtures/ids.txt");
  for (std::string experiment, runs, ids; in >> experiment >> runs && std::getline(in, ids);)
    pinned[experiment + " " + runs] = ids;
  std::string lines;
  for (const fs::path& file : shipped_experiments()) {
    const bool local = file.stem() == "validate-simulation";  // simulates what this machine may not have
    std::map<std::string, std::string> ids;
    for (RunConfig& run : load_experiment(file, local ? Lines{"engine=mpi"} : Lines{}).runs) {
      run.settings.set("device", std::string("reference"));
      const std::string name = run.name();
      ids[fmt::format("{} {}", file.stem().string(), name.substr(0, name.size() - 13))] +=
          fmt::format(" {}", run.id());
    }
    for (const auto& [runs, of_runs] : ids) lines += runs + of_runs + "\n";
    made.merge(ids);
  }
  const fs::path fresh = fs::path(testing::TempDir()) / "ids.txt";
  if (pinned != made) std::ofstream(fresh) << lines;
  for (const auto& [runs, ids] : pinned)
    EXPECT_EQ(made[runs], ids) << runs << ": results that users have would lose their names. Where the "
                               << "experiment itself was changed, or taken away: cp " << fresh
                               << " tests/fixtures/ids.txt";
  for (const auto& [runs, ids] : made)
    EXPECT_EQ(pinned[runs], ids) << runs << ": is new; cp " << fresh << " tests/fixtures/ids.txt";
}

// Mutations of a good file load or are refused; nothing else may happen.
TEST(Shipped, SearchTriesEveryStrategyAlike) {
  if (no_simulator()) GTEST_SKIP() << without_simgrid;
  std::map<std::pair<std::string, int>, int> trials;
  for (const RunConfig& run : load_experiment(find_experiment("search")).runs)
    ++trials[{run.strategy->name, run.workers()}];
  for (const StrategyEntry* strategy : all_strategies())
    for (const int workers : {1, 2, 8, 32}) {
      const int made = trials[std::pair(strategy->name, workers)];
      EXPECT_EQ(made, 16) << strategy->name << " with " << workers << " workers";
    }
}

TEST(Shipped, DamagedFilesNeverCrash) {
  std::ifstream in(find_experiment("quickstart"));
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  ASSERT_FALSE(good.empty());
  std::mt19937_64 random(1);
  const auto below = [&](std::size_t n) { return std::size_t(random() % n); };
  const Lines pieces{"[",        "]",   "{",      "}",     "=",          ".",       "\"",   "'''",
                     "\n",       "#",   "nan",    "-",     "e",          "9999999", "true", "0x",
                     "strategy", "inf", "[[",     "\\u00", "1979-05-27", ",",       "\xff", "\t",
                     "\r",       "_",   "[1, 2]", "seed",  "\"\"\"",     "+",       "0",    "{}"};
  int loaded = 0, refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
      const std::size_t at = below(text.size()), n = std::min(below(12), text.size() - at);
      switch (below(5)) {
        case 0:
          text.erase(at, n);
          break;
        case 1:
          text.insert(at, pieces[below(pieces.size())]);
          break;
        case 2:
          text[at] = char(below(256));
          break;
        case 3:
          text.insert(below(text.size()), text.substr(at, n));
          break;
        case 4:
          text.replace(at, n, pieces[below(pieces.size())]);
          break;
      }
    }
    try {
      for (const RunConfig& run : parse_experiment(text, "x.toml").runs)
        if (below(50) == 0) parse_run(run.text());
      ++loaded;
    } catch (const ConfigError& e) {
      ++refused;
      ASSERT_FALSE(e.problems().empty());
      for (const std::string& problem : e.problems()) {
        EXPECT_EQ(problem.rfind("x.toml:", 0), 0u) << problem;
        EXPECT_EQ(problem.find('\n'), std::string::npos) << problem;
      }
    }
  }
  EXPECT_GT(loaded, 300);
  EXPECT_GT(refused, 300);
}

// Parameters.

TEST(Parameter, ValuesAreWrittenAsTomlWritesThem) {
  EXPECT_EQ(to_string(Value(true)), "true");
  EXPECT_EQ(to_string(Value(std::int64_t(-3))), "-3");
  EXPECT_EQ(to_string(Value(3.0)), "3.0");
  EXPECT_EQ(to_string(Value(0.1)), "0.1");
  EXPECT_EQ(to_string(Value(1e-8)), "1e-08");
  EXPECT_EQ(to_string(Value(1e22)), "1e+22");
  EXPECT_EQ(to_string(Value("a\"b\\c\nd\x01")), "\"a\\\"b\\\\c\\nd\\u0001\"");
}

TEST(Parameter, RangesAreSaidInWords) {
  const double any = std::numeric_limits<double>::infinity();
  EXPECT_EQ(allowed({"k", std::int64_t(1), "", 1, 8, {}}), "integers from 1 to 8");
  EXPECT_EQ(allowed({"k", std::int64_t(1), "", 1, any, {}}), "integers from 1 up");
  EXPECT_EQ(allowed({"k", 1.0, "", -any, 0.5, {}}), "numbers up to 0.5");
  EXPECT_EQ(allowed({"k", 1.0, ""}), "numbers");
  EXPECT_EQ(allowed({"k", "a", "", 0, 0, {"a", "b"}}), "a, b");
  EXPECT_EQ(allowed({"k", "a", ""}), "text");
  EXPECT_EQ(allowed({"k", true, ""}), "true, false");
}

TEST(Parameter, IntegersAreNumbersButNumbersAreNoIntegers) {
  std::string problem;
  EXPECT_EQ(checked({"k", 0.5, ""}, Value(std::int64_t(2)), problem), Value(2.0));
  EXPECT_EQ(problem, "");
  checked({"k", std::int64_t(1), ""}, Value(2.0), problem);
  EXPECT_EQ(problem, "expected an integer, got 2.0 (allowed: integers)");
}

TEST(Parameter, SuggestionsAreNear) {
  EXPECT_EQ(did_you_mean("wrokers", {"servers", "workers"}), ", did you mean workers?");
  EXPECT_EQ(did_you_mean("rule", {"optimizer.rule"}), ", did you mean optimizer.rule?");
  EXPECT_EQ(did_you_mean("lr", {"optimizer.l2"}), "");
  EXPECT_EQ(did_you_mean("", {"a"}), "");
  EXPECT_EQ(did_you_mean(std::string(5000, 'x'), {"a"}), "");
}

TEST(Parameter, SettingsRefuseWhatWasNotDeclared) {
  const std::vector<Parameter> declared{{"n", std::int64_t(3), "", 1, 9}, {"rate", 0.5, ""}};
  const Settings s(declared, {{"rate", std::int64_t(2)}});
  EXPECT_EQ(s.integer("n"), 3);
  EXPECT_EQ(s.number("rate"), 2.0);
  EXPECT_THROW(s.number("n"), std::logic_error);
  EXPECT_THROW(s.flag("m"), std::logic_error);
  EXPECT_THROW(Settings(declared, {{"m", std::int64_t(3)}}), std::invalid_argument);
  EXPECT_THROW(Settings(declared, {{"n", std::int64_t(10)}}), std::invalid_argument);
}

TEST(Parameter, TablesAreSound) {
  std::set<std::string> keys;
  const auto sound = [](const Parameter& p) {
    std::string problem;
    EXPECT_EQ(checked(p, p.fallback, problem), p.fallback) << p.name;
    EXPECT_EQ(problem, "") << p.name;
    EXPECT_FALSE(p.help.empty()) << p.name;
  };
  for (const RunKey& key : run_keys()) {
    EXPECT_TRUE(keys.insert(key.name).second) << key.name;
    sound(key);
  }
  for (const Parameter& key : host_keys()) sound(key);
  sound(base_key());
  for (const StrategyEntry* strategy : all_strategies()) {
    std::set<std::string> own{"optimizer", "synthetic"};
    for (const Parameter& p : strategy->parameters) {
      EXPECT_FALSE(keys.contains(p.name)) << strategy->name << " hides the run key " << p.name;
      EXPECT_TRUE(own.insert(p.name).second) << strategy->name << "." << p.name;
      sound(p);
    }
    EXPECT_NO_THROW(Settings(strategy->parameters, strategy->tests.conformance)) << strategy->name;
  }
}

}  // namespace
// harness/FEATURES.md: rows of set-ups, columns of kinds of strategies.
TEST(Features, AreAsTheirPageSays) {
  const auto trimmed = [](std::string text) {
    text.erase(0, text.find_first_not_of(" `"));
    text.erase(text.find_last_not_of(" `") + 1);
    return text;
  };
  std::ifstream page(fs::path(DSGD_SOURCE_DIR) / "harness/FEATURES.md");
  std::size_t cells = 0;
  for (std::string row; std::getline(page, row);) {
    std::vector<std::string> columns;
    std::stringstream in(row);
    for (std::string column; std::getline(in, column, '|');) columns.push_back(trimmed(column));
    if (columns.size() < 6 || columns[1] == "feature" || columns[1].starts_with("-")) continue;
    std::string setup = columns[2];
    for (std::size_t at; (at = setup.find(", ")) != std::string::npos;) setup.replace(at, 2, "\n");
    const std::string but = columns.size() > 6 ? columns[6] : "";
    for (const std::string engine : {"mpi", "simulated"}) {
      const bool says_engine = setup.find("engine = ") != std::string::npos;
      if (says_engine && setup.find(engine) == std::string::npos) continue;
      if (engine == "simulated" && no_simulator()) continue;
      for (const StrategyEntry* strategy : all_strategies()) {
        std::string expected = columns[3 + int(strategy->kind)];
        std::stringstream others("`" + but);  // the cell lost its first mark
        for (std::string group; std::getline(others, group, ';');)
          if (group.find("`" + strategy->name + "`") != std::string::npos)
            expected = trimmed(group.substr(group.find(": ") + 2));
        const std::string text = fmt::format(
            "{}workers = 2\nsamples = 60000\ndataset = \"synthetic\"\nsynthetic.shape = \"3x32x32\"\n"
            "{}\n[strategy.{}]",
            says_engine ? "" : fmt::format("engine = \"{}\"\n", engine), setup, strategy->name);
        const Lines found = problems(text);
        ++cells;
        if (expected == "works")
          EXPECT_EQ(found, Lines{"no problem"}) << text;
        else
          EXPECT_TRUE(
              std::any_of(found.begin(), found.end(),
                          [&](const std::string& line) { return line.find(expected) != std::string::npos; }))
              << text << "\nis refused by: " << fmt::format("{}", fmt::join(found, "; "))
              << "\nexpected: " << expected;
      }
    }
  }
  EXPECT_GT(cells, 300u);
}

}  // namespace dsgd
