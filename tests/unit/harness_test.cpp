// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "config/experiment.h"
#include "content.h"
#include "launch/launch.h"
#include "launch/open_mpi.h"
#include "results/record.h"
#include "results/results.h"
#include "results/labels.h"
#include "results/table.h"
#include "results/statistics.h"
#include "run/outcome.h"
#include "run/progress.h"
#include "run/snapshots.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "dsgd-test-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

TEST(Statistics, MeanAndInterval) {
  const std::vector<double> x{1, 2, 3, 4};
  EXPECT_DOUBLE_EQ(mean(x), 2.5);
  EXPECT_NEAR(interval(x), 3.182446 * std::sqrt(5.0 / 3.0) / 2, 1e-4);  // t(0.975, 3) * s / sqrt(4)
  EXPECT_TRUE(std::isnan(interval(std::vector<double>{1.0})));
}

TEST(Statistics, StudentQuantiles) {  // as SciPy 1.10 has them, whose first is off by 3e-10
  EXPECT_NEAR(t_quantile_975(1), 12.706204736432, 1e-8);
  EXPECT_NEAR(t_quantile_975(2), 4.302652729911, 1e-8);
  EXPECT_NEAR(t_quantile_975(9), 2.262157162741, 1e-8);
  EXPECT_NEAR(t_quantile_975(21), 2.079613844728, 1e-8);
  EXPECT_NEAR(t_quantile_975(120), 1.979930405053, 1e-8);
}

TEST(OpenMpi, SaysWhichRankWasKilled) {
  // As version 4.1 and as 5.0 say it.
  EXPECT_EQ(
      killed_rank({"rule",
                   "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).",
                   "rule"}),
      "rank 1 was ended by signal 9 (Killed)");
  EXPECT_EQ(killed_rank({"rule", "prterun noticed that process rank 12 with PID 52 on node vm exited on",
                         "signal 11 (Segmentation fault).", "rule"}),
            "rank 12 was ended by signal 11 (Segmentation fault)");
  EXPECT_EQ(killed_rank({"   Process name: [prterun-vm-57@1,1]", "   Exit code:    3"}), std::nullopt);
  EXPECT_EQ(killed_rank({"while attempting to start process rank 0."}), std::nullopt);
  EXPECT_EQ(killed_rank({}), std::nullopt);
}

TEST(Progress, LineIsReadBack) {
  const Progress told{3, 4711, "train", 64000, 1.5, 0.25, 0.125};
  std::string line = to_line(told);
  ASSERT_EQ(line.back(), '\n');
  line.pop_back();
  const auto read = parse_progress(line);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->rank, 3);
  EXPECT_EQ(read->pid, 4711);
  EXPECT_EQ(read->phase, "train");
  EXPECT_EQ(read->used, 64000);
  EXPECT_DOUBLE_EQ(read->seconds, 1.5);
  EXPECT_DOUBLE_EQ(read->loss, 0.25);
  EXPECT_DOUBLE_EQ(read->gradient_s, 0.125);
  EXPECT_FALSE(parse_progress("some other program's output"));
}

TEST(Progress, LossNeedNotBeANumber) {
  std::string line = to_line({0, 1, "train", 32, 0.5, std::nan("")});
  line.pop_back();
  ASSERT_TRUE(parse_progress(line));
  EXPECT_TRUE(std::isnan(parse_progress(line)->loss));
}

// Of the second phase nothing is done yet. A sign of life comes within two seconds.
TEST(Progress, APhaseBeginsWithNothingDone) {
  Reporter reporter(3);
  testing::internal::CaptureStdout();
  reporter.phase("train", 0.125);
  std::this_thread::sleep_for(std::chrono::seconds(2));
  reporter.tell(64000, 1.5, 0.25);
  reporter.phase("score");
  std::istringstream lines(testing::internal::GetCapturedStdout());
  std::vector<Progress> told;
  for (std::string line; std::getline(lines, line);) told.push_back(parse_progress(line).value());
  ASSERT_EQ(told.size(), 3u);
  for (const Progress& p : told) EXPECT_EQ(p.rank, 3);
  EXPECT_EQ(told[0].phase, "train");
  EXPECT_EQ(told[1].used, 64000);
  EXPECT_EQ(told[1].loss, 0.25);
  EXPECT_EQ(told[1].gradient_s, 0.125);
  EXPECT_EQ(told[2].phase, "score");
  EXPECT_EQ(told[2].used, 0);
  EXPECT_EQ(told[2].gradient_s, 0);
}

TEST(Snapshots, PointsAreSpreadEvenly) {
  EXPECT_EQ(snapshot_points(1000, 3), (std::vector<std::int64_t>{0, 250, 500, 750}));
  EXPECT_EQ(snapshot_points(1000, 0), (std::vector<std::int64_t>{0}));
}

// One copy per planned point, whatever the steps; from memory and from disk alike.
TEST(Snapshots, MemoryAndSpoolHoldTheSame) {
  const TemporaryFolder folder;
  constexpr std::size_t n = 5;
  for (const std::size_t in_memory : {0u, 2u, 10u}) {
    Snapshots snapshots(snapshot_points(100, 3), n, in_memory * n * sizeof(float), folder.path());
    ASSERT_EQ(snapshots.planned(), 5u);
    Vector w(host_space(), n);
    for (std::int64_t used = 0; used <= 60; used += 20) {
      fill(float(used), w);
      EXPECT_EQ(snapshots.due(used), used == 0 || used == 40 || used == 60);
      if (snapshots.due(used)) snapshots.take({used, double(used), used}, w);
    }
    fill(99, w);
    snapshots.finish({99, 99, 99}, w);  // stands for the planned 75 too
    const std::vector<float> expected{0, 40, 60, 99, 99};
    for (std::size_t i = 0; i < expected.size(); ++i) {
      snapshots.get(i, w);
      EXPECT_EQ(w.data()[0], expected[i]) << i << " with " << in_memory << " in memory";
      EXPECT_EQ(w.data()[n - 1], expected[i]);
      EXPECT_EQ(snapshots.point(i).used, std::int64_t(expected[i]));
    }
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));  // the spool has no name
}

// So there are as many copies as planned, and all say when they were made.
TEST(Snapshots, AStepOverSeveralPointsMakesACopyForEach) {
  const TemporaryFolder folder;
  Snapshots snapshots(snapshot_points(100, 3), 1, 1024, folder.path());
  const Vector w(host_space(), 1);
  for (const std::int64_t used : {0, 60, 70, 80})
    if (snapshots.due(used)) snapshots.take({used, double(used), used}, w);
  snapshots.finish({100, 100, 100}, w);
  const std::vector<std::int64_t> expected{0, 60, 60, 80, 100};
  ASSERT_EQ(snapshots.taken(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(snapshots.point(i).used, expected[i]) << i;
}

RunConfig small_run() {
  return parse_experiment("dataset = 'synthetic'\nmodel = 'softmax'\nsamples = 64\n[strategy.averaging]\n",
                          "test")
      .runs.at(0);
}

// Why a job ends that says this once, in its first step, and then nothing.
std::string end_of_silence(const Progress& told) {
  const TemporaryFolder folder;
  const fs::path job = folder.path() / "job.sh";
  std::ofstream(job) << "echo '" << to_line(told) << "'\nexec sleep 60\n";
  RunConfig config = small_run();
  config.settings.set("stall_limit", 1.0);
  Launch launch(config,
                {.program = "dsgd", .part = folder.path() / "x.part", .launcher = "sh " + job.string()},
                [](const Progress&) {});
  std::optional<LaunchEnd> end;
  for (int look = 0; !end; ++look) end = launch.watch(look == 80, 100);
  return end->reason;
}

// A first loss of 2.3, or one that is not finite, is no time.
TEST(Launch, KnowsSlowStepsByTheSecondsOfAGradient) {
  for (const double loss : {2.3, double(INFINITY), double(NAN)})
    EXPECT_TRUE(
        end_of_silence({0, getpid(), "train", 0, 0.1, loss}).starts_with("no rank made progress for 1 s"))
        << loss;
  EXPECT_EQ(
      end_of_silence({0, getpid(), "train", 32, 0.1, 2.3, 0.2}),
      "no rank made progress for 2 s (stall_limit); rank 0 was last heard in phase train at 32 samples");
  EXPECT_TRUE(
      end_of_silence({0, getpid(), "train", 0, 0.1, 2.3, 0.01}).starts_with("no rank made progress for 1 s"));
}

// How a job ends in which the second rank gives so many signs of life, two a second, under these limits; how
// many were heard.
std::pair<LaunchEnd, int> end_of_signs(int count, const std::map<std::string, double>& limits) {
  const TemporaryFolder folder;
  const fs::path job = folder.path() / "job.sh";
  std::ofstream(job) << "echo '" << to_line({0, getpid(), "train", 0, 0.1, 2.3, 0.01}) << "'\n"
                     << "for i in $(seq " << count << "); do echo '"
                     << to_line({1, getpid(), "train", 32, 0.1, 2.3, 0.01}) << "'; sleep 0.5; done\n";
  RunConfig config = small_run();
  for (const auto& [limit, seconds] : limits) config.settings.set(limit, seconds);
  int heard = 0;
  Launch launch(config,
                {.program = "dsgd", .part = folder.path() / "x.part", .launcher = "sh " + job.string()},
                [&](const Progress&) { ++heard; });
  std::optional<LaunchEnd> end;
  for (int look = 0; !end; ++look) end = launch.watch(look == 600, 100);
  return {*end, heard};
}

// Whichever rank gives it, and however long the run takes; what a limit is for does not end others.
TEST(Launch, EverySignOfLifeIsProgress) {
  const auto [end, heard] = end_of_signs(8, {{"stall_limit", 2.0}, {"setup_limit", 2.0}});
  EXPECT_EQ(end.kind, LaunchEnd::Kind::finished) << end.reason;
  EXPECT_EQ(heard, 9);
}

TEST(Launch, TimeIsLimitedInSpiteOfSignsOfLife) {
  const auto [end, heard] = end_of_signs(12, {{"time_limit", 2.0}});
  EXPECT_EQ(end.kind, LaunchEnd::Kind::timeout);
  EXPECT_TRUE(end.reason.starts_with("not done after 2 s (time_limit)")) << end.reason;
  EXPECT_GT(heard, 1);
}

TEST(Record, IsReadBack) {
  const TemporaryFolder folder;
  const RunConfig config = small_run();
  const fs::path result = folder.path() / (config.name() + ".h5");
  create_record(part_of(result), config, "yesterday error: unknown\n");
  {
    Recorder recorder(part_of(result));
    for (int i = 0; i < 1000; ++i)
      recorder.step({.rank = 0, .samples = 32, .step = i, .seconds = i * 0.01, .loss = 1.0f / float(i + 1)});
    const std::vector<StepRow> others(10, {.rank = 1});
    recorder.steps(others);
    const std::vector<StalenessRow> staleness{{0, 0, 1}, {0, 1, 2}, {0, 3, 1}};
    h5::write_table<StalenessRow>(recorder.file(), "staleness", staleness);
    recorder.close();
  }
  finish_record(result, "error", "because");
  EXPECT_FALSE(fs::exists(part_of(result)));

  const RunResult run = read_result(result);
  EXPECT_EQ(run.outcome, "error");
  EXPECT_EQ(run.detail, "because");
  EXPECT_EQ(run.history, "yesterday error: unknown\n");
  EXPECT_EQ(run.strategy(), "averaging");
  EXPECT_EQ(run.integer("samples"), 64);
  EXPECT_EQ(std::get<std::int64_t>(run.config.at("strategy.tau")), 10);
  EXPECT_DOUBLE_EQ(run.mean_staleness().value(), 5.0 / 4);
  EXPECT_FALSE(run.throughput());  // only ok runs have one
  EXPECT_EQ(parse_run(std::get<std::string>(run.config.at("text"))).id(), config.id());
  const auto steps = read_steps(result);
  ASSERT_EQ(steps.size(), 1010u);
  EXPECT_EQ(steps[999].step, 999);
  EXPECT_FLOAT_EQ(steps[999].loss, 0.001f);
  EXPECT_EQ(steps[1009].rank, 1);
}

TEST(Record, HasTheLastStepsOfASingleWorker) {
  const TemporaryFolder folder;
  const fs::path part = folder.path() / "x.h5.part";
  create_record(part, small_run(), "");
  Recorder recorder(part);
  for (int i = 0; i < 10; ++i) recorder.step({.step = i});
  recorder.close();
  EXPECT_EQ(read_steps(part).size(), 10u);
}

TEST(Record, CountsServersAsRanks) {
  const TemporaryFolder folder;
  const RunConfig config =
      parse_experiment("dataset = 'synthetic'\nworkers = 2\nservers = 3\n[strategy.downpour]\n", "test")
          .runs.at(0);
  const fs::path part = folder.path() / "x.h5.part";
  create_record(part, config, "");
  EXPECT_EQ(std::get<std::int64_t>(read_result(part).provenance.at("ranks")), 5);
}

// What is flushed survives a writer that is killed.
TEST(Record, IsReadableWithoutClose) {
  const TemporaryFolder folder;
  const RunConfig config = small_run();
  const fs::path result = folder.path() / "killed.h5";
  create_record(part_of(result), config, "");
  const pid_t child = fork();
  if (child == 0) {
    Recorder recorder(part_of(result));
    for (int i = 0; i < 3000; ++i) recorder.step({.rank = 0, .step = i, .seconds = i * 0.001});
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_GE(read_steps(part_of(result)).size(), 2000u);
  finish_record(result, "error", "killed");
  EXPECT_EQ(read_result(result).outcome, "error");
  EXPECT_GE(read_steps(result).size(), 2000u);
}

TEST(Record, HostsAreListedOnce) {
  EXPECT_EQ(listed_once({"node10", "node1", "node10", "node1", "node"}), "node10, node1, node");
}

TEST(Record, TitleAndTargetAreTheExperiments) {
  const TemporaryFolder folder;
  RunConfig config = small_run();
  const fs::path result = folder.path() / (config.name() + ".h5");
  create_record(part_of(result), config, "");
  finish_record(result, "error", "because");
  const auto written = fs::last_write_time(result);
  retitle_record(result, config);
  EXPECT_EQ(fs::last_write_time(result), written);  // nothing is new
  const RunResult old = read_result(result);
  config.settings.set("title", std::string("New"));
  config.settings.set("target", 0.75);
  config.settings.set("time_limit", 77.0);  // was another one when it ran
  retitle_record(result, config);
  const RunResult fresh = read_result(result);
  EXPECT_EQ(fresh.title, "New");
  EXPECT_EQ(std::get<std::string>(fresh.config.at("title")), "New");
  EXPECT_EQ(std::get<double>(fresh.config.at("target")), 0.75);
  EXPECT_EQ(fresh.config.at("time_limit"), old.config.at("time_limit"));
  const RunConfig again = parse_run(std::get<std::string>(fresh.config.at("text")));
  EXPECT_EQ(again.settings.text("title"), "New");
  EXPECT_EQ(again.settings.number("time_limit"), 600);
  EXPECT_EQ(again.id(), fresh.id);
  EXPECT_EQ(fresh.provenance, old.provenance);
  EXPECT_EQ(fresh.detail, "because");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
  config.settings.set("target", 0.5);  // under the same title
  retitle_record(result, config);
  EXPECT_EQ(std::get<double>(read_result(result).config.at("target")), 0.5);
}

TEST(Record, ExpressionsAreTheExperiments) {
  const TemporaryFolder folder;
  RunConfig config = small_run();
  const fs::path result = folder.path() / (config.name() + ".h5");
  const auto said = [&] { return read_result(result).expressions; };
  create_record(part_of(result), config, "");
  finish_record(result, "error", "because");
  EXPECT_TRUE(said().empty());
  config.expressions = {{"minibatch", "64/workers"}, {"strategy.tau", "workers"}};
  retitle_record(result, config);
  EXPECT_EQ(said(), (std::map<std::string, Value>{{"minibatch", std::string("64/workers")},
                                                  {"strategy.tau", std::string("workers")}}));
  config.expressions = {{"minibatch", "32*workers"}};
  retitle_record(result, config);
  EXPECT_EQ(said(), (std::map<std::string, Value>{{"minibatch", std::string("32*workers")}}));
  config.expressions.clear();
  retitle_record(result, config);
  EXPECT_TRUE(said().empty());
  create_record(part_of(result), (config.expressions["minibatch"] = "8*workers", config), "");
  finish_record(result, "error", "because");
  EXPECT_EQ(said().size(), 1u);
}

TEST(Record, DamagedPartIsSetAside) {
  const TemporaryFolder folder;
  const fs::path result = folder.path() / "broken.h5";
  std::ofstream(part_of(result)) << "no HDF5 at all";
  EXPECT_FALSE(finish_record(result, "error", "killed while writing"));
  EXPECT_FALSE(fs::exists(result));
  EXPECT_FALSE(fs::exists(part_of(result)));
  EXPECT_TRUE(fs::exists(result.string() + ".damaged"));
}

// A run of ten classes, a test set of 10000, from an untrained model's test loss and accuracy to the final
// one's.
Outcome ended(double first_loss, double last_loss, double untrained, double reached, std::int64_t correct,
              std::int64_t samples = 60000) {
  const std::vector<SnapshotRow> snapshots{
      {.used = 0, .test_loss = untrained, .test_correct = 680, .test_count = 10000},
      {.used = samples, .test_loss = reached, .test_correct = correct, .test_count = 10000}};
  return outcome_of({.first_loss = first_loss,
                     .last_loss = last_loss,
                     .snapshots = snapshots,
                     .samples = samples,
                     .classes = 10,
                     .chance = 0.1});
}

TEST(Outcome, IsMeasuredAgainstTheUntrainedModel) {
  EXPECT_EQ(ended(2.3, 0.5, 2.31, 0.6, 8000).name, "ok");
  EXPECT_EQ(ended(2.33, 2.33, 2.33, 2.2, 1910, 32).name, "ok");      // one good step, from 6.8 to 19.1 %
  EXPECT_EQ(ended(1e8, 17.68, 2.33, 17.68, 1000).name, "diverged");  // after a first tenth that was worse
  EXPECT_EQ(ended(71, 9.86, 2.33, 9.86, 1000).name, "diverged");
  EXPECT_EQ(ended(30, 40, 2.33, 50, 1774).name, "diverged");         // above chance, but fits nothing
  EXPECT_EQ(ended(0.7, 0.9, 2.33, 1.2, 6722).name, "ok");            // worse in the end than it had been
  EXPECT_EQ(ended(2.3, 1e-4, 2.33, 6, 5500).name, "ok");             // knows its samples by heart
  EXPECT_EQ(ended(2.3, 2.32, 2.33, 71, 1000, 32).name, "diverged");  // one bad step
  EXPECT_EQ(ended(2.3, 2.32, 2.31, 3.4, 1000, 320).name, "ok");      // a short run, for its timing
  EXPECT_NE(ended(71, 9.86, 2.33, 9.86, 1000).why.find("test loss 2.33 -> 9.86, worse than untrained"),
            std::string::npos);
}

TEST(Outcome, IsDivergedWhereAnythingIsNotFinite) {
  EXPECT_EQ(ended(2.3, 0.5, 2.31, std::nan(""), 8000).name, "diverged");
  const std::vector<SnapshotRow> good{{.test_loss = 2.3, .test_correct = 10, .test_count = 100},
                                      {.test_loss = 0.1, .test_correct = 99, .test_count = 100}};
  const Outcome outcome = outcome_of({.not_finite = "weights of rank 3 are not finite",
                                      .first_loss = 2,
                                      .last_loss = 0.1,
                                      .snapshots = good,
                                      .samples = 60000,
                                      .classes = 10,
                                      .chance = 0.1});
  EXPECT_EQ(outcome.name, "diverged");
  EXPECT_EQ(outcome.why, "weights of rank 3 are not finite");
  for (const double loss : {double(NAN), double(INFINITY)}) {
    const std::vector<SnapshotRow> between{
        good[0], {.used = 32, .test_loss = loss, .test_count = 100}, good[1]};
    EXPECT_EQ(outcome_of({.last_loss = 0.1, .snapshots = between, .classes = 10, .chance = 0.1}).why,
              "the test loss after 32 samples is not finite");
  }
}

// Three deviations of a guesser: 0.1 + 3 * sqrt(0.1 * 0.9 / 10000) = 0.109.
TEST(Outcome, IsUnlearnedAtChanceAfterABudgetThatShouldHaveTaughtSomething) {
  EXPECT_EQ(ended(2.3, 2.3, 2.31, 2.3, 1000).name, "unlearned");
  EXPECT_EQ(ended(2.3, 2.3, 2.31, 2.3, 1090).name, "unlearned");
  EXPECT_EQ(ended(2.3, 2.3, 2.31, 2.3, 1091).name, "ok");
  EXPECT_EQ(ended(2.3, 2.3, 2.31, 2.3, 600).name, "unlearned");
  EXPECT_EQ(ended(2.3, 2.3, 2.31, 2.3, 1000, 10000).name, "unlearned");  // 1000 samples a class
  EXPECT_EQ(ended(2.3, 2.3, 2.31, 2.3, 1000, 9999).name, "ok");          // timing runs are short on purpose
  EXPECT_NE(ended(2.3, 2.3, 2.31, 2.3, 1000)
                .why.find("test accuracy 10.00 % after 60000 samples is not above chance, 10.00 %"),
            std::string::npos);
}

TEST(Outcome, SaysWhatARunHas) {
  for (const char* outcome : {"ok", "unlearned", "diverged", "timeout", "error", "running"}) {
    const std::string name = outcome;
    EXPECT_EQ(came_to_its_end(name), name == "ok" || name == "unlearned" || name == "diverged") << name;
    EXPECT_EQ(has_speed(name), name == "ok" || name == "unlearned") << name;
  }
}

// Result files of commit 28d1553, unpacked. What must be read in them stands in a table beside them, which
// tests/runs/plots_test.py reads, too.
class OldResults : public testing::Test {
 protected:
  static constexpr const char* fixtures = DSGD_SOURCE_DIR "/tests/fixtures/28d1553";
  OldResults() {
    for (const auto& entry : fs::directory_iterator(fixtures)) {
      if (entry.path().extension() != ".gz") continue;
      std::vector<std::uint8_t> content(1 << 20);
      content.resize(Content(entry.path()).read(content));
      std::ofstream(folder_.path() / entry.path().stem(), std::ios::binary)
          .write(reinterpret_cast<const char*>(content.data()), std::streamsize(content.size()));
    }
  }
  TemporaryFolder folder_;
};

TEST_F(OldResults, AreRead) {
  std::ifstream in(fs::path(fixtures) / "expected.tsv");
  const auto cells = [&] {
    std::string line, cell;
    std::getline(in, line);
    std::vector<std::string> found;
    for (std::istringstream words(line); std::getline(words, cell, '\t');) found.push_back(cell);
    return found;
  };
  const std::vector<std::string> names = cells();
  int files = 0;
  for (std::vector<std::string> row; !(row = cells()).empty(); ++files) {
    SCOPED_TRACE(row[0]);
    ASSERT_EQ(row.size(), names.size());
    std::map<std::string, std::string> expected;
    for (std::size_t i = 0; i < row.size(); ++i) expected[names[i]] = row[i];
    const fs::path file = folder_.path() / row[0];
    const RunResult run = read_result(file);
    const auto expect_number = [&](const char* name, std::optional<double> value) {
      ASSERT_EQ(value.has_value(), expected[name] != "-") << name;
      if (value) {
        EXPECT_DOUBLE_EQ(*value, std::stod(expected[name])) << name;
      }
    };
    EXPECT_EQ(run.outcome, expected["outcome"]);
    EXPECT_EQ(run.title, expected["title"]);
    EXPECT_EQ(run.engine, expected["engine"]);
    EXPECT_EQ(std::to_string(run.integer("workers")), expected["workers"]);
    EXPECT_EQ(std::to_string(run.integer("seed")), expected["seed"]);
    expect_number("accuracy", run.accuracy());
    expect_number("samples_per_second", run.throughput());
    expect_number("staleness", run.mean_staleness());
    expect_number("megabytes", run.megabytes_per_worker());
    const std::map<std::string, std::size_t> rows{{"steps", read_steps(file).size()},
                                                  {"snapshots", run.snapshots.size()},
                                                  {"ranks", run.ranks.size()},
                                                  {"staleness_rows", run.staleness.size()},
                                                  {"requests", read_requests(file).size()},
                                                  {"departures", run.departures.size()},
                                                  {"spans", read_spans(file).size()}};
    for (const auto& [table, count] : rows) EXPECT_EQ(std::to_string(count), expected[table]) << table;
    const auto weights = run.result.find("weights_sha256");
    EXPECT_EQ(weights == run.result.end() ? "-" : std::get<std::string>(weights->second).substr(0, 12),
              expected["weights"]);
    // The same run today has the same name.
    const RunConfig again = parse_run(std::get<std::string>(run.config.at("text")));
    EXPECT_EQ(again.name(), run.name);
    EXPECT_EQ(again.id(), run.id);
    EXPECT_NE(show(run).find("\n" + run.name + ": " + run.outcome + " ("), std::string::npos);
  }
  EXPECT_EQ(files, 9);
}

TEST_F(OldResults, HaveATable) {
  const ResultFolder found = read_folder(folder_.path());
  EXPECT_TRUE(found.unreadable.empty());
  EXPECT_EQ(found.runs.size(), 8u);
  const std::string text = table(found.runs, 0.9, false);
  for (const char* name : {"\nsync ", "\ndownpour ", "\neasgd (simulated) ", "\nadpsgd "})
    EXPECT_NE(text.find(name), std::string::npos) << text;
}

// HDF5 never sees damage: it may crash or hang on a single wrong bit.
TEST(Results, EveryWrongBitIsFound) {
  const TemporaryFolder folder;
  const RunConfig config = small_run();
  const fs::path result = folder.path() / "run.h5";
  create_record(part_of(result), config, "");
  {
    Recorder recorder(part_of(result));
    recorder.steps(std::vector<StepRow>(1000));
    recorder.close();
  }
  finish_record(result, "error", "because");
  std::stringstream content;
  content << std::ifstream(result, std::ios::binary).rdbuf();
  const std::string good = content.str();

  std::mt19937 random(1);
  std::uniform_int_distribution<std::size_t> anywhere(0, 8 * good.size() - 1);
  std::vector<std::size_t> bits(400);
  std::generate(bits.begin(), bits.end(), [&] { return anywhere(random); });
  for (std::size_t bit = 0; bit < 8 * 64; ++bit) bits.push_back(bit);  // the first line
  for (const std::size_t bit : bits) {
    std::string bad = good;
    bad[bit / 8] = char(bad[bit / 8] ^ 1 << bit % 8);
    std::ofstream(result, std::ios::binary) << bad;
    try {
      read_result(result);
      FAIL() << "bit " << bit << " makes no difference";
    } catch (const std::runtime_error& e) {
      const std::string message = e.what();
      EXPECT_TRUE(message.starts_with(result.string() + ": damaged")) << message;
      EXPECT_TRUE(
          std::all_of(message.begin(), message.end(), [](unsigned char c) { return std::isprint(c); }));
    }
  }
  std::ofstream(result, std::ios::binary) << good;
  EXPECT_EQ(read_result(result).detail, "because");
}

TEST(Results, DamagedFileIsNamed) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "a.h5") << "no HDF5 at all";
  const ResultFolder results = read_folder(folder.path());
  EXPECT_TRUE(results.runs.empty());
  ASSERT_EQ(results.unreadable.size(), 1u);
  EXPECT_NE(results.unreadable[0].find("a.h5"), std::string::npos);
}

// A result with the given numbers, for the derived ones.
RunResult invented(const std::string& strategy, std::int64_t workers, std::int64_t minibatch,
                   std::int64_t seed, double seconds, std::int64_t correct,
                   const std::string& outcome = "ok") {
  RunResult run;
  run.outcome = outcome;
  run.config = {{"strategy", strategy},
                {"workers", workers},
                {"minibatch", minibatch},
                {"seed", seed},
                {"target", 0.5}};
  run.result = {{"samples", std::int64_t(1000)}, {"seconds", seconds}};
  run.snapshots = {{.used = 0, .seconds = 0, .test_correct = 10, .test_count = 100},
                   {.used = 500, .seconds = seconds / 2, .test_correct = correct - 1, .test_count = 100},
                   {.used = 1000, .seconds = seconds, .test_correct = correct, .test_count = 100}};
  run.ranks = {{.rank = 0, .bytes_sent = 3000000}, {.rank = 1, .server = 1, .bytes_sent = 900000000}};
  return run;
}

// The cells of a row of the table.
std::vector<std::string> row_of(const std::string& text, const std::string& strategy,
                                const std::string& workers) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> cells;
    for (std::size_t at = 0, end; at < line.size(); at = line.find_first_not_of(' ', end)) {
      end = std::min(line.find("  ", at), line.size());
      cells.push_back(line.substr(at, end - at));
    }
    if (cells.size() > 1 && cells[0] == strategy && cells[1] == workers) return cells;
  }
  return {};
}

TEST(Results, DerivedNumbers) {
  RunResult run = invented("sync", 1, 32, 1, 4.0, 80);
  EXPECT_DOUBLE_EQ(run.accuracy().value(), 0.8);
  EXPECT_DOUBLE_EQ(run.throughput().value(), 250);
  EXPECT_DOUBLE_EQ(run.time_to(0.79).value(), 2.0);  // the first snapshot that is good enough
  EXPECT_DOUBLE_EQ(run.time_to(0.80).value(), 4.0);
  EXPECT_FALSE(run.time_to(0.81));
  EXPECT_FALSE(run.mean_staleness());
  EXPECT_DOUBLE_EQ(run.megabytes_per_worker().value(), 3);  // servers do not count
  run.staleness = {{0, 0, 1}, {0, 1, 2}, {1, 3, 1}};
  EXPECT_DOUBLE_EQ(run.mean_staleness().value(), (0 * 1 + 1 * 2 + 3 * 1) / 4.0);
  run.ranks[0].snapshot_s = 0.01;
  run.ranks[1].snapshot_s = 0.08;
  EXPECT_DOUBLE_EQ(run.snapshot_share().value(), 0.08 / 4);
}

TEST(Results, TableNamesTheBaseOfEverySpeedUp) {
  std::vector<RunResult> runs{invented("sync", 1, 32, 1, 4.0, 80), invented("sync", 1, 64, 1, 3.0, 80),
                              invented("sync", 2, 32, 1, 2.0, 80), invented("bmuf", 2, 32, 1, 2.0, 80)};
  const std::string text = table(runs, 0.8, false);
  EXPECT_NE(text.find("2.00 weak, 1.50 strong"), std::string::npos) << text;
  EXPECT_NE(text.find("no base"), std::string::npos) << text;
  EXPECT_EQ(text.find("super-linear"), std::string::npos) << text;
  EXPECT_EQ(text.find("k of n"), std::string::npos) << text;
  runs[2] = invented("sync", 2, 32, 1, 1.6, 80);
  EXPECT_EQ(row_of(table(runs, 0.8, false), "sync minibatch=32", "2").at(5),
            "2.50 weak (super-linear), 1.88 strong");
}

// Not of the files, in which 16 workers come before 2.
TEST(Results, TableIsInTheOrderOfStrategiesAndWorkers) {
  const std::vector<RunResult> runs{invented("bmuf", 1, 32, 1, 4.0, 80), invented("sync", 16, 32, 1, 4.0, 80),
                                    invented("sync", 1, 32, 1, 4.0, 80), invented("sync", 2, 32, 1, 4.0, 80)};
  std::istringstream words(table(runs, 0.8, false));
  std::vector<std::string> rows;
  for (std::string word, before; words >> word; before = word)
    if (before == "sync" || before == "bmuf") rows.push_back(before + " " + word);
  EXPECT_EQ(rows, (std::vector<std::string>{"sync 1", "sync 2", "sync 16", "bmuf 1"}));
}

TEST(Results, ShowHasNumbersUnderTheirHeadings) {
  RunResult run = invented("sync", 1, 32, 1, 4.0, 80);
  run.result["scoring_s"] = 1.0;
  run.snapshots[1].version_min = 1;
  run.snapshots[1].version_max = 3;
  run.snapshots[1].test_loss = 0.5;
  run.ranks = {{.rank = 0,
                .steps = 3,
                .samples = 96,
                .total_s = 1.5,
                .compute_s = 1.25,
                .communication_s = 0.125,
                .wait_s = 0.25,
                .snapshot_s = 0.5,
                .bytes_sent = 3000000,
                .bytes_received = 4000000,
                .messages = 7,
                .synchronisations = 8}};
  const std::string text = show(run);
  using Cells = std::vector<std::string>;
  EXPECT_EQ(row_of(text, "samples", "seconds"),
            (Cells{"samples", "seconds", "version", "test loss", "test accuracy %"}));
  EXPECT_EQ(row_of(text, "500", "2.000"), (Cells{"500", "2.000", "1-3", "0.5000", "79.00"}));
  EXPECT_EQ(row_of(text, "rank", "role"),
            (Cells{"rank", "role", "steps", "samples", "total s", "compute s", "communication s", "wait s",
                   "snapshot s", "MB sent", "MB received", "messages", "synchronisations"}));
  EXPECT_EQ(row_of(text, "0", "worker"), (Cells{"0", "worker", "3", "96", "1.500", "1.250", "0.125", "0.250",
                                                "0.500", "3.00", "4.00", "7", "8"}));
}

// Rows of one expression belong together, whatever its values are.
TEST(Results, SpeedUpsFollowAnExpression) {
  std::vector<RunResult> runs;
  for (const std::int64_t workers : {1, 2, 4}) {
    runs.push_back(invented("sync", workers, 64 / workers, 1, 8.0 / double(workers), 80));
    runs.back().config["optimizer.learning_rate"] = 0.1 * double(workers);
    runs.back().expressions = {{"optimizer.learning_rate", std::string("0.1*workers")},
                               {"minibatch", std::string("64/workers")}};
    runs.push_back(invented("sync", workers, 64, 1, 6.0, 80));
    runs.back().config["optimizer.learning_rate"] = 0.7;
  }
  const std::string text = table(runs, std::nullopt, false);
  EXPECT_NE(text.find("sync minibatch=64/workers optimizer.learning_rate=0.1*workers"), std::string::npos)
      << text;
  EXPECT_NE(text.find(" 4.00 strong"), std::string::npos) << text;
  EXPECT_NE(text.find(" 1.00 weak"), std::string::npos) << text;
  EXPECT_EQ(text.find("no base"), std::string::npos) << text;
  runs[0].result["scoring_s"] = 1.0;
  EXPECT_NE(show(runs[0]).find("64/workers"), std::string::npos);
}

TEST(Results, UnreachedTargetIsNeverATime) {
  const std::vector<RunResult> runs{invented("sync", 1, 32, 1, 4.0, 80), invented("sync", 1, 32, 2, 4.0, 70),
                                    invented("sync", 1, 32, 3, 4.0, 90, "diverged")};
  const std::string text = table(runs, 0.8, false);
  EXPECT_NE(text.find("1 of 3 reached"), std::string::npos) << text;
  EXPECT_NE(text.find("1 diverged, 2 ok"), std::string::npos) << text;
  EXPECT_NE(text.find("k of n: "), std::string::npos) << text;
}

TEST(Results, NoMeanIsMadeOfSurvivors) {
  std::vector<RunResult> runs;
  for (const std::int64_t seed : {1, 2, 3}) {
    runs.push_back(invented("sync", 1, 32, seed, 4.0, 80));
    runs.push_back(invented("sync", 2, 32, seed, 2.0, 80));
  }
  const auto row = [&] { return row_of(table(runs, 0.5, false), "sync", "2"); };
  using Cells = std::vector<std::string>;
  EXPECT_EQ(row(), (Cells{"sync", "2", "80.00 ± 0.00", "1.00 ± 0.00", "500 ± 0", "2.00 ± 0.00 weak", "-",
                          "3.0 ± 0.0", "3 ok"}));
  RunResult& failed = runs.back() = invented("sync", 2, 32, 3, 2.0, 10, "diverged");
  EXPECT_EQ(row(), (Cells{"sync", "2", "2 of 3 (10.00 to 80.00)", "2 of 3 reached", "2 of 3", "2 of 3 weak",
                          "-", "3.0 ± 0.0", "1 diverged, 2 ok"}));
  failed.outcome = "unlearned";  // at the same speed
  EXPECT_EQ(row(), (Cells{"sync", "2", "2 of 3 (10.00 to 80.00)", "2 of 3 reached", "500 ± 0",
                          "2.00 ± 0.00 weak", "-", "3.0 ± 0.0", "2 ok, 1 unlearned"}));
  failed.outcome = "error";
  failed.snapshots.clear();
  failed.ranks.clear();
  EXPECT_EQ(row(), (Cells{"sync", "2", "2 of 3 (80.00)", "2 of 3 reached", "2 of 3", "2 of 3 weak", "-",
                          "2 of 3", "1 error, 2 ok"}));
  runs[4] = invented("sync", 1, 32, 3, 4.0, 80, "diverged");  // a base
  EXPECT_EQ(row()[5], "2 of 3 weak");
}

// A real run has the keys of what slows ranks only where some are slowed.
TEST(Results, TableNamesTheAxisOfAStraggler) {
  std::vector<RunResult> runs(4, invented("sync", 2, 32, 1, 2.0, 80));
  for (std::size_t i = 0; i < runs.size(); ++i) {
    RunResult& run = runs[i];
    run.engine = i < 2 ? "mpi" : "simulated";
    run.config["engine"] = run.engine;
    if (run.simulated()) run.config["cluster.name"] = std::string("ethernet-1g");
    if (i == 0) continue;
    run.config.insert({{"cluster.jitter", 0.0},
                       {"cluster.straggler.share", 1.0},
                       {"cluster.straggler.slowdown", i % 2 ? 4.0 : 1.0},
                       {"cluster.straggler.workers", std::int64_t(1)}});
  }
  for (const auto& some : {runs, {runs[0], runs[1]}}) {
    const std::string text = table(some, 0.8, false);
    EXPECT_NE(text.find("\nsync cluster.straggler.slowdown=1.0  "), std::string::npos) << text;
    EXPECT_NE(text.find("\nsync cluster.straggler.slowdown=4.0  "), std::string::npos) << text;
  }
  const std::string text = table(runs, 0.8, false);
  EXPECT_NE(text.find("\nsync (simulated) cluster.straggler.slowdown=1.0  "), std::string::npos) << text;
}

TEST(Results, LabelsNameWhatOnlySomeRunsHave) {
  std::vector<RunResult> runs(2, invented("sync", 2, 32, 1, 2.0, 80));
  runs[1].config["strategy.tau"] = std::int64_t(5);
  Labels labels;
  for (const RunResult& run : runs) labels.add(run.config);
  EXPECT_EQ(labels.of(runs[0].config), "");
  EXPECT_EQ(labels.of(runs[1].config), " tau=5");
}

TEST(Results, LabelsNameClustersAlone) {
  const Experiment experiment = parse_experiment(
      "engine = 'simulated'\ndataset = 'synthetic'\nworkers = 2\n"
      "cluster.name = ['ethernet-1g', 'ethernet-10g']\ncluster.straggler.slowdown = [1, "
      "4]\n[strategy.sync]\n",
      "test");
  Labels labels;
  for (const RunConfig& run : experiment.runs) labels.add(config_of(run));
  std::set<std::string> names;
  for (const RunConfig& run : experiment.runs) names.insert(labels.of(config_of(run)));
  EXPECT_EQ(names,
            (std::set<std::string>{" (simulated) cluster.name=ethernet-10g cluster.straggler.slowdown=1.0",
                                   " (simulated) cluster.name=ethernet-10g cluster.straggler.slowdown=4.0",
                                   " (simulated) cluster.name=ethernet-1g cluster.straggler.slowdown=1.0",
                                   " (simulated) cluster.name=ethernet-1g cluster.straggler.slowdown=4.0"}));
}

TEST(Results, TableSaysWhatLearnedNothing) {
  std::vector<RunResult> runs{invented("sync", 1, 32, 1, 4.0, 80), invented("sync", 2, 32, 1, 4.0, 80)};
  EXPECT_EQ(table(runs, 0.8, false).find("skipped"), std::string::npos);
  runs[1].config["gradient"] = std::string("skipped");
  const std::string text = table(runs, 0.8, false);
  EXPECT_NE(text.find("gradient=skipped (1 of 2 runs): timing alone"), std::string::npos) << text;
}

TEST(Results, TableRefusesToMix) {
  for (const char* what : {"commit", "dirty", "compiler", "build_type", "flags", "cpu", "cores"}) {
    std::vector<RunResult> runs{invented("sync", 1, 32, 1, 4.0, 80), invented("sync", 2, 32, 1, 4.0, 80)};
    runs[1].provenance[what] = std::string("true");
    EXPECT_THROW(table(runs, 0.8, false), std::runtime_error) << what;
    EXPECT_NE(table(runs, 0.8, true).find("sync"), std::string::npos);
  }
}

// Allowed to mix, each program and host has rows of its own.
TEST(Results, NoMeanIsMadeOfCommits) {
  for (const char* what : {"commit", "dirty", "compiler", "flags", "cpu", "cores"}) {
    std::vector<RunResult> runs;
    for (const std::int64_t seed : {1, 2, 1, 2}) {
      const bool old = runs.size() < 2;
      runs.push_back(invented("sync", 2, 32, seed, old ? 4.0 : 2.0, 80));
      runs.back().provenance[what] = std::string(what) == "dirty" ? std::string(old ? "true" : "false")
                                                                  : std::string(old ? "old" : "new");
      if (!old) runs.back().config["strategy.later"] = std::int64_t(1);  // a key that there was not
    }
    const std::string text = table(runs, 0.5, true);
    const std::map<std::string, std::string> marks{
        {"commit", "commit="}, {"dirty", "commit="}, {"cpu", "host="}, {"cores", "host="}};
    const std::string mark = marks.contains(what) ? marks.at(what) : "build=";
    std::istringstream lines(text);
    int rows = 0;
    for (std::string line; std::getline(lines, line);)
      if (line.starts_with("sync")) {
        ++rows;
        EXPECT_TRUE(line.starts_with("sync " + mark)) << line;
        EXPECT_NE(line.find(" ± 0 "), std::string::npos) << line;
        EXPECT_EQ(line.find("later"), std::string::npos) << line;
      }
    EXPECT_EQ(rows, 2) << text;
  }
}

TEST(Results, TheSameRunTwiceIsRefused) {
  std::vector<RunResult> runs{invented("sync", 1, 32, 1, 4.0, 80), invented("sync", 1, 32, 1, 3.0, 80)};
  runs[0].file = "a.h5";
  runs[1].file = "b.h5";
  runs[1].config["cluster.platform"] = std::string("/somewhere/else.xml");  // where a file lies is no setting
  try {
    table(runs, 0.8, true);
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(
        e.what(),
        "a.h5 and b.h5 are the same settings and seed twice (expected: once; keep one of them in the "
        "folder)");
  }
  runs[1].config["seed"] = std::int64_t(2);
  EXPECT_EQ(row_of(table(runs, 0.8, false), "sync", "1")[8], "2 ok");
}

// As in figures: to its own, or to the one that is given.
TEST(Results, EveryRunIsTimedToItsTarget) {
  std::vector<RunResult> runs{invented("sync", 1, 32, 1, 4.0, 80), invented("sync", 1, 32, 2, 4.0, 80)};
  EXPECT_NE(table(runs, std::nullopt, false).find("  time to 50 % (s)  "), std::string::npos);
  EXPECT_EQ(row_of(table(runs, std::nullopt, false), "sync", "1")[3], "2.00 ± 0.00");
  runs[1].config["target"] = 0.8;
  const std::string text = table(runs, std::nullopt, false);
  EXPECT_NE(text.find("  time to target  "), std::string::npos) << text;
  EXPECT_EQ(row_of(text, "sync target=0.5", "1")[3], "2.00") << text;
  EXPECT_EQ(row_of(text, "sync target=0.8", "1")[3], "4.00") << text;
  EXPECT_EQ(row_of(table(runs, 0.8, false), "sync", "1")[3], "4.00 ± 0.00");
}

TEST(Results, LabelsNameWhatOneExperimentHasNotOfAnother) {
  std::vector<RunResult> runs;
  for (const char* strategy : {"averaging", "sync", "ssp", "bmuf"}) {
    const bool second = runs.size() % 2, other = runs.size() >= 2;
    runs.push_back(invented(strategy, 1, other ? 64 : 32, 1, 4.0, 80));
    runs.back().config["optimizer.learning_rate"] =
        second ? 0.1 : 0.2;  // each strategy's, in both experiments
    runs.back().config["title"] = std::string("One");
  }
  Labels one, two;
  for (const RunResult& run : runs) one.add(run.config);
  for (std::size_t i = 2; i < runs.size(); ++i) runs[i].config["title"] = std::string("Two");
  for (const RunResult& run : runs) two.add(run.config);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(one.of(runs[i].config), "");
    EXPECT_EQ(two.of(runs[i].config), i < 2 ? " minibatch=32" : " minibatch=64");
  }
  Labels shared;  // a value of both
  runs[1].config["minibatch"] = std::int64_t(64);
  for (const RunResult& run : runs) shared.add(run.config);
  for (const RunResult& run : runs) EXPECT_EQ(shared.of(run.config), "");
}

// Their keys are no settings in figures either.
TEST(Results, BothReadersLeaveOutTheSameKeys) {
  std::stringstream python;
  python << std::ifstream(DSGD_SOURCE_DIR "/plots/result_file.py").rdbuf();
  std::string keys = python.str().substr(python.str().find("\nNOT_A_SETTING = {"));
  keys.resize(keys.find('}'));
  for (const RunKey& key : run_keys())
    EXPECT_EQ(keys.find("\"" + key.name + "\"") != std::string::npos,
              key.policy || key.name == "workers" || key.name == "seed")
        << key.name;
}

}  // namespace
}  // namespace dsgd
