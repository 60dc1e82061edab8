// SPDX-License-Identifier: Apache-2.0
#include "launch/calibrate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <thread>

#include "fetch.h"
#include "launch/launch.h"
#include "results/record.h"
#include "results/results.h"
#include "run/probe.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

constexpr double slowest = 0.03;     // share of the measurements that other programs may have disturbed
constexpr std::int64_t passes = 3;   // apart in time, so that a disturbance spoils a part of each number
constexpr double gradients_s = 0.4;  // about how long one model and minibatch may take in all, at
constexpr double guess = 2e10;       // flop/s
constexpr int least_steps = 2, most_steps = 70;  // a pass

volatile std::sig_atomic_t interrupted = 0;

// Measurements of one thing.
struct Measured {
  explicit Measured(std::vector<double> all) {
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
  std::string spread() const {
    return fmt::format("± {:.2g} %", median > 0 ? 50 * (high - low) / median : 0);
  }
  double median = 0, low = 0, high = 0;  // quartiles
  double mean = 0;                       // without the slowest
  double sigma = 0;                      // of the logarithm, without the slowest
};

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "dsgd-calibrate-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error(fmt::format("{}: {}", name, std::strerror(errno)));
    path = name;
  }
  ~Folder() {
    std::error_code none;
    fs::remove_all(path, none);
  }
  Folder(const Folder&) = delete;
  fs::path path;
};

// A file that has its name only when it is complete.
class NewFile {
 public:
  explicit NewFile(const fs::path& path) : path_(path), part_(path.string() + ".part") {
    out_.open(part_);
    if (!out_)
      throw std::runtime_error(fmt::format("{}: cannot be written: {} (-o takes another file)", path.string(),
                                           std::strerror(errno)));
  }
  ~NewFile() {
    std::error_code none;
    fs::remove(part_, none);
  }
  void finish(const std::string& text) {
    out_ << text;
    out_.close();
    if (!out_ || std::rename(part_.c_str(), path_.c_str()))
      throw std::runtime_error(
          fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(errno)));
  }

 private:
  fs::path path_, part_;
  std::ofstream out_;
};

fs::path local_cluster() {
  const fs::path folder = config_folder();
  if (folder.empty())
    throw std::runtime_error(
        "calibrate: neither XDG_CONFIG_HOME nor HOME says where the user's clusters are (-o takes a file)");
  std::error_code failed;
  fs::create_directories(folder / "clusters", failed);
  if (failed)
    throw std::runtime_error(fmt::format("{}: cannot be made: {} (-o takes another file)",
                                         (folder / "clusters").string(), failed.message()));
  return folder / "clusters/local.toml";
}

class Calibration {
 public:
  explicit Calibration(const CalibrateOptions& options)
      : o_(options),
        cores_(int(std::max(1u, std::thread::hardware_concurrency()))),
        middle_(o_.minibatches[o_.minibatches.size() / 2]) {
    if (o_.ranks == 0) o_.ranks = cores_;
    jobs_[2];  // messages are measured in any case
    for (std::int64_t pass = 1; pass <= passes; ++pass) plan(pass);
  }

  void measure() {
    std::size_t runs = 0, done = 0;
    for (const auto& [ranks, planned] : jobs_) runs += planned.size();
    for (const auto& [ranks, planned] : jobs_) job(ranks, planned, done, runs);
    for (const Probe& p : read_probes(folder_.path / "2")) probes_[p.what][p.floats].push_back(p.seconds);
  }

  std::string text() const;

 private:
  struct Kind {  // of runs
    std::string device, model;
    int minibatch = 0;
    std::string strategy, settings;
    int workers = 0, servers = 1;
    auto operator<=>(const Kind&) const = default;
  };
  static inline const std::string round_trips = "staleness_aware";
  Kind gradients(const std::string& device, const std::string& model, int minibatch, int ranks) const {
    return {device, model, minibatch, "averaging", "tau = 1000000", ranks};
  }
  Kind steps(const std::string& device, const std::string& strategy, int workers, int servers = 1) const {
    return {device, o_.models.front(), middle_, strategy, "", workers, servers};
  }

  void plan(std::int64_t pass) {
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
  void add(const Kind& kind, std::int64_t pass) {
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
        to_string(find_model(kind.model)->images), std::max(1024, kind.minibatch * kind.workers),
        kind.strategy, kind.settings));
    auto& planned = jobs_[config.ranks()];
    for (const auto& [other, same] : planned)
      if (same.canonical() == config.canonical()) return;
    planned.emplace_back(kind, std::move(config));
  }

  // The runs of one MPI job, one after the other.
  void job(int ranks, const std::vector<std::pair<Kind, RunConfig>>& planned, std::size_t& done,
           std::size_t runs) {
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

  template <typename Of>  // a number of a step and the one before it, of the same rank
  Measured of_steps(const Kind& kind, Of of) const {
    std::vector<double> all;
    for (const auto& run : rows_.at(kind)) {
      std::map<int, const StepRow*> before;
      for (const StepRow& row : run) {
        if (before[row.rank]) all.push_back(of(row, *before[row.rank]));
        before[row.rank] = &row;
      }
    }
    return Measured(all);
  }
  Measured seconds(const Kind& kind) const {
    return of_steps(kind, [](const StepRow& row, const StepRow&) { return double(row.compute_s); });
  }
  // Seconds per parameter of a step, gradient and communicator apart.
  Measured work(const Kind& kind) const {
    return of_steps(kind, [n = double(parameters(network()))](const StepRow& row, const StepRow& before) {
      return std::max(0.0, row.seconds - before.seconds - row.compute_s - row.communication_s) / n;
    });
  }
  Measured trip(const Kind& kind) const {
    return of_steps(kind, [](const StepRow& row, const StepRow&) { return double(row.communication_s); });
  }
  Network network() const {
    const ModelEntry& model = *find_model(o_.models.front());
    return model.make(model.images, 10);
  }
  Measured probe(const std::string& what, std::size_t n) const { return Measured(probes_.at(what).at(n)); }
  // Over all sizes that matter, of a number that should be the same for all of them.
  Measured over_sizes(const std::function<double(double n)>& of) const {
    std::vector<double> all;
    for (const auto& [n, took] : probes_.at("sum"))
      if (const double x = of(double(n)); n >= 4096 && x > 0) all.push_back(x);
    return Measured(all);
  }

  CalibrateOptions o_;
  const int cores_, middle_;
  Folder folder_;
  std::map<int, std::vector<std::pair<Kind, RunConfig>>> jobs_;  // by ranks
  std::map<Kind, std::vector<std::vector<StepRow>>> rows_;       // of every pass
  std::map<std::string, std::map<std::size_t, std::vector<double>>> probes_;
};

std::string Calibration::text() const {
  const auto provenance = provenance_here();
  const auto known = [&](const char* key) { return std::get<std::string>(provenance.at(key)); };
  std::string out;
  const auto put = [&](const std::string& key, double value, const std::string& comment) {
    out += fmt::format("{:<28} # {}\n", fmt::format("{} = {:.4g}", key, value), comment);
  };
  const std::string &first = o_.devices.front(), &model = o_.models.front();
  const std::string usual = fmt::format("{} with minibatch {}", model, middle_);

  out += fmt::format("title = \"{}, {} core{}\"\n\n", known("cpu"), cores_, cores_ == 1 ? "" : "s");
  out += fmt::format(
      "# Measured by `dsgd calibrate`, {}, commit {}.\n"
      "# Gradients and work: means without the slowest {:.0f} %; messages: medians; \"±\": half the distance "
      "of the "
      "quartiles.\n\n",
      utc_now(), known("commit").substr(0, 12), 100 * slowest);
  const Measured busy = seconds(gradients(first, model, middle_, o_.ranks));
  put("jitter", busy.sigma, usual);
  const double latency = probe("update", 1).median / 2;
  const Measured meeting = probe("sum", 1);
  put("round", std::max(0.0, meeting.median - latency),
      fmt::format("s; a sum of one float by 2 workers takes {:.2g} us {}, a message {:.2g} us",
                  1e6 * meeting.median, meeting.spread(), 1e6 * latency));

  for (const std::string& device : o_.devices) {
    const bool used = device == first;
    out += fmt::format("\n[hosts.{}]\ncount = 1\n", device);
    out += fmt::format("{:<28} # {}\n", fmt::format("slots = {}", used ? o_.ranks : 0),
                       used ? "workers; gradients were timed with as many at work"
                            : "no worker computes on these unless this is raised");
    put("speed",
        flops_per_sample(network()) * middle_ / seconds(gradients(device, model, middle_, o_.ranks)).mean,
        fmt::format("flop/s, for models that are not below; {}", usual));
    out +=
        "bandwidth = 117.7e6          # bytes/s, to other hosts; assumed: 1 Gbit/s * 1448/1538\n"
        "latency = 25e-6              # s; assumed\n";
    out += fmt::format("\n[hosts.{}.seconds]        # of a gradient while {} rank{} at work\n", device,
                       o_.ranks, o_.ranks == 1 ? " is" : "s are");
    if (o_.ranks > 1)
      out += fmt::format("# {} takes a rank that is alone {:.4g} s\n", usual,
                         seconds(gradients(device, model, middle_, 1)).mean);
    for (const std::string& name : o_.models)
      for (const int minibatch : o_.minibatches) {
        const Measured m = seconds(gradients(device, name, minibatch, o_.ranks));
        put(fmt::format("{}.{}", name, minibatch), m.mean, m.spread());
      }
    if (!o_.strategies.empty())
      out += fmt::format("\n[hosts.{}.work]           # s per parameter and step, {}, default settings\n",
                         device, usual);
    for (const std::string& strategy : o_.strategies)
      for (const int workers : {1, 2})
        if (const Kind kind = steps(device, strategy, workers); rows_.contains(kind)) {
          const Measured m = work(kind);
          put(fmt::format("{}.{}", strategy, workers), m.mean, m.spread());
        }
  }

  // What the simulation makes of a sum of two workers: two messages of half the vector each way over memory.
  const Measured bandwidth =
      over_sizes([&](double n) { return 8 * n / probe("sum", std::size_t(n)).median; });
  const Measured rate = over_sizes([&](double n) {
    return n / (probe("update", std::size_t(n)).median - 2 * latency - 8 * n / bandwidth.median);
  });
  const auto sizes = [](const Measured& m) {
    return fmt::format("median of the sizes below, quartiles {:.3g} and {:.3g}", m.low, m.high);
  };
  out += "\n[memory]                     # from rank to rank of this host\n";
  put("bandwidth", bandwidth.median,
      "bytes/s with which simulated sums of 2 workers take as long; " + sizes(bandwidth));
  put("latency", latency, "s; half of a push and pull of one float, " + probe("update", 1).spread());
  if (cores_ > 1) {
    const Measured free = trip(steps(first, round_trips, 1)),
                   crowded = trip(steps(first, round_trips, 2, cores_ - 1));
    put("wake", std::max(0.0, crowded.mean - free.mean) / 2,
        fmt::format(
            "s; half of what push and pull take longer with {} ranks than with 2: {:.3g} us {}, {:.3g} us {}",
            cores_ + 1, 1e6 * crowded.mean, crowded.spread(), 1e6 * free.mean, free.spread()));
  }
  out += "#   floats     push and pull, us         the same and SGD          sum of 2 workers\n";
  for (const auto& [n, took] : probes_.at("exchange")) {
    out += fmt::format("# {:>8}", n);
    for (const char* what : {"exchange", "update", "sum"}) {
      const Measured m = probe(what, n);
      out += fmt::format("{:>12.4g} {:<13}", 1e6 * m.median, m.spread());
    }
    out.erase(out.find_last_not_of(' ') + 1);
    out += "\n";
  }
  for (const auto& [what, floats] : {std::pair("copy", 2), std::pair("axpy", 3)})
    for (const auto& [n, took] : probes_.at(what)) {
      const Measured m(took);
      out += fmt::format("# {} of {} floats: {:.3g} GB/s {} on each of 2 ranks\n", what, n,
                         1e-9 * 4 * floats * double(n) / m.median, m.spread());
    }
  out += "\n[server]\n";
  put("rate", rate.median, "parameters/s: push, SGD and pull, less their messages; " + sizes(rate));
  out += "placement = \"worker\"         # on this host\n";
  return out;
}

template <typename T>
void drop_repeated(std::vector<T>& values) {
  std::vector<T> once;
  for (const T& value : values)
    if (std::find(once.begin(), once.end(), value) == once.end()) once.push_back(value);
  values = once;
}

void check(const std::vector<std::string>& names, const char* option, const std::vector<std::string>& known) {
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw std::runtime_error(fmt::format("calibrate: --{}: \"{}\" is unknown{} (allowed: {})", option, name,
                                           did_you_mean(name, known), fmt::join(known, ", ")));
}

}  // namespace

int calibrate(const CalibrateOptions& given) {
  CalibrateOptions options = given;
  std::vector<std::string> models, devices, strategies;
  for (const ModelEntry& m : all_models()) models.push_back(m.name);
  for (const DeviceEntry& d : all_devices())
    if (d.unavailable().empty()) devices.push_back(d.name);
  for (const StrategyEntry* s : all_strategies()) strategies.push_back(s->name);
  for (std::string& name : options.devices) name = device_today(name);
  check(options.models, "models", models);
  check(options.devices, "devices", devices);
  check(options.strategies, "strategies", strategies);
  if (options.devices.empty()) options.devices = {devices.back()};
  for (auto* names : {&options.models, &options.devices, &options.strategies}) drop_repeated(*names);
  drop_repeated(options.minibatches);

  const fs::path file = options.out.empty() ? local_cluster() : options.out;
  NewFile out(file);
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  Calibration calibration(options);
  try {
    calibration.measure();
  } catch (const std::exception&) {
    if (interrupted) return 130;
    throw;
  }
  const std::string text = calibration.text();
  out.finish(text);
  fmt::print(
      "{}\n{}: {}\n", text, file.string(),
      options.out.empty() ? "cluster = \"local\"" : fmt::format("cluster = {}", to_string(file.string())));
  return 0;
}

}  // namespace dsgd
