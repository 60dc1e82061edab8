// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "kernels/chwn.h"
#include "kernels/winograd.h"
#include "model.h"
#include "optimizer.h"

// On one core: the peak of fused multiply-adds, operations on vectors, training steps (minibatch of bytes ->
// forward, loss, backward -> SGD with momentum) of every model, minibatch and device, their layers in both
// directions, and the kernels of 3x3 convolutions. Each is compared with the reference, a plain loop or its
// twin once before it is timed.

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

bool agrees(const Network& net, Device& device, int batch, const Samples& samples, ConstVec w,
            Precision precision) {
  const std::uint32_t ids[] = {0, 1, 2};
  Vector is(host_space(), w.size), should(host_space(), w.size);
  Vector w_there(device.space(), w.size), g_there(device.space(), w.size);
  copy(w, w_there);
  Model(net, device, batch).gradient(w_there, samples, ids, g_there);
  copy(g_there, is);
  const auto reference = find_device("reference")->make();
  Model(net, *reference, 3).gradient(w, samples, ids, should);
  // Rounding moves some activations across the kink of ReLU.
  return distance(is, should) < (precision == Precision::bf16   ? 6e-2
                                 : precision != Precision::fp32 ? 2e-2
                                 : normalised_channels(net)     ? 1e-2
                                                                : 1e-5);
}

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best of a few windows of at least 5 ms of processor time each, in units of `work` per second.
template <class Function>
double best_rate(double work, const Function& function) {
  double best = 0;
  for (int window = 0; window < 10; ++window) {
    int calls = 0;
    double seconds = 0;
    for (const double begun = cpu_seconds(); seconds < 0.005; seconds = cpu_seconds() - begun, ++calls) {
      function();
    }
    best = std::max(best, calls * work / seconds);
  }
  return best;
}

// Fused multiply-adds on so many independent vectors that latency does not show. a = a/2 + 1/2 tends to 1.
constexpr int chains = 12, rounds = 4096;
#define DSGD_PEAK(name, width, target)                            \
  target double name(float half) {                                \
    using V [[gnu::vector_size(width * 4)]] = float;              \
    V a[chains];                                                  \
    for (int j = 0; j < chains; ++j) a[j] = V{} + float(j);       \
    for (int i = 0; i < rounds; ++i)                              \
      for (int j = 0; j < chains; ++j) a[j] = a[j] * half + half; \
    for (int j = 1; j < chains; ++j) a[0] += a[j];                \
    double sum = 0;                                               \
    for (int k = 0; k < width; ++k) sum += a[0][k];               \
    return sum / (chains * width);                                \
  }
#if defined(__x86_64__)
DSGD_PEAK(peak_avx512, 16, __attribute__((target("avx512f"))))
DSGD_PEAK(peak_avx2, 8, __attribute__((target("avx2,fma"))))
#endif
DSGD_PEAK(peak_plain, 4, )

struct Peak {
  const char* name;
  int width;  // floats in a vector
  double (*loop)(float half);
  double flops() const { return 2.0 * width * chains * rounds; }
};
Peak find_peak() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {"avx512", 16, peak_avx512};
  if (__builtin_cpu_supports("fma")) return {"avx2", 8, peak_avx2};
#endif
  return {"128-bit vectors", 4, peak_plain};
}
volatile float half = 0.5f;  // unknown to the compiler
double peak_flops() {
  static const double rate =
      best_rate(find_peak().flops(), [] { benchmark::DoNotOptimize(find_peak().loop(half)); });
  return rate;
}

// The benchmark's loop; returns its processor time in seconds.
template <class Function>
double repeat(benchmark::State& state, const Function& function) {
  const double begun = cpu_seconds();
  for (auto _ : state) function();
  return cpu_seconds() - begun;
}

// What one pass of the loop did, per second and as a share of the peak.
void rates(benchmark::State& state, double seconds, double flops, double bytes) {
  const double each = seconds / double(state.iterations());
  if (flops > 0) {
    state.counters["flop/s"] = flops / each;
    state.counters["of_peak"] = flops / each / peak_flops();
  }
  if (bytes > 0) state.counters["bytes/s"] = bytes / each;
}

void peak(benchmark::State& state) {
  const Peak p = find_peak();
  if (p.loop(half) != 1) return state.SkipWithError("differs from the limit of the series");
  rates(state, repeat(state, [&] { benchmark::DoNotOptimize(p.loop(half)); }), p.flops(), 0);
  state.SetLabel(p.name);
}

// What a step must do where every layer that is more than element-wise is a pass of its own, forward and
// backward, that reads and writes each of its values once.
struct Floor {
  double bytes, launches;
};
Floor floor_of(const Network& net, int batch) {
  double values = 0, launches = 3;  // the minibatch, the loss, the update
  for (const PlacedLayer& l : place(net)) {
    if (std::get_if<Relu>(&l.spec) || std::get_if<Sigmoid>(&l.spec) || std::get_if<Shortcut>(&l.spec))
      continue;
    const bool first = l.first == 0 && l.weights > 0;  // nobody asks for the gradient of its input
    values += double(batch) * double((first ? 2 : 3) * l.in.size() + 2 * l.out.size());
    launches += 1 + (l.weights > 0) + !first;
  }
  // Weights: read twice, the gradient written; the update reads w, g and v and writes w and v.
  return {sizeof(float) * (values + 8 * double(parameters(net))), launches};
}

void step(benchmark::State& state, const Network& net, int batch, const DeviceEntry& entry,
          Precision precision) try {
  const auto device = entry.make(precision);
  const Samples samples = random_samples(net.input, 4096);
  const Space& space = device->space();
  const bool here = space.host();
  Vector start(host_space(), parameters(net)), w(space, start.size()), g(space, start.size());
  initialise(net, 1, start);
  if (!agrees(net, *device, batch, samples, start, precision))
    return state.SkipWithError("differs from the reference");
  copy(start, w);
  Model model(net, *device, batch);
  OptimizerSettings settings;
  settings.rule = OptimizerSettings::Rule::momentum;
  settings.learning_rate = 0.01;
  Optimizer optimizer(settings, space, w.size());
  std::vector<std::uint32_t> ids(samples.count);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(2));
  std::size_t next = 0;
  const auto one = [&] {
    if (next + batch > ids.size()) next = 0;
    model.begin_descent(w, samples, {ids.data() + next, std::size_t(batch)}, g, {},
                        *optimizer.next(w, 1.0 / batch, 0));
    next += batch;
  };
  const auto done = [&] { benchmark::DoNotOptimize(dot(w.view().part(0, 1), w.view().part(0, 1))); };
  if (!here) {
    for (int i = 0; i < 10; ++i) one();
    done();
  }
  const double begun = wall_seconds();
  double seconds = repeat(state, one);
  if (!here) {
    done();  // and then so is all that was queued before
    seconds = wall_seconds() - begun;
  }
  const double flops = flops_per_sample(net);
  const Floor floor = floor_of(net, batch);
  state.counters["flop/step"] = batch * flops;
  state.counters["bytes/step"] = floor.bytes;
  state.counters["launches/step"] = floor.launches;
  state.counters["samples/s"] = double(state.iterations()) * batch / seconds;
  state.counters["flop/sample"] = flops;
  rates(state, seconds, batch * flops, 0);
} catch (const std::exception& e) {  // the others go on
  state.SkipWithError(e.what());
}

// Part of a network, one direction; the device's own copies in and out included. Backward gives dx where
// training needs it. Bytes: activations and parameters (or their gradients), each read or written once.
void layer(benchmark::State& state, const Network& net, bool first, bool forward, int batch,
           const DeviceEntry& entry) {
  const auto device = entry.make(), reference = find_device("reference")->make();
  const std::size_t in = net.input.size(), out = place(net).back().out.size();
  Vector w(host_space(), parameters(net)), g(host_space(), w.size()), should_g(host_space(), w.size());
  initialise(net, 1, w);
  std::mt19937 bits(3);
  std::vector<float> x(batch * in), dx(x.size()), should_dx(x.size()), dy(batch * out);
  for (auto* v : {&x, &dy})
    for (auto& e : *v) e = float(bits()) * 0x1p-31f - 1;
  const auto plan = device->plan(net, batch);
  {
    const int n = 3;
    const auto truth = reference->plan(net, n);
    const ConstVec y{plan->forward(w, x.data(), n), n * out, &host_space()};
    const ConstVec should_y{truth->forward(w, x.data(), n), n * out, &host_space()};
    plan->backward(w, dy.data(), n, g, dx.data());
    truth->backward(w, dy.data(), n, should_g, should_dx.data());
    if (distance(y, should_y) > 1e-5 || (w.size() && distance(g, should_g) > 1e-5) ||
        distance({dx.data(), n * in, &host_space()}, {should_dx.data(), n * in, &host_space()}) > 1e-5) {
      return state.SkipWithError("differs from the reference");
    }
  }
  plan->forward(w, x.data(), batch);
  const double seconds = repeat(state, [&] {
    if (forward)
      plan->forward(w, x.data(), batch);
    else
      plan->backward(w, dy.data(), batch, g, first ? nullptr : dx.data());
  });
  const int products = forward || first ? 1 : 2;
  const double flops = flops_per_sample(net) / 2;  // of one product; nobody asks a network for its dx
  const double values = double(batch) * double(products * in + out) + double(w.size()) * (forward ? 1 : 2);
  rates(state, seconds, products * batch * flops, values * sizeof(float));
  state.SetLabel(fmt::to_string(fmt::join(plan->implementations(), "; ")));
}

// Each layer alone, and each layer with parameters together with those after it that have none, which devices
// may fuse; shortcuts with all that they lead over.
struct Part {
  Network net;
  bool first;  // nobody asks for the gradient of its input
};
std::vector<Part> parts(const Network& net) {
  std::vector<Part> parts;
  const auto layers = place(net);
  const auto alone = [](const PlacedLayer& p) { return p.weights == 0 && !std::get_if<Shortcut>(&p.spec); };
  for (std::size_t k = 0; k < layers.size(); ++k) {
    Network part{"", layers[k].in, {}};
    if (const auto* l = std::get_if<Shortcut>(&layers[k].spec)) {
      const auto begin = layers.begin() + std::ptrdiff_t(k) - l->back;
      part = {"block to", begin->in, {}};
      for (auto to = begin; to <= layers.begin() + std::ptrdiff_t(k); ++to) part.layers.push_back(to->spec);
      part.name += fmt::format(" {}", to_string(layers[k].out));
      parts.push_back({part, l->back == int(k)});
      continue;
    }
    for (std::size_t to = k; to < layers.size() && (to == k || alone(layers[to])); ++to) {
      part.layers.push_back(layers[to].spec);
      part.name += (to > k ? " + " : "") + to_string(layers[to].spec);
      const bool whole = layers[k].weights > 0 && (to + 1 == layers.size() || !alone(layers[to + 1]));
      if (to == k || whole) parts.push_back({part, k == 0});
      if (layers[k].weights == 0) break;
    }
  }
  return parts;
}

// One direction of a 3x3 convolution by one of our two kernels, which are compared with each other before.
enum class Direction { forward, weights, data };
void convolution(benchmark::State& state, const WinogradConv& k, Direction direction, bool direct) {
  const ChwnConv chwn{k.channels, k.height, k.width, k.filters, 3, 1, 1, k.lanes};
  const std::size_t pixels = std::size_t(k.height) * k.width * k.lanes, weights = chwn.taps() * k.filters;
  std::mt19937 bits(5);
  const auto random = [&](std::size_t n) {
    Vector v(host_space(), n);
    for (std::size_t i = 0; i < n; ++i) v.data()[i] = float(bits()) * 0x1p-31f - 1;
    return v;
  };
  const Vector x = random(k.channels * pixels), w = random(weights), b = random(k.filters),
               dy = random(k.filters * pixels);
  Vector padded(host_space(), chwn.padded_size()), turned(host_space(), weights);
  for (int f = 0; f < k.filters; ++f)
    for (int c = 0; c < k.channels; ++c)
      for (int tap = 0; tap < 9; ++tap)
        turned.data()[(tap * k.filters + f) * k.channels + c] = w.data()[(f * k.channels + c) * 9 + tap];
  const std::size_t size = direction == Direction::forward   ? dy.size()
                           : direction == Direction::weights ? weights
                                                             : x.size();
  Vector is(host_space(), size), should(host_space(), size), db(host_space(), k.filters),
      scratch(host_space(), std::max(k.scratch(), chwn.scratch()));
  const auto by_direct = [&](float* to) {
    if (direction == Direction::forward) {
      chwn.padded(x.data(), padded.data());
      chwn.forward(padded.data(), w.data(), b.data(), to, nullptr);
    } else if (direction == Direction::weights) {
      chwn.weights(padded.data(), dy.data(), nullptr, to, db.data(), scratch.data());
    } else {
      chwn.data(turned.data(), dy.data(), to);
    }
  };
  const auto by_winograd = [&](float* to) {
    if (direction == Direction::forward)
      k.forward(x.data(), w.data(), b.data(), to, scratch.data());
    else if (direction == Direction::weights)
      k.weights(x.data(), dy.data(), to, db.data(), scratch.data());
    else
      k.data(w.data(), dy.data(), to, scratch.data());
  };
  chwn.padded(x.data(), padded.data());
  by_direct(should.data());
  by_winograd(is.data());
  if (!(distance(is, should) < 1e-5)) return state.SkipWithError("the kernels differ");
  const double seconds = repeat(state, [&] { direct ? by_direct(is.data()) : by_winograd(is.data()); });
  rates(state, seconds, 2.0 * double(weights) * double(pixels), 0);  // both as if by the direct one
  state.SetLabel(chwn_instructions());
}

// An operation of the host's space on vectors v[0], v[1], v[2], its slow twin for one element, and how many
// floats it reads or writes for each.
constexpr Space::Update update{.scale = 0.5f, .l2 = 0.25f, .rate = 0.125f, .momentum = 0.5f, .epsilon = 1};
struct VectorOperation {
  const char* name;
  int floats;
  void (*run)(float* const v[3], std::size_t n);
  void (*twin)(double& a, double& b, double& c);
};
const VectorOperation vector_operations[] = {
    {"copy", 2, [](auto v, auto n) { host_space().copy(v[1], v[0], n); },
     [](double& a, double& b, double&) { a = b; }},
    {"scale", 2, [](auto v, auto n) { host_space().scale(-1, v[0], n); },
     [](double& a, double&, double&) { a = -a; }},
    {"axpy", 3, [](auto v, auto n) { host_space().axpy(0.5f, v[1], v[0], n); },
     [](double& a, double& b, double&) { a += 0.5 * b; }},
    {"sgd", 3, [](auto v, auto n) { host_space().sgd(update, v[0], v[1], n); },
     [](double& a, double& b, double&) { a -= 0.125 * (0.5 * b + 0.25 * a); }},
    {"momentum", 5, [](auto v, auto n) { host_space().momentum(update, v[0], v[1], v[2], n); },
     [](double& a, double& b, double& c) {
       c = 0.5 * c + 0.5 * b + 0.25 * a;
       a -= 0.125 * c;
     }},
    {"adagrad", 5, [](auto v, auto n) { host_space().adagrad(update, v[0], v[1], v[2], n); },
     [](double& a, double& b, double& c) {
       const double d = 0.5 * b + 0.25 * a;
       c += d * d;
       a -= 0.125 * d / (std::sqrt(c) + 1);
     }},
};

struct Triple {
  explicit Triple(std::size_t n) : all{{host_space(), n}, {host_space(), n}, {host_space(), n}} {
    std::mt19937 bits(4);
    for (int j = 0; j < 3; ++j) {
      v[j] = all[j].data();
      for (std::size_t i = 0; i < n; ++i) v[j][i] = float(bits()) * 0x1p-32f;
    }
  }
  Vector all[3];
  float* v[3];
};

#if defined(__x86_64__) && !defined(__clang__)
__attribute__((target_clones("default", "avx2", "avx512f")))
#endif
void triad(float* __restrict a, const float* __restrict b, const float* __restrict c, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) a[i] = b[i] + 0.5f * c[i];
}

// Bytes per second of memcpy or of STREAM's triad, whichever is more. The triad's store fetches the line that
// it overwrites, so each element moves four floats; updates in place fetch nothing that they do not use.
double stream_rate(std::size_t n) {
  static std::map<std::size_t, double> known;
  double& rate = known[n];
  if (rate > 0) return rate;
  const Triple t(n);
  const double floats = double(n) * sizeof(float);
  const double copied = best_rate(2 * floats, [&] {
    std::memcpy(t.v[0], t.v[1], n * sizeof(float));
    benchmark::ClobberMemory();
  });
  const double added = best_rate(4 * floats, [&] {
    triad(t.v[0], t.v[1], t.v[2], n);
    benchmark::ClobberMemory();
  });
  return rate = std::max(copied, added);
}

void vector(benchmark::State& state, const VectorOperation& operation, std::size_t n) {
  const double limit = stream_rate(n);
  const Triple t(n);
  const std::size_t checked = 100;
  double should[3][checked];
  for (int j = 0; j < 3; ++j) std::copy_n(t.v[j], checked, should[j]);
  for (std::size_t i = 0; i < checked; ++i) operation.twin(should[0][i], should[1][i], should[2][i]);
  operation.run(t.v, checked);
  for (int j = 0; j < 3; ++j) {
    for (std::size_t i = 0; i < checked; ++i) {
      if (std::abs(t.v[j][i] - should[j][i]) > 1e-6)
        return state.SkipWithError("differs from the plain loop");
    }
  }
  const double seconds = repeat(state, [&] {
    operation.run(t.v, n);
    benchmark::ClobberMemory();
  });
  rates(state, seconds, 0, double(operation.floats * n) * sizeof(float));
  state.counters["of_stream"] = double(state.counters["bytes/s"]) / limit;
}

void add(const std::string& name, auto function) {
  benchmark::RegisterBenchmark(name.c_str(), function)->Unit(benchmark::kMicrosecond);
}

void add_all() {
  add("peak", peak);
  for (const auto& operation : vector_operations) {
    for (const std::size_t n : {1 << 16, 1 << 20, 1 << 24}) {
      add(fmt::format("vector/{}/{}", operation.name, n), [=](auto& state) { vector(state, operation, n); });
    }
  }
  for (const auto& [channels, size, filters] :
       {std::array{3, 32, 16}, {16, 32, 16}, {32, 16, 32}, {64, 8, 64}, {32, 8, 64}}) {
    for (const auto& [name, direction] : {std::pair{"forward", Direction::forward},
                                          {"weights", Direction::weights},
                                          {"data", Direction::data}}) {
      for (const bool direct : {true, false}) {
        const WinogradConv k{channels, size, size, filters, 32};
        add(fmt::format("conv3x3/{}x{}x{}_to_{}/{}/{}", channels, size, size, filters, name,
                        direct ? "direct" : "winograd"),
            [=, d = direction](auto& state) { convolution(state, k, d, direct); });
      }
    }
  }
  const Shape grey{1, 28, 28}, colour{3, 32, 32};
  for (const auto& device : all_devices()) {
    if (!device.unavailable().empty()) continue;
    const bool fast = device.name != "reference", gpu = device.name == "cudnn";
    std::set<std::string> known;
    for (const auto& model : all_models()) {
      const bool coloured = model.name.starts_with("cifar") || model.name.starts_with("resnet");
      const Network net = model.make(coloured ? colour : grey, 10);
      for (const int batch : gpu    ? std::vector{32, 128, 256, 1024}
                             : fast ? std::vector{32, 128, 256}
                                    : std::vector{32}) {
        add(fmt::format("step/{}/{}/{}", model.name, batch, device.name),
            [=](auto& state) { step(state, net, batch, device, Precision::fp32); });
        const auto dense = [](const LayerSpec& l) { return std::get_if<Dense>(&l) != nullptr; };
        if (!gpu && !dense(net.layers[0]))
          continue;  // hosts multiply in another precision in dense layers only
        for (const std::string other : {"tf32", "bf16"}) {
          if (!device.unavailable(precision(other)).empty()) continue;
          add(fmt::format("step/{}/{}/{}/{}", model.name, batch, device.name, other),
              [=](auto& state) { step(state, net, batch, device, precision(other)); });
        }
      }
      if (gpu) continue;  // its layers are no use one by one, with copies from and to the host
      for (const Part& part : parts(net)) {
        const std::string name = fmt::format("{} of {}", part.net.name, to_string(part.net.input));
        if (!known.insert(fmt::format("{} {}", name, part.first)).second) continue;
        for (const bool forward : {true, false}) {
          add(fmt::format("layer/{}/{}/32/{}/{}", model.name, name, device.name,
                          forward ? "forward" : "backward"),
              [=](auto& state) { layer(state, part.net, part.first, forward, 32, device); });
        }
      }
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
