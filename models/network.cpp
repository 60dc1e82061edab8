// SPDX-License-Identifier: Apache-2.0
#include "network.h"

#include <fmt/format.h>

#include <cmath>
#include <random>
#include <stdexcept>

namespace dsgd {
namespace {

std::string window(const char* name, const auto& l) {
  return fmt::format("{} {}", name, l.size) +
         (l.stride == l.size ? "" : fmt::format(" stride {}", l.stride)) + (l.ceil ? " ceil" : "");
}

// Places along one axis where a window fits; 0 when it does not fit at all.
int windows(int length, int size, int stride) { return length < size ? 0 : (length - size) / stride + 1; }
// With one more for a rest, as long as it begins inside.
int windows_with_rest(int length, int size, int stride) {
  const int whole = windows(length, size, stride);
  return whole && (length - size) % stride && whole * stride < length ? whole + 1 : whole;
}

Shape output(const LayerSpec& spec, const Shape& in) {
  const auto pooled = [&](const auto& l) {
    if (l.size < 1 || l.stride < 1) return Shape{};
    const auto along = l.ceil ? windows_with_rest : windows;
    return Shape{in.channels, along(in.height, l.size, l.stride), along(in.width, l.size, l.stride)};
  };
  return std::visit(Overloaded{[&](const Dense& l) {
                                 return Shape{l.units, 1, 1};
                               },
                               [&](const Conv2d& l) {
                                 if (l.kernel < 1 || l.stride < 1 || l.pad < 0) return Shape{};
                                 return Shape{l.filters, windows(in.height + 2 * l.pad, l.kernel, l.stride),
                                              windows(in.width + 2 * l.pad, l.kernel, l.stride)};
                               },
                               [&](const MaxPool& l) { return pooled(l); },
                               [&](const AvgPool& l) { return pooled(l); }, [&](const auto&) { return in; }},
                    spec);
}

// Weights and biases, and the fans of Xavier's formula; none for layers without parameters.
struct Matrix {
  std::size_t inputs = 0, outputs = 0, bias = 0;
  double fan_in = 0, fan_out = 0;
};
Matrix matrix(const LayerSpec& spec, const Shape& in) {
  if (const auto* d = std::get_if<Dense>(&spec)) {
    const auto units = std::size_t(d->units);
    return {in.size(), units, units, double(in.size()), double(units)};
  }
  if (const auto* c = std::get_if<Conv2d>(&spec)) {
    const double area = double(c->kernel) * c->kernel;
    const auto filters = std::size_t(c->filters);
    return {std::size_t(in.channels) * c->kernel * c->kernel, filters, c->bias ? filters : 0,
            in.channels * area, c->filters * area / (double(c->stride) * c->stride)};
  }
  const auto channels = std::size_t(in.channels);
  if (std::get_if<BatchNorm>(&spec)) return {1, channels, channels};
  return {};
}

// Standard normal numbers by Marsaglia's polar method: std::normal_distribution differs between libraries.
class Normal {
 public:
  explicit Normal(std::uint64_t seed) : bits_(seed) {}
  double operator()() {
    for (;;) {
      const double x = uniform(), y = uniform(), square = x * x + y * y;
      if (square > 0 && square < 1) return x * std::sqrt(-2 * std::log(square) / square);
    }
  }

 private:
  double uniform() { return double(bits_() >> 11) * 0x1p-52 - 1; }  // in [-1, 1)
  std::mt19937_64 bits_;
};

}  // namespace

std::string to_string(const LayerSpec& spec) {
  return std::visit(
      Overloaded{[](const Dense& l) { return fmt::format("dense {}", l.units); },
                 [](const Conv2d& l) {
                   return fmt::format("conv {0}x{0}x{1}", l.kernel, l.filters) +
                          (l.stride == 1 ? "" : fmt::format(" stride {}", l.stride)) +
                          (l.pad == 0 ? "" : fmt::format(" pad {}", l.pad)) + (l.bias ? "" : " no bias");
                 },
                 [](const MaxPool& l) { return window("max-pool", l); },
                 [](const AvgPool& l) { return window("avg-pool", l); },
                 [](Relu) { return std::string("relu"); }, [](Sigmoid) { return std::string("sigmoid"); },
                 [](Tanh) { return std::string("tanh"); },
                 [](const BatchNorm&) { return std::string("batch norm"); },
                 [](const Shortcut& l) { return fmt::format("shortcut over {}", l.back); }},
      spec);
}

std::vector<PlacedLayer> place(const Network& net) {
  const auto check = [&](bool fits, const std::string& problem) {
    if (!fits) throw std::invalid_argument(fmt::format("{} does not fit: {}", net.name, problem));
  };
  const auto positive = [](const Shape& s) { return s.channels > 0 && s.height > 0 && s.width > 0; };
  check(positive(net.input), "the shape of its input must be positive, not " + to_string(net.input));
  check(!net.layers.empty(), "it has no layers");
  std::vector<PlacedLayer> placed;
  Shape in = net.input;
  std::size_t first = 0;
  for (const auto& spec : net.layers) {
    const Shape out = output(spec, in);
    check(positive(out),
          fmt::format("layer {}, {}, cannot take {} (the network's input is {})", placed.size() + 1,
                      to_string(spec), to_string(in), to_string(net.input)));
    if (const auto* l = std::get_if<Shortcut>(&spec)) {
      const auto before = int(placed.size());
      check(l->back >= 1 && l->back <= before, fmt::format("layer {}, {}, must begin 1 to {} places before",
                                                           before + 1, to_string(spec), before));
      const Shape& from = placed[before - l->back].in;
      check(shortcut_stride(from, out) > 0, fmt::format("layer {}, {}, cannot add {} to {}", before + 1,
                                                        to_string(spec), to_string(from), to_string(out)));
    }
    const Matrix m = matrix(spec, in);
    placed.push_back({spec, in, out, first, m.inputs * m.outputs, m.bias});
    first += placed.back().weights + m.bias;
    in = out;
  }
  return placed;
}

std::vector<Extent> extents(const Network& net) {
  std::vector<Extent> all;
  int layer = 0;
  for (const auto& p : place(net)) {
    const int units = p.out.channels;
    const bool norm = std::get_if<BatchNorm>(&p.spec);
    std::vector<int> shape{units, int(p.in.size())};
    if (const auto* c = std::get_if<Conv2d>(&p.spec)) shape = {units, p.in.channels, c->kernel, c->kernel};
    if (norm) shape = {units};
    if (p.weights) all.push_back({layer, norm ? "scale" : "weights", std::move(shape), p.first, p.weights});
    if (p.bias) all.push_back({layer, norm ? "shift" : "bias", {units}, p.first + p.weights, p.bias});
    ++layer;
  }
  return all;
}

std::size_t parameters(const Network& net) {
  const PlacedLayer last = place(net).back();
  return last.first + last.weights + last.bias;
}

std::size_t normalised_channels(const Network& net) {
  std::size_t channels = 0;
  for (const auto& p : place(net)) channels += std::get_if<BatchNorm>(&p.spec) ? p.in.channels : 0;
  return channels;
}

int shortcut_stride(const Shape& from, const Shape& to) {
  const int stride = (from.height + to.height - 1) / to.height;
  const bool fits = from.channels <= to.channels && (from.height - 1) / stride + 1 == to.height &&
                    (from.width - 1) / stride + 1 == to.width;
  return fits ? stride : 0;
}

double flops_per_sample(const Network& net) {
  double flops = 0;
  for (const auto& p : place(net)) {
    if (std::get_if<BatchNorm>(&p.spec)) continue;
    const double once = 2.0 * double(p.weights) * p.out.height * p.out.width;
    // Backward needs both products, but nobody asks for the gradient of the network's input.
    flops += once * (p.first == 0 ? 2 : 3);
  }
  return flops;
}

void initialise(const Network& net, std::uint64_t seed, Vec w) {
  if (w.size != parameters(net)) {
    throw std::invalid_argument(
        fmt::format("{} has {} parameters, the vector {}", net.name, parameters(net), w.size));
  }
  Normal normal(seed);
  for (const auto& p : place(net)) {
    const Matrix m = matrix(p.spec, p.in);
    const double deviation = std::sqrt(2 / (m.fan_in + m.fan_out));
    const bool norm = std::get_if<BatchNorm>(&p.spec);
    for (std::size_t i = 0; i < p.weights; ++i) w.data[p.first + i] = norm ? 1 : float(deviation * normal());
    for (std::size_t i = 0; i < p.bias; ++i) w.data[p.first + p.weights + i] = 0;
  }
}

}  // namespace dsgd
