// SPDX-License-Identifier: Apache-2.0
// What recording costs beside a LeNet step with minibatch 32: the counter `share_of_step` must stay below
// 0.01.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "model.h"
#include "results/record.h"

using namespace dsgd;

namespace {

double lenet_step_seconds() {
  Samples samples{.shape = {1, 28, 28}, .classes = 10, .count = 32};
  samples.pixels.resize(samples.count * samples.shape.size());
  samples.labels.resize(samples.count);
  const Network net = find_model("lenet")->make(samples.shape, samples.classes);
  for (const DeviceEntry& entry : all_devices()) {
    if (entry.name != "cpu" || !entry.unavailable().empty()) continue;
    const auto device = entry.make();
    Model model(net, *device, 32);
    Vector w(device->space(), parameters(net)), g(device->space(), parameters(net));
    std::vector<std::uint32_t> ids(32);
    double best = 1e9;
    for (int i = 0; i < 50; ++i) {
      const auto begun = std::chrono::steady_clock::now();
      model.gradient(w, samples, ids, g);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    }
    return best;
  }
  return 0;
}

void record_step(benchmark::State& state) {
  const std::filesystem::path part = std::filesystem::temp_directory_path() / "record_benchmark.h5.part";
  h5::close(h5::create(part));
  Recorder recorder(part);
  StepRow row{.rank = 0, .samples = 32, .loss = 1};
  const auto begun = std::chrono::steady_clock::now();
  for (auto _ : state) {
    ++row.step;
    row.seconds = double(row.step) * 0.002;  // as in a run, so that flushes come as often
    recorder.step(row);
  }
  recorder.close();
  const bool complete =
      h5::read_table<StepRow>(h5::open(part, false), "steps").size() == std::size_t(row.step);
  if (!complete) state.SkipWithError("rows are missing");
  std::filesystem::remove(part);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  state.counters["share_of_step"] = seconds / double(state.iterations()) / lenet_step_seconds();
}
BENCHMARK(record_step);

}  // namespace

BENCHMARK_MAIN();
