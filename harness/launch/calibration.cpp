// SPDX-License-Identifier: Apache-2.0
#include "launch/calibration.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>
#include <thread>

#include "launch/launch.h"
#include "results/record.h"
#include "results/results.h"
#include "run/probe.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t passes = 3;   // apart in time, so that a disturbance spoils a part of each number
constexpr double gradients_s = 0.4;  // about how long one model and minibatch may take in all, at
constexpr double guess = 2e10;       // flop/s
constexpr int least_steps = 2, most_steps = 70;  // a pass

}  // namespace

Measured::Measured(std::vector<double> all) {
  if (all.empty()) throw std::runtime_error("calibrate: a run has left no measurements");
  std::sort(all.begin(), all.end());
  const auto at = [&](double share) { return all[std::size_t(share * double(all.size() - 1))]; };
  median = at(0.5);
  low = at(0.25);
  high = at(0.75);
  const std::size_t kept = all.size() - std::size_t(slowest * double(all.size()));
  all.resize(kept);
  mean = std::accumulate(all.begin(), all.end(), 0.0) / double(kept);
  double squares = 0;
  for (const double x : all) squares += x > 0 ? std::pow(std::log(x / median), 2) : 0;
  sigma = std::sqrt(squares / double(kept));
}

std::string Measured::spread() const {
  return fmt::format("± {:.2g} %", median > 0 ? 50 * (high - low) / median : 0);
}

RunsFolder::RunsFolder() {
  std::string name = (fs::temp_directory_path() / "dsgd-calibrate-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error(fmt::format("{}: {}", name, std::strerror(errno)));
  path = name;
}

RunsFolder::~RunsFolder() {
  std::error_code none;
  fs::remove_all(path, none);
}

Calibration::Calibration(const CalibrateOptions& options)
    : o_(options),
      cores_(int(std::max(1u, std::thread::hardware_concurrency()))),
      middle_(o_.minibatches[o_.minibatches.size() / 2]) {
  if (o_.ranks == 0) o_.ranks = cores_;
  jobs_[2];  // messages are measured in any case
  for (std::int64_t pass = 1; pass <= passes; ++pass) plan(pass);
}

void Calibration::measure(const volatile std::sig_atomic_t& interrupted) {
  std::size_t runs = 0, done = 0;
  for (const auto& [ranks, planned] : jobs_) runs += planned.size();
  for (const auto& [ranks, planned] : jobs_) job(ranks, planned, done, runs, interrupted);
  for (const Probe& p : read_probes(folder_.path / "2")) probes_[p.what][p.floats].push_back(p.seconds);
}

void Calibration::plan(std::int64_t pass) {
  for (const std::string& device : o_.devices) {
    for (const std::string& model : o_.models)
      for (const int minibatch : o_.minibatches) add(gradients(device, model, minibatch, o_.ranks), pass);
    if (o_.ranks > 1) add(gradients(device, o_.models.front(), middle_, 1), pass);
    for (const std::string& strategy : o_.strategies)
      for (const int workers : {1, 2})
        if (workers == 1 || !find_strategy(strategy)->served()) add(steps(device, strategy, workers), pass);
  }
  add(steps(o_.devices.front(), round_trips, 1), pass);
  if (cores_ > 1) add(steps(o_.devices.front(), round_trips, 2, cores_ - 1), pass);
}

void Calibration::add(const Kind& kind, std::int64_t pass) {
  const auto flops = [&](int minibatch) {
    const ModelEntry& model = *find_model(kind.model);
    return minibatch * flops_per_sample(model.make(model.images, 10));
  };
  // Where ranks outnumber cores, the system takes a while to spread them.
  const int longer = kind.strategy == round_trips && kind.workers == 2 ? 10 : 1;
  const int count = longer * std::clamp(int(gradients_s / double(passes) * guess / flops(kind.minibatch)),
                                        least_steps, most_steps);
  const std::int64_t step = std::int64_t(kind.minibatch) * kind.workers;
  std::int64_t samples = count * step;
  if (const StrategyEntry& entry = *find_strategy(kind.strategy); entry.least && kind.settings.empty()) {
    const std::int64_t least =
        entry
            .least(Settings(entry.parameters),
                   {.workers = kind.workers, .servers = kind.servers, .minibatch = kind.minibatch})
            .samples;
    samples = std::max(samples, (least + step - 1) / step * step);
  }
  RunConfig config = parse_run(fmt::format(
      "device = \"{}\"\nmodel = \"{}\"\nminibatch = {}\nworkers = {}\nservers = {}\nsamples = {}\nseed = "
      "{}\n"
      "dataset = \"synthetic\"\nsynthetic.shape = \"{}\"\nsynthetic.train = {}\nsynthetic.test = 1\n"
      "statistics_samples = 1\nsnapshots = 0\noptimizer.learning_rate = 1e-4\ntime_limit = 3600\n"
      "stall_limit = 300\n[strategy.{}]\n{}\n",
      kind.device, kind.model, kind.minibatch, kind.workers, kind.servers, samples, pass,
      to_string(find_model(kind.model)->images), std::max(1024, kind.minibatch * kind.workers), kind.strategy,
      kind.settings));
  auto& planned = jobs_[config.ranks()];
  for (const auto& [other, same] : planned)
    if (same.canonical() == config.canonical()) return;
  planned.emplace_back(kind, std::move(config));
}

// The runs of one MPI job, one after the other.
void Calibration::job(int ranks, const std::vector<std::pair<Kind, RunConfig>>& planned, std::size_t& done,
                      std::size_t runs, const volatile std::sig_atomic_t& interrupted) {
  const fs::path folder = folder_.path / std::to_string(ranks);
  fs::create_directory(folder);
  const auto file = [&](std::size_t i, const char* ending) {
    return folder / fmt::format("{:05}{}", i, ending);
  };
  for (std::size_t i = 0; i < planned.size(); ++i) {
    create_record(file(i, ".h5.part"), planned[i].second, "");
    std::ofstream(file(i, ".toml")) << planned[i].second.text();
  }
  const bool terminal = isatty(STDERR_FILENO);
  fmt::print(stderr, "{} rank{}: {}{} runs\n", ranks, ranks == 1 ? "" : "s", ranks == 2 ? "messages, " : "",
             planned.size());
  const auto tell = [&](const Progress& p) {
    if (p.rank != 0 || p.phase != "done") return;
    ++done;
    if (terminal) fmt::print(stderr, "\r\033[K{} of {} runs", done, runs);
  };
  const RunConfig any =
      parse_run(fmt::format("time_limit = 3600\nstall_limit = 300\nworkers = {}\n[strategy.sync]", ranks));
  Launch launch(any,
                {.program = fs::read_symlink("/proc/self/exe"),
                 .part = folder_.path / "job",
                 .task = {"probe", folder.string()}},
                tell);
  std::optional<LaunchEnd> end;
  while (!end) end = launch.watch(interrupted, 100);
  if (terminal) fmt::print(stderr, "\r\033[K");
  if (end->kind != LaunchEnd::Kind::finished) throw std::runtime_error("calibrate: " + end->reason);
  for (std::size_t i = 0; i < planned.size(); ++i)
    rows_[planned[i].first].push_back(read_steps(file(i, ".h5.part")));
}

}  // namespace dsgd
