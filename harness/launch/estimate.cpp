// SPDX-License-Identifier: Apache-2.0
#include "launch/estimate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>

#include "fetch.h"
#include "launch/display.h"
#include "model.h"
#include "results/record.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Seconds of one gradient of every (model, data shape, device, minibatch) in the experiment, measured here.
class Estimate {
 public:
  // Of a sample's part in a gradient. Plain loops take the same for every sample, and few will do.
  static double seconds_of_sample(const RunConfig& config, const DeviceEntry& device) {
    const int count = device.name == "reference" ? std::min(config.minibatch(), 2) : config.minibatch();
    return measure(config, device, sample_shape(config, count)) / count;
  }
  double seconds(const RunConfig& config) {
    if (config.skips_gradients()) return 1.5;
    const Samples samples = sample_shape(config, config.minibatch());
    const std::string key = config.settings.text("model") + to_string(samples.shape) +
                            config.settings.text("device") + config.settings.text("precision") +
                            std::to_string(config.minibatch());
    const auto [at, fresh] = gradient_.try_emplace(key, 0);
    if (fresh) at->second = measure(config, config.device(), samples);
    const int parallel =
        config.simulated() ? 1 : std::min(config.workers(), int(std::thread::hardware_concurrency()));
    return double(config.samples()) / config.minibatch() * at->second / parallel + 1.5;  // start and scoring
  }

 private:
  static Samples sample_shape(const RunConfig& config, int count) {
    const DatasetEntry* entry = find_dataset(config.settings.text("dataset"));
    const bool made = entry->files.empty();
    Samples s{.shape = made ? config.synthetic().shape : entry->shape,
              .classes = made ? config.synthetic().classes : entry->classes,
              .count = std::size_t(count)};
    s.pixels.resize(s.count * s.shape.size());
    s.labels.resize(s.count);
    return s;
  }
  static double measure(const RunConfig& config, const DeviceEntry& entry, const Samples& samples) {
    const auto device = entry.make(config.precision());
    const Network net = find_model(config.settings.text("model"))->make(samples.shape, samples.classes);
    Model model(net, *device, int(samples.count));
    Vector w(device->space(), parameters(net)), g(device->space(), parameters(net));
    std::vector<std::uint32_t> ids(samples.count);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = std::uint32_t(i);
    double best = 1e30;
    for (int i = 0; i < 4; ++i) {
      const auto begun = Clock::now();
      model.gradient(w, samples, ids, g);
      device->space().wait();
      best = std::min(best, std::chrono::duration<double>(Clock::now() - begun).count());
    }
    return best;
  }
  std::map<std::string, double> gradient_;
};

}  // namespace

void warn_of_plain_loops(const std::vector<const RunConfig*>& runs) {
  constexpr double worth_a_word = 10;                         // seconds
  std::map<std::string, std::pair<double, double>> of_model;  // seconds of all its runs, here and by `cpu`
  std::map<std::string, std::pair<double, double>> of_sample;
  for (const RunConfig* run : runs) {
    if (run->device().name != "reference" || run->skips_gradients()) continue;
    const std::string& model = run->settings.text("model");
    const std::string key = fmt::format("{} {} {}", model, run->settings.text("dataset"), run->minibatch());
    const auto [at, fresh] = of_sample.try_emplace(key);
    if (fresh)
      at->second = {Estimate::seconds_of_sample(*run, run->device()),
                    Estimate::seconds_of_sample(*run, *find_device("cpu"))};
    of_model[model].first += at->second.first * double(run->samples());
    of_model[model].second += at->second.second * double(run->samples());
  }
  for (const auto& [model, seconds] : of_model)
    if (seconds.first - seconds.second > worth_a_word)
      fmt::print(stderr,
                 "device reference: plain loops, meant for checking; gradients of {} take about {:.0f} times "
                 "as long "
                 "as with device = \"cpu\" (about {} in place of {} of one core)\n",
                 model, seconds.first / seconds.second, duration(seconds.first), duration(seconds.second));
}

void print_plan(const Experiment& experiment, const fs::path& out) {
  Estimate estimate;
  double total = 0;
  fmt::print("{:<52} {:>7} {:>7} {:>10} {:>9} {:>14}\n", "run", "workers", "servers", "samples", "about",
             "MB sent/worker");
  for (const RunConfig& config : experiment.runs) {
    const double seconds = estimate.seconds(config);
    total += config.simulated() ? seconds / std::max(1u, std::thread::hardware_concurrency()) : seconds;
    const DatasetEntry* entry = find_dataset(config.settings.text("dataset"));
    const bool made = entry->files.empty();
    const Network network = find_model(config.settings.text("model"))
                                ->make(made ? config.synthetic().shape : entry->shape,
                                       made ? config.synthetic().classes : entry->classes);
    Context context = context_of(config, parameters(network));
    context.optimizer.layers = extents(network);
    const std::int64_t steps = config.samples() / (std::int64_t(config.workers()) * config.minibatch());
    const Cost cost = config.strategy->cost(config.strategy_settings, context, steps);
    fmt::print("{:<52} {:>7} {:>7} {:>10} {:>9} {:>14.1f}\n", config.name(), config.workers(),
               config.servers(), config.samples(), duration(seconds), cost.bytes_sent / 1e6);
  }
  std::vector<const RunConfig*> all;
  for (const RunConfig& config : experiment.runs) all.push_back(&config);
  warn_of_plain_loops(all);
  fmt::print("{} runs, about {} (from one gradient of each model, measured here); results would go to {}\n",
             experiment.runs.size(), duration(total), out.string());
}

}  // namespace dsgd
