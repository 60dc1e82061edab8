// SPDX-License-Identifier: Apache-2.0
// Modelled clusters: what is read, where ranks sit, what they charge.

#include "config/cluster.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "run/replica.h"

namespace dsgd {
namespace {

using Lines = std::vector<std::string>;

// A cluster's file in a folder of its own.
class File {
 public:
  explicit File(const std::string& text) {
    std::string name = (std::filesystem::temp_directory_path() / "dsgd-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    std::ofstream(path()) << text;
  }
  ~File() { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/c.toml"; }

 private:
  std::string folder_;
};

constexpr const char* two_kinds =
    "title = 'two kinds'\n"
    "[hosts.fast]\ncount = 2\nslots = 2\nspeed = 1e12\nefficiency = 0.5\nbandwidth = 1e9\nlatency = 1e-6\n"
    "[hosts.slow]\ncount = 4\nspeed = 1e11\n";

Experiment read(const std::string& keys, const File& file, const Lines& overrides = {},
                const std::string& strategy = "sync") {
  return parse_experiment(
      "engine = 'simulated'\n" + keys + "\ncluster.name = '" + file.path() + "'\n[strategy." + strategy + "]",
      "x.toml", overrides);
}
RunConfig run_of(const std::string& keys, const File& file, const Lines& overrides = {},
                 const std::string& strategy = "sync") {
  const Experiment experiment = read(keys, file, overrides, strategy);
  EXPECT_EQ(experiment.runs.size(), 1u);
  return experiment.runs.front();
}
Lines problems(const std::string& keys, const File& file, const std::string& strategy = "sync") {
  try {
    read(keys, file, {}, strategy);
  } catch (const ConfigError& e) {
    return e.problems();
  }
  return {};
}

TEST(Keys, ComeFromTheFileAndGiveWayToTheExperiment) {
  const File file(two_kinds);
  const Settings settings =
      run_of("cluster.hosts.fast.speed = 2e12\ncluster.round = 3", file, {"cluster.jitter=0.5"}).settings;
  EXPECT_EQ(settings.text("cluster.title"), "two kinds");
  EXPECT_EQ(settings.number("cluster.hosts.fast.speed"), 2e12);
  EXPECT_EQ(settings.number("cluster.hosts.fast.efficiency"), 0.5);
  EXPECT_EQ(settings.number("cluster.hosts.slow.efficiency"), 1);  // default
  EXPECT_EQ(settings.integer("cluster.hosts.slow.count"), 4);
  EXPECT_EQ(settings.number("cluster.round"), 3);
  EXPECT_EQ(settings.number("cluster.jitter"), 0.5);
}

TEST(Keys, AreAxes) {
  const File slow(two_kinds), other("[hosts.a]\nspeed = 1\n");
  EXPECT_EQ(
      read("cluster.straggler.slowdown = [1, 2, 4]\ncluster.hosts.slow.count = [4, 5]", slow).runs.size(),
      6u);
  const Experiment both = parse_experiment(
      "engine = 'simulated'\ncluster = ['" + slow.path() + "', '" + other.path() + "']\n[strategy.sync]",
      "x");
  ASSERT_EQ(both.runs.size(), 2u);
  EXPECT_TRUE(both.runs[1].settings.values().contains("cluster.hosts.a.speed"));
  EXPECT_FALSE(both.runs[1].settings.values().contains("cluster.hosts.slow.speed"));
}

TEST(Keys, AreTheIdentityOfSimulatedRunsAlone) {
  const File file(two_kinds), copied(two_kinds), changed(std::string(two_kinds) + "bandwidth = 1e7\n");
  const RunConfig run = run_of("", file);
  EXPECT_EQ(run.id(), run_of("", copied).id());
  EXPECT_EQ(run.id(), run_of("", file, {"cluster.title=other"}).id());
  EXPECT_NE(run.id(), run_of("", changed).id());
  for (const char* key : {"cluster.jitter=0.1", "cluster.hosts.slow.latency=1", "cluster.round=1",
                          "cluster.hosts.slow.seconds.lenet.32=1", "cluster.memory.bandwidth=1e9"})
    EXPECT_NE(run.id(), run_of("", file, {key}).id()) << key;
  EXPECT_NE(run.id(), run_of("", file, {"engine=mpi"}).id());
  EXPECT_EQ(run_of("", file, {"engine=mpi"}).id(),
            run_of("", changed, {"engine=mpi", "cluster.round=9"}).id());
  const RunConfig real = run_of("", file, {"engine=mpi"});
  for (const auto& [key, value] : real.settings.values()) EXPECT_FALSE(key.starts_with("cluster")) << key;
}

TEST(Keys, ReadBackWithoutTheFile) {
  std::string text, id;
  {
    const File file(two_kinds);
    const RunConfig run = run_of("cluster.hosts.slow.seconds.lenet.32 = 0.25", file);
    text = run.text();
    id = run.id();
  }
  const RunConfig again = parse_run(text);
  EXPECT_EQ(again.text(), text);
  EXPECT_EQ(again.id(), id);
  EXPECT_EQ(again.settings.text("cluster.title"), "two kinds");
  EXPECT_EQ(again.settings.number("cluster.hosts.slow.seconds.lenet.32"), 0.25);
}

TEST(Mistakes, AreNamedWithPlaceAndRemedy) {
  const auto in_file = [](const std::string& text, const std::string& keys = "",
                          const std::string& strategy = "sync") {
    const File file(text);
    Lines found = problems(keys, file, strategy);
    for (std::string& line : found)
      for (std::size_t at; (at = line.find(file.path())) != std::string::npos;)
        line.replace(at, file.path().size(), "c.toml");
    return found;
  };
  const std::string good = two_kinds;
  EXPECT_EQ(in_file(good), Lines{});
  EXPECT_EQ(in_file("[hosts.a]\nspeed = 0"),
            Lines{"c.toml:2:1: hosts.a.speed: hosts a have no speed, and no seconds for lenet (allowed: "
                  "hosts.a.speed above 0, or hosts.a.seconds.lenet.MINIBATCH)"});
  EXPECT_EQ(
      in_file("[hosts.a]\nspeed = 1e9", "cluster.hosts.a.speed = 0"),
      Lines{"x.toml:2:25: cluster.hosts.a.speed: hosts a have no speed, and no seconds for lenet (allowed: "
            "hosts.a.speed above 0, or hosts.a.seconds.lenet.MINIBATCH)"});
  EXPECT_EQ(in_file("[hosts.a]\nspeed = 1\nbandwidth = 0"),
            Lines{"c.toml:3:13: hosts.a.bandwidth: 0 is out of range (allowed: numbers from 1 up)"});
  EXPECT_EQ(in_file(good + "[straggler]\nworkers = 3\nslowdown = 2", "workers = 2"),
            Lines{"c.toml:13:1: straggler.workers: there are only 2 workers (allowed: up to 2)"});
  EXPECT_EQ(in_file(good + "[straggler]\nworkers = 3", "workers = 2"), Lines{});
  EXPECT_EQ(in_file("[hosts.a]\nsped = 1"),
            Lines{"c.toml:2:1: hosts.a.sped: unknown key, did you mean speed?"});
  EXPECT_EQ(
      in_file("[hosts.a]\nwire = 1"),
      Lines{"c.toml:2:1: hosts.a.wire: unknown key (allowed: count, slots, speed, efficiency, bandwidth, "
            "latency, names, seconds, work)"});
  EXPECT_EQ(in_file("[hosts.a]\nseconds.lenet.none = 1"),
            Lines{"c.toml:2:15: hosts.a.seconds.lenet.none: unknown key (allowed: MINIBATCH)"});
  EXPECT_EQ(
      in_file("[hosts.a]\nseconds.vgg.32 = 1"),
      Lines{"c.toml:2:9: hosts.a.seconds.vgg: unknown key (allowed: softmax, mlp, dnn, lenet, cifar_quick, "
            "resnet20)"});
  EXPECT_EQ(in_file("[hosts.a]\nwork.synk.2 = 1"),
            Lines{"c.toml:2:6: hosts.a.work.synk: unknown key, did you mean sync?"});
  EXPECT_EQ(in_file("stragler.slowdown = 2"),
            Lines{"c.toml:1:1: stragler: unknown key, did you mean straggler?"});
  EXPECT_EQ(in_file("[hosts.a]\nspeed = [1, 2]"),
            Lines{"c.toml:2:13: hosts.a.speed: a cluster has one value of each key (allowed: arrays in "
                  "experiments)"});
  EXPECT_EQ(in_file("[hosts.a"), Lines{"c.toml:1:9: syntax: Error while parsing table header: encountered "
                                       "end-of-file (allowed: TOML, text in quotes)"});
  EXPECT_EQ(in_file("jitter = 0.1"),
            Lines{"x.toml:3:16: cluster.name: the cluster has no hosts (allowed: a table hosts.NAME)"});
  EXPECT_EQ(in_file(good, "cluster.hosts.slwo.count = 3"),
            Lines{"x.toml:2:28: cluster.hosts.slwo.count: c.toml has no hosts \"slwo\", did you mean slow? "
                  "(allowed: fast, slow)"});
  EXPECT_EQ(in_file(good, "cluster.server.hosts = 'none'"),
            Lines{"x.toml:2:24: cluster.server.hosts: unknown hosts \"none\" (allowed: fast, slow)"});
  EXPECT_EQ(
      in_file(good, "workers = 9"),
      Lines{"x.toml:2:11: workers: 9 workers and 0 servers do not fit the cluster, which has room for 8 "
            "workers (allowed: fewer ranks, more hosts.fast.count or slots, or server.placement = "
            "\"worker\")"});
  EXPECT_EQ(
      in_file("[hosts.a]\nspeed = 1", "", "downpour"),
      Lines{"x.toml:3:16: cluster.name: 1 worker and 1 server do not fit the cluster, which has room for 0 "
            "workers beside them (allowed: fewer ranks, more hosts.a.count or slots, or server.placement = "
            "\"worker\")"});
}

TEST(Mistakes, OfAnAxisThatRealRunsDoNotHaveNameTheEngine) {
  const File file(two_kinds);
  const std::string
      engines = "engine = ['mpi', 'simulated']\n",
      why =
          " make no difference to sync with engine = \"mpi\", for real runs have no modelled "
          "cluster (allowed: several values with engine = \"simulated\" alone, or two experiments)";
  const auto of = [&](const std::string& keys) {
    try {
      parse_experiment(engines + keys + "\n[strategy.sync]", "x.toml");
    } catch (const ConfigError& e) {
      return e.problems();
    }
    return Lines{};
  };
  EXPECT_EQ(of("cluster = ['ethernet-1g', 'ethernet-10g']"),
            Lines{"x.toml:2:27: cluster.name: duplicate run: \"ethernet-1g\" and \"ethernet-10g\"" + why});
  EXPECT_EQ(of("cluster.round = [0, 1]"),
            Lines{"x.toml:2:21: cluster.round: duplicate run: 0.0 and 1.0" + why});
  EXPECT_EQ(of("cluster.straggler.slowdown = [1, 2]"), Lines{});
  EXPECT_EQ(
      of("cluster.straggler.share = [0, 1]"),
      Lines{"x.toml:2:31: cluster.straggler.share: duplicate run: 0.0 and 1.0 make no difference to sync "
            "with its "
            "other settings (allowed: values that do; an axis for some strategies only belongs into their "
            "tables)"});
}

TEST(Mistakes, OfANameListWhatThereIs) {
  try {
    parse_experiment("engine = 'simulated'\ncluster = 'ethernet-2g'\n[strategy.sync]", "x.toml");
    FAIL() << "accepted";
  } catch (const ConfigError& e) {
    EXPECT_EQ(
        std::string(e.what()).find("x.toml:2:11: cluster: ethernet-2g: no such file or shipped cluster, did "
                                   "you mean ethernet-1g?"),
        0u)
        << e.what();
  }
}

TEST(Shipped, AllCanBeUsedByEveryModelAndStrategy) {
  setenv("XDG_CONFIG_HOME", "/none", 1);  // the user's own need not have room
  EXPECT_GE(known_clusters().size(), 8u);
  for (const auto& file : known_clusters())
    for (const ModelEntry& model : all_models())
      for (const StrategyEntry* strategy : all_strategies()) {
        const RunConfig run =
            parse_run("engine = 'simulated'\ncluster = '" + file.string() + "'\nmodel = '" + model.name +
                      "'\nworkers = 4\n" + (model.name.starts_with("cifar") ? "dataset = 'cifar10'\n" : "") +
                      "[strategy." + strategy->name + "]");
        EXPECT_FALSE(run.settings.text("cluster.title").empty()) << file;
        EXPECT_EQ(Cluster(run).seats().size(), std::size_t(run.ranks()));
      }
}

TEST(Seats, FillHostsAndKeepTheMix) {
  const File file(two_kinds);  // room for 2 x 2 and 4 x 1 workers
  const Cluster cluster(run_of("workers = 6", file));
  std::string kinds;
  for (int rank = 0; rank < 6; ++rank) kinds += cluster.hosts(rank).name[0];
  EXPECT_EQ(kinds, "fsfsfs");
  EXPECT_EQ(cluster.seats(), (std::vector<int>{0, 1, 0, 2, 3, 4}));  // two on a fast host
  EXPECT_EQ(cluster.platform().hosts.size(), 5u);
  EXPECT_EQ(cluster.platform().hosts[0].bandwidth, 1e9);
  EXPECT_EQ(cluster.platform().hosts[1].bandwidth, 125e6);
}

TEST(Seats, GoWhereTheSmallestShareOfTheRoomIsTaken) {
  const File file(two_kinds);
  const Cluster cluster(run_of("workers = 6", file, {"cluster.hosts.slow.count=2"}));  // room for 4 and 2
  std::string kinds;
  for (int rank = 0; rank < 6; ++rank) kinds += cluster.hosts(rank).name[0];
  EXPECT_EQ(kinds, "fsffsf");
}

TEST(Seats, OfServers) {
  const File file(two_kinds);
  const Lines own{"workers=2", "servers=2"},
      beside{"workers=2", "servers=2", "cluster.server.placement=worker"};
  const Cluster apart(run_of("cluster.server.hosts = 'slow'", file, own, "downpour"));
  EXPECT_EQ(apart.seats(), (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(apart.hosts(3).name, "slow");
  EXPECT_EQ(Cluster(run_of("", file, beside, "downpour")).seats(), (std::vector<int>{0, 1, 0, 1}));
}

TEST(Seats, MoreRanksThanSlotsSleepWhileTheyWait) {
  const File file(two_kinds);
  const Lines beside{"workers=2", "servers=2", "cluster.server.placement=worker", "cluster.memory.wake=1e-4"};
  const Cluster cluster(run_of("", file, beside, "downpour"));
  EXPECT_EQ(cluster.seats(), (std::vector<int>{0, 1, 0, 1}));
  EXPECT_EQ(cluster.platform().hosts[0].wake, 0);  // two slots
  EXPECT_EQ(cluster.platform().hosts[1].wake, 1e-4);
}

// Seconds of `count` gradients.
std::vector<double> charged(const RunConfig& run, int rank, int count, int samples = 32) {
  const Cluster cluster(run);
  const Network lenet = find_model("lenet")->make({1, 28, 28}, 10);
  Charges charges(run, cluster, lenet, rank);
  std::vector<double> seconds;
  for (int i = 0; i < count; ++i) seconds.push_back(charges.gradient(samples));
  return seconds;
}

TEST(Charge, IsFlopsOverSpeedOrWhatIsGiven) {
  const File file(two_kinds);
  const double flops = flops_per_sample(find_model("lenet")->make({1, 28, 28}, 10));
  const RunConfig run = run_of("workers = 2", file);
  EXPECT_DOUBLE_EQ(charged(run, 0, 1)[0], 32 * flops / (1e12 * 0.5));
  EXPECT_DOUBLE_EQ(charged(run, 1, 1)[0], 32 * flops / 1e11);
  EXPECT_EQ(charged(run, 1, 1, 0)[0], 0);
  const RunConfig given = run_of(
      "cluster.hosts.fast.seconds.lenet.16 = 1\ncluster.hosts.fast.seconds.lenet.64 = 2\n"
      "cluster.hosts.fast.seconds.mlp.32 = 77",
      file);
  const std::pair<int, double> expected[] = {{8, 0.5}, {16, 1}, {40, 1.5}, {64, 2}, {96, 3}};
  for (const auto& [samples, seconds] : expected)
    EXPECT_DOUBLE_EQ(charged(given, 0, 1, samples)[0], seconds) << samples;
}

TEST(Charge, JitterHasMeanOneAndTheSeedDecidesIt) {
  const File file("[hosts.a]\ncount = 8\nseconds.lenet.32 = 1");
  const Lines jitter{"cluster.jitter=0.5"}, other{"cluster.jitter=0.5", "seed=2"};
  const auto seconds = charged(run_of("workers = 2", file, jitter), 0, 20000);
  double sum = 0, logs = 0;
  for (const double s : seconds) sum += s, logs += std::pow(std::log(s) + 0.125, 2);
  EXPECT_NEAR(sum / 20000, 1, 0.02);  // five standard errors
  EXPECT_NEAR(std::sqrt(logs / 20000), 0.5, 0.0125);
  EXPECT_EQ(seconds, charged(run_of("workers = 2", file, jitter), 0, 20000));
  EXPECT_NE(seconds, charged(run_of("workers = 2", file, jitter), 1, 20000));
  EXPECT_NE(seconds, charged(run_of("workers = 2", file, other), 0, 20000));
}

TEST(Charge, StragglersAreSlow) {
  const File file("[hosts.a]\ncount = 8\nseconds.lenet.32 = 1\n[straggler]\nslowdown = 4\n");
  const auto mean = [](const std::vector<double>& seconds) {
    double sum = 0;
    for (const double s : seconds) sum += s;
    return sum / double(seconds.size());
  };
  EXPECT_EQ(mean(charged(run_of("workers = 3", file), 0, 100)), 4);  // all, always
  const RunConfig last = run_of("workers = 3\ncluster.straggler.workers = 1", file);
  EXPECT_EQ(mean(charged(last, 1, 100)), 1);
  EXPECT_EQ(mean(charged(last, 2, 100)), 4);
  EXPECT_NEAR(mean(charged(run_of("cluster.straggler.share = 0.25", file), 0, 20000)), 1.75, 0.05);
}

// A real rank's world, alone, whose clock goes on where somebody sleeps.
class Sleeper final : public World {
 public:
  double seconds = 0;
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int workers() const override { return 1; }
  double now() const override { return seconds; }
  void charge(double) override {}
  void sleep(double more) override { seconds += more; }
  bool simulated() const override { return false; }
  Group& group() override { throw std::logic_error("group"); }
  ParameterServer& server(std::size_t) override { throw std::logic_error("server"); }
  Shards& shards() override { throw std::logic_error("shards"); }
  void serve(Shard&) override {}
  Pairs& pairs(Vec, std::int64_t, const std::vector<Request>*) override { throw std::logic_error("pairs"); }
  Traffic& traffic() override { return traffic_; }
  void barrier() override {}
  void broadcast(void*, std::size_t, int) override {}
  void sum(std::span<std::int64_t>) override {}
  void sum(std::span<double>) override {}
  void min(std::span<double>) override {}
  void max(std::span<double>) override {}
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte>) override { return {}; }
  [[noreturn]] void abort() override { std::abort(); }

 private:
  Traffic traffic_;
};

TEST(Charge, SlowRealRanksSleepForTheRest) {
  const RunConfig run =
      parse_experiment("dataset = 'synthetic'\ncluster.straggler.slowdown = 4\n[strategy.sync]", "x.toml")
          .runs.at(0);
  Sleeper world;
  Slowness slowness(run, 0);
  const Pace pace{world, nullptr, &slowness};
  world.seconds = 12;
  pace.slow_down(10, 32);  // 2 s of work
  EXPECT_DOUBLE_EQ(world.seconds, 10 + 4 * 2);
  pace.slow_down(10, 0);
  EXPECT_DOUBLE_EQ(world.seconds, 18);
}

TEST(Charge, OfServersAndRounds) {
  const File file("round = 2\n[server]\nrate = 1e6\n[hosts.a]\ncount = 8\nspeed = 1e9");
  const RunConfig run = run_of("", file, {}, "downpour");
  const Cluster cluster(run);
  const Charges charges(run, cluster, find_model("lenet")->make({1, 28, 28}, 10), 1);
  EXPECT_DOUBLE_EQ(charges.update(500000), 0.5);
  EXPECT_EQ(charges.round(), 2);
}

TEST(Charge, OfWhatAStepComputesBesides) {
  const File file(
      "[hosts.a]\ncount = 9\nspeed = 1e9\n[hosts.a.work]\nsync.2 = 3e-9\nsync.4 = 4e-9\ntopk.1 = 5e-9\n");
  const auto work = [&](const std::string& strategy, int workers) {
    const RunConfig run = run_of("workers = " + std::to_string(workers), file, {}, strategy);
    const Cluster cluster(run);
    return Charges(run, cluster, find_model("lenet")->make({1, 28, 28}, 10), 0).work(1000);
  };
  const std::pair<int, double> expected[] = {{1, 2.5e-6}, {2, 3e-6}, {3, 3.5e-6}, {4, 4e-6}, {8, 6e-6}};
  for (const auto& [workers, seconds] : expected) EXPECT_DOUBLE_EQ(work("sync", workers), seconds) << workers;
  for (const int workers : {1, 8}) EXPECT_DOUBLE_EQ(work("topk", workers), 5e-6);
  EXPECT_EQ(work("qsgd", 2), 0);
  EXPECT_EQ(problems("cluster.hosts.a.work.sink.1 = 1e-9", file).size(), 1u);
  const auto compression = [&](const std::string& strategy) {
    const RunConfig run = run_of("cluster.compression = 7e-9", file, {}, strategy);
    const Cluster cluster(run);
    return Charges(run, cluster, find_model("lenet")->make({1, 28, 28}, 10), 0).compression();
  };
  EXPECT_EQ(compression("topk"), 0);  // contained in its work
  EXPECT_EQ(compression("qsgd"), 7e-9);
}

}  // namespace
}  // namespace dsgd
