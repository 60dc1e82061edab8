// SPDX-License-Identifier: Apache-2.0
#include "launch/sweep.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <tuple>

#include "config/experiment.h"
#include "launch/display.h"
#include "launch/estimate.h"
#include "launch/launch.h"
#include "model.h"
#include "results/labels.h"
#include "results/record.h"
#include "results/results.h"
#include "results/table.h"
#include "run/outcome.h"
#include "sums.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t interrupted = 0;

// One sweep at a time in a folder: held as long as the process lives.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder) {
    const fs::path file = folder / ".lock";
    fd_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0)
      throw std::runtime_error(fmt::format("{}: {}; results need a folder that can be written to",
                                           file.string(), std::strerror(errno)));
    if (flock(fd_, LOCK_EX | LOCK_NB))
      throw std::runtime_error(
          fmt::format("{}: another dsgd is at work in this folder; wait for it, or use another one (-o)",
                      folder.string()));
  }
  ~FolderLock() { ::close(fd_); }

 private:
  int fd_;
};

// What dsgd left behind where it was killed, in this experiment or another one. The folder's lock is held, so
// nobody is at work on it.
void record_interrupted(const fs::path& out, const Experiment& experiment) {
  std::set<fs::path> parts;
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".h5.part")) parts.insert(entry.path());
    if (name.ends_with(".h5.part.toml") || name.ends_with(".h5.new")) fs::remove(entry.path());
  }
  for (const fs::path& part : parts) {
    const fs::path result = fs::path(part).replace_extension();
    const bool here = std::any_of(experiment.runs.begin(), experiment.runs.end(),
                                  [&](const RunConfig& run) { return run.name() == result.stem(); });
    const bool keep = !here && fs::exists(result);
    if (keep)
      fs::remove(part);
    else
      finish_record(result, "error", "interrupted: dsgd ended before the run did");
    fmt::print(stderr, "{}: had been interrupted; {}\n", result.stem().string(),
               here   ? "starts again"
               : keep ? "its earlier result stays"
                      : "recorded, for this experiment does not contain it");
  }
}

std::string attempt(const RunResult& run) {
  return fmt::format("{} {}: {}\n", std::get<std::string>(run.provenance.at("started")), run.outcome,
                     run.detail);
}

// SimGrid alone can tell whether a platform's file has hosts and routes.
void check_platforms(const Experiment& experiment) {
  std::set<std::string> seen;
  std::vector<std::string> problems;
  for (const RunConfig& config : experiment.runs) {
    if (!config.simulated() || config.settings.text("cluster.platform").empty()) continue;
    std::string key = fmt::format("{} {}", config.workers(), config.servers());
    for (const auto& [name, value] : config.settings.values())
      if (name.starts_with("cluster.")) key += fmt::format(" {}={}", name, to_string(value));
    if (!seen.insert(key).second) continue;
    if (const std::string why = check_platform(config, fs::read_symlink("/proc/self/exe")); !why.empty())
      problems.push_back(why);
  }
  std::sort(problems.begin(), problems.end());
  problems.erase(std::unique(problems.begin(), problems.end()), problems.end());
  if (!problems.empty()) throw ConfigError(problems);
}

// Gives every run the content of its data set, as it lies here. Returns the sets that are not here; throws
// where they are `needed`.
std::set<std::string> identify_data(Experiment& experiment, const fs::path& data_dir, bool needed) {
  std::set<std::string> missing;
  std::map<std::string, std::string> contents;
  for (RunConfig& config : experiment.runs) {
    const DatasetEntry& entry = known_dataset(config.settings.text("dataset"));
    if (entry.files.empty() || missing.contains(entry.name)) continue;
    if (!contents.contains(entry.name)) {
      fs::path folder;
      try {
        folder = locate_dataset(entry, data_dir);
      } catch (const std::runtime_error&) {
        if (needed) throw;
        missing.insert(entry.name);
        continue;
      }
      contents[entry.name] = content_id(entry, dataset_sums(entry, folder));
    }
    const std::string &found = contents[entry.name], said = config.settings.text("dataset_sha256");
    if (!said.empty() && said != found)
      throw ConfigError({fmt::format("dataset_sha256: {} is {} here (allowed: {})", entry.name,
                                     found.empty() ? "the published one" : found, said)});
    config.settings.set("dataset_sha256", found);
  }
  return missing;
}

}  // namespace

int sweep(const SweepOptions& options) {
  const fs::path file = find_experiment(options.experiment);
  Experiment experiment = load_experiment(file, options.overrides);
  if (options.single && experiment.runs.size() != 1)
    throw std::runtime_error(
        fmt::format("{} is {} runs, not one: use `dsgd sweep`, or narrow it with --set (for example --set "
                    "workers=1 --set seed=1)",
                    file.string(), experiment.runs.size()));
  check_platforms(experiment);
  const fs::path out = options.out.empty() ? fs::path("out") / file.stem() : options.out;
  const std::set<std::string> missing = identify_data(experiment, options.data_dir, !options.dry_run);
  if (options.dry_run) {
    print_plan(experiment, out);
    for (const std::string& name : missing)
      fmt::print("ids are open: data set {} is not here; they are those of its published content\n", name);
    return 0;
  }

  std::error_code failed;
  fs::create_directories(out, failed);
  if (failed)
    throw std::runtime_error(fmt::format("{}: {}; results need a folder that can be written to (-o)",
                                         out.string(), failed.message()));
  const FolderLock lock(out);
  const auto result_of = [&](const RunConfig& config) { return out / (config.name() + ".h5"); };

  record_interrupted(out, experiment);
  // What is there already: finished runs are skipped, failed ones are tried again.
  const std::string here = RunResult::origin_of(provenance_here());
  std::vector<const RunConfig*> todo, kept;
  std::map<const RunConfig*, std::string> history;
  std::vector<std::string> stale;
  for (const RunConfig& config : experiment.runs) {
    const fs::path result = result_of(config);
    if (!fs::exists(result)) {
      todo.push_back(&config);
      continue;
    }
    try {
      const RunResult old = read_result(result);
      const bool done = came_to_its_end(old.outcome);
      const bool again = options.redo || (config.settings.flag("trace") && !old.traced);
      if (done && !again && old.origin() != here && !options.keep_stale)
        stale.push_back(fmt::format("{}: {}", result.filename().string(), old.origin()));
      if (done && !again) {
        kept.push_back(&config);
        continue;
      }
      history[&config] = old.history + attempt(old);
    } catch (const std::exception& e) {
      fmt::print(stderr, "{}\n{}: starts again\n", e.what(), config.name());
    }
    todo.push_back(&config);
  }
  if (!stale.empty()) {
    std::string message = fmt::format(
        "{} of {} results in {} were made by another program or host than this one ({}); --keep-stale keeps "
        "them, "
        "--redo makes them anew, -o takes another folder:",
        stale.size(), experiment.runs.size(), out.string(), here);
    for (const std::string& line : stale) message += "\n  " + line;
    throw std::runtime_error(message);
  }
  for (const RunConfig* config : kept) retitle_record(result_of(*config), *config);
  if (todo.size() < experiment.runs.size())
    fmt::print(stderr, "{} of {} runs are there already\n", experiment.runs.size() - todo.size(),
               experiment.runs.size());

  warn_of_plain_loops(todo);

  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);

  std::int64_t samples = 0;
  for (const RunConfig* config : todo) samples += config->samples();
  Display display(experiment, todo.size(), samples);
  // Real runs one at a time, for they share the cores; simulated ones, whose time is virtual, one per core.
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  std::map<std::size_t, Launch> running;  // by index in `todo`
  const auto start = [&](std::size_t i) {
    const fs::path part = part_of(result_of(*todo[i]));
    create_record(part, *todo[i], history[todo[i]]);
    display.start(i + 1, *todo[i]);
    running.emplace(std::piecewise_construct, std::forward_as_tuple(i),
                    std::forward_as_tuple(*todo[i],
                                          LaunchOptions{fs::read_symlink("/proc/self/exe"), part,
                                                        options.data_dir, options.launcher},
                                          [&display, i](const Progress& p) { display.update(i + 1, p); }));
  };
  const auto finish = [&](std::size_t i, const LaunchEnd& end) {
    const fs::path result = result_of(*todo[i]);
    std::string outcome = end.kind == LaunchEnd::Kind::timeout ? "timeout" : "error", detail = end.reason;
    if (end.kind == LaunchEnd::Kind::finished) {
      const RunResult made = read_result(part_of(result));
      outcome = made.outcome == "running" ? "error" : made.outcome;
      detail = made.outcome == "running" ? "the job ended without a result" : made.detail;
    }
    if (!finish_record(result, outcome, detail)) {
      create_record(part_of(result), *todo[i], history[todo[i]]);
      finish_record(result, outcome, detail);
    }
    display.end(i + 1, outcome, detail);
  };
  for (std::size_t next = 0; !running.empty() || (next < todo.size() && !interrupted);) {
    while (next < todo.size() && !interrupted &&
           (running.empty() ||
            (running.size() < cores && todo[next]->simulated() && todo[running.begin()->first]->simulated())))
      start(next++);
    for (auto run = running.begin(); run != running.end();) {
      const std::size_t i = run->first;
      const auto end = run->second.watch(interrupted, int(100 / running.size()));
      run = end ? running.erase(run) : std::next(run);
      if (end) finish(i, *end);
    }
  }

  std::vector<RunResult> runs;
  bool good = true;
  for (const RunConfig& config : experiment.runs) {
    const fs::path result = result_of(config);
    if (!fs::exists(result)) {
      good = false;
      continue;
    }
    runs.push_back(read_result(result));
    good = good && came_to_its_end(runs.back().outcome);
  }
  if (!runs.empty()) {
    if (options.single)
      fmt::print("{}", show(runs.front()));
    else
      fmt::print("\n{}\n{}", experiment.title, table(runs, std::nullopt, options.keep_stale));
    fmt::print("results: {}\n", fs::absolute(out).lexically_normal().string());
  }
  if (interrupted) return 130;
  return good ? 0 : 1;
}

}  // namespace dsgd
