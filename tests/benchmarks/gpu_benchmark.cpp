// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "devices/cudnn/products.h"
#include "gpu_space.h"

// What a GPU does at most, for the floors of steps: products by cuBLASLt, as dense layers have them, and
// copies within its memory.

namespace dsgd::cuda {
namespace {

// Seconds of `queue` on the GPU, each pass by itself.
template <class Function>
double repeat(benchmark::State& state, const Function& queue) {
  const Space& space = gpu_space();
  const auto now = [] { return std::chrono::steady_clock::now(); };
  for (int i = 0; i < 3; ++i) queue();
  space.wait();
  double best = INFINITY;
  for (auto _ : state) {
    const auto begun = now();
    queue();
    space.wait();
    best = std::min(best, std::chrono::duration<double>(now() - begun).count());
  }
  return best;
}

// Values whose magnitude is from 1 to 2, any of them.
struct Matrix {
  Matrix(std::size_t count, Type t, unsigned seed) : type(t), host(count * size_of(t) / 4) {
    std::mt19937 bits(seed);
    for (auto& word : host)
      word = type == Type::f32 ? (bits() & 0x807fffffu) | 0x3f800000u : (bits() & 0x807f807fu) | 0x3f803f80u;
    device = Memory::device(host.size() * 4);
    DSGD_CHECK(cudaMemcpyAsync(device.data(), host.data(), device.bytes(), cudaMemcpyHostToDevice,
                               gpu_space().stream()));
    gpu_space().wait();
  }
  double operator[](std::size_t i) const {
    const std::uint32_t word = host[type == Type::f32 ? i : i / 2];
    return std::bit_cast<float>(type == Type::f32 ? word : i % 2 ? word & 0xffff0000u : word << 16);
  }
  Type type;
  std::vector<std::uint32_t> host;
  Memory device;
};

void product(benchmark::State& state, int size, Type type, bool tf32) try {
  const GpuSpace& space = gpu_space();
  const Products products;
  const Product p(products, {size, size, size, false, false, type, Type::f32, tf32});
  const std::size_t count = std::size_t(size) * std::size_t(size);
  const Matrix a(count, type, 1), b(count, type, 2);
  const Vector d(space, count);
  const Memory workspace = Memory::device(Products::workspace);
  const double seconds = repeat(state, [&] {
    p.run(a.device.data(), b.device.data(), d.data(), nullptr, workspace.data(), space.stream());
  });
  double should = 0;  // the first element
  for (std::size_t k = 0; k < std::size_t(size); ++k) should += a[k * std::size_t(size)] * b[k];
  float is = 0;
  space.to_host(d.data(), &is, 1);
  if (!(std::abs(is - should) < 1e-2 * std::sqrt(size)))
    return state.SkipWithError("differs from a plain sum");
  state.counters["flop/s"] = 2 * std::pow(double(size), 3) / seconds;
} catch (const std::exception& e) {
  state.SkipWithError(e.what());
}

void copies(benchmark::State& state, std::size_t n) try {
  const GpuSpace& space = gpu_space();
  const Vector x(space, n), y(space, n);
  state.counters["bytes/s"] =
      2.0 * sizeof(float) * double(n) / repeat(state, [&] { space.copy(x.data(), y.data(), n); });
} catch (const std::exception& e) {
  state.SkipWithError(e.what());
}

}  // namespace
}  // namespace dsgd::cuda

int main(int argc, char** argv) {
  using namespace dsgd::cuda;
  for (const int size : {64, 8192})
    for (const auto& [name, type, tf32] :
         {std::tuple{"fp32", Type::f32, false}, {"tf32", Type::f32, true}, {"bf16", Type::bf16, false}})
      benchmark::RegisterBenchmark(fmt::format("product/{}/{}", size, name).c_str(), product, size, type,
                                   tf32);
  for (const std::size_t mib : {1, 2048})
    benchmark::RegisterBenchmark(fmt::format("copy/{}", mib).c_str(), copies, mib << 18);
  benchmark::Initialize(&argc, argv);
  if (const std::string why = unavailable(); !why.empty()) {
    fmt::print(stderr, "{}\n", why);
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
}
