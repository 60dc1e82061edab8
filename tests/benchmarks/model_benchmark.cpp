#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <random>

#include "models/model.h"
#include "models/optimizer.h"

// What a training step costs: minibatch of bytes -> forward, loss, backward -> SGD with momentum, for every
// model, minibatch and device; and each layer alone. Results are compared with the reference once before they
// are timed.

namespace dsgd {
namespace {

Samples random_samples(const Shape& shape, std::size_t count) {
  Samples s{shape, 10, count, std::vector<std::uint8_t>(count * shape.size()),
            std::vector<std::uint8_t>(count)};
  std::mt19937 bits(1);
  for (auto& p : s.pixels) p = std::uint8_t(bits());
  for (auto& l : s.labels) l = std::uint8_t(bits() % 10);
  return s;
}

double distance(ConstVec a, ConstVec b) {
  double difference = 0;
  for (std::size_t i = 0; i < a.size; ++i) difference += std::pow(double(a.data[i]) - b.data[i], 2);
  return std::sqrt(difference / dot(b, b));
}

bool agrees(const Network& net, Device& device, int batch, const Samples& samples, ConstVec w) {
  const std::uint32_t ids[] = {0, 1, 2};
  Vector is(host_space(), w.size), should(host_space(), w.size);
  Model(net, device, batch).gradient(w, samples, ids, is);
  const auto reference = find_device("reference")->make();
  Model(net, *reference, 3).gradient(w, samples, ids, should);
  return distance(is, should) < 1e-5;
}

void counters(benchmark::State& state, const Network& net, int batch) {
  using benchmark::Counter;
  const double samples = double(state.iterations()) * batch;
  state.counters["samples/s"] = Counter(samples, Counter::kIsRate);
  state.counters["flop/s"] = Counter(samples * flops_per_sample(net), Counter::kIsRate, Counter::kIs1000);
}

void step(benchmark::State& state, const Network& net, int batch, const DeviceEntry& entry) {
  const auto device = entry.make();
  const Samples samples = random_samples(net.input, 4096);
  Vector w(host_space(), parameters(net)), g(host_space(), w.size());
  initialise(net, 1, w);
  if (!agrees(net, *device, batch, samples, w)) return state.SkipWithError("differs from the reference");
  Model model(net, *device, batch);
  OptimizerSettings settings;
  settings.rule = OptimizerSettings::Rule::momentum;
  settings.learning_rate = 0.01;
  Optimizer optimizer(settings, host_space(), w.size());
  std::vector<std::uint32_t> ids(samples.count);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(2));
  std::size_t next = 0;
  for (auto _ : state) {
    if (next + batch > ids.size()) next = 0;
    model.gradient(w, samples, {ids.data() + next, std::size_t(batch)}, g);
    optimizer.step(w, g, 1.0 / batch, 0);
    next += batch;
  }
  counters(state, net, batch);
}

// One layer, forward and backward, dx included.
void layer(benchmark::State& state, const Network& net, int batch, const DeviceEntry& entry) {
  const auto device = entry.make(), reference = find_device("reference")->make();
  const auto plan = device->plan(net, batch), truth = reference->plan(net, 1);
  const std::size_t row = net.input.size(), out = place(net).back().out.size();
  Vector w(host_space(), parameters(net)), g(host_space(), w.size());
  initialise(net, 1, w);
  std::mt19937 bits(3);
  std::vector<float> x(batch * row), dx(x.size()), dy(batch * out);
  for (auto* v : {&x, &dy})
    for (auto& e : *v) e = float(bits()) * 0x1p-31f - 1;
  const ConstVec y{plan->forward(w, x.data(), 1), out, &host_space()};
  if (distance(y, {truth->forward(w, x.data(), 1), out, &host_space()}) > 1e-5) {
    return state.SkipWithError("differs from the reference");
  }
  for (auto _ : state) {
    plan->forward(w, x.data(), batch);
    plan->backward(w, dy.data(), batch, g, dx.data());
  }
  counters(state, net, batch);
  state.SetLabel(plan->implementations().front());
}

void add_all() {
  const Shape grey{1, 28, 28}, colour{3, 32, 32};
  for (const auto& device : all_devices()) {
    if (!device.unavailable().empty()) continue;
    const bool fast = device.name != "reference";
    for (const auto& model : all_models()) {
      const Shape image = model.name.starts_with("cifar") ? colour : grey;
      for (const int batch : fast ? std::vector{32, 128, 256} : std::vector{32}) {
        benchmark::RegisterBenchmark(fmt::format("step/{}/{}/{}", model.name, batch, device.name).c_str(),
                                     step, model.make(image, 10), batch, device)
            ->Unit(benchmark::kMicrosecond);
      }
    }
    for (const auto& p : place(find_model("lenet")->make(grey, 10))) {
      const Network alone{to_string(p.spec), p.in, {p.spec}};
      benchmark::RegisterBenchmark(
          fmt::format("layer/{} of {}/32/{}", alone.name, to_string(p.in), device.name).c_str(), layer, alone,
          32, device)
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace dsgd

int main(int argc, char** argv) {
  dsgd::add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
