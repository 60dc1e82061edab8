// Gradients of LeNet alone, of minibatches of 32, in turns for so many replicas, each with its own model and
// gradient: what a simulation of as many workers must do at least. tests/benchmarks/scale.py holds whole
// simulations against it.

#include <benchmark/benchmark.h>

#include <deque>

#include "datasets/sampler.h"
#include "models/model.h"

namespace dsgd {
namespace {

void gradients(benchmark::State& state) {
  const int replicas = int(state.range(0)), minibatch = 32;
  const Dataset data = make_synthetic({});
  const Network net = find_model("lenet")->make(data.train.shape, data.train.classes);
  const DeviceEntry* const fast = find_device("onednn");
  const auto device = (fast->unavailable().empty() ? fast : find_device("reference"))->make();
  Model model(net, *device, minibatch);
  std::deque<Vector> w, g;
  for (int k = 0; k < replicas; ++k) {
    initialise(net, 1, w.emplace_back(device->space(), parameters(net)));
    g.emplace_back(device->space(), parameters(net));
  }
  Sampler sampler({.samples = data.train.count, .minibatch = minibatch, .budget = std::int64_t(1) << 40});
  for (auto _ : state)
    for (int k = 0; k < replicas; ++k) model.gradient(w[k], data.train, sampler.next().ids, g[k]);
  state.SetItemsProcessed(state.iterations() * replicas * minibatch);
}
BENCHMARK(gradients)->Arg(1)->Arg(32)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace dsgd

BENCHMARK_MAIN();
