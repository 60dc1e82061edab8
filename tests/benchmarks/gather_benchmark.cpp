// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>

#include "gather.h"

// What it costs to gather a minibatch from anywhere in a set as large as the real one. Checked once against
// the definition before it is timed.

namespace dsgd {
namespace {

void run(benchmark::State& state, const Shape& shape, bool normalised, bool augmented) {
  const auto batch = std::size_t(state.range(0));
  Dataset set;
  set.train = {shape, 10, 50000, std::vector<std::uint8_t>(50000 * shape.size()),
               std::vector<std::uint8_t>(50000)};
  std::mt19937 bits(1);
  for (auto& p : set.train.pixels) p = std::uint8_t(bits());
  if (normalised) normalise(set);
  const Samples& s = set.train;
  std::vector<std::uint32_t> ids(s.count);
  std::iota(ids.begin(), ids.end(), 0u);
  std::shuffle(ids.begin(), ids.end(), bits);
  std::vector<float> x(batch * shape.size());
  std::vector<std::uint8_t> labels(batch);
  const Augmentation how{augmented, 1, 0};

  gather(s, {ids.data(), batch}, x.data(), labels.data(), how);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::uint32_t id = ids[i / shape.size()];
    const Crop crop = augmented ? draw_crop(how, id) : Crop{};
    const int c = int(i % shape.size()) / (shape.height * shape.width);
    const int column = int(i) % shape.width, y = int(i) / shape.width % shape.height + crop.down;
    const int x_in = (crop.flip ? shape.width - 1 - column : column) + crop.right;
    const bool inside = y >= 0 && y < shape.height && x_in >= 0 && x_in < shape.width;
    const std::size_t at = ((std::size_t(id) * shape.channels + c) * shape.height + y) * shape.width + x_in;
    const auto [scale, shift] = normalised ? s.channels[c] : Samples::Affine{1.0f / 255, 0};
    if (x[i] != (inside ? float(s.pixels[at]) * scale + shift : shift))
      return state.SkipWithError("differs from the definition");
  }

  std::size_t next = 0;
  for (auto _ : state) {
    if (next + batch > ids.size()) next = 0;
    gather(s, {ids.data() + next, batch}, x.data(), labels.data(), how);
    benchmark::DoNotOptimize(x.data());
    next += batch;
  }
  const auto samples = std::int64_t(state.iterations() * batch);
  state.SetItemsProcessed(samples);
  state.SetBytesProcessed(samples * std::int64_t(shape.size() * (sizeof(float) + 1)));
}

}  // namespace
}  // namespace dsgd

int main(int argc, char** argv) {
  const dsgd::Shape grey{1, 28, 28}, colour{3, 32, 32};
  const auto add = [](const char* name, const dsgd::Shape& shape, bool normalised, bool augmented) {
    benchmark::RegisterBenchmark(fmt::format("gather/{}/{}", to_string(shape), name).c_str(), dsgd::run,
                                 shape, normalised, augmented)
        ->Arg(32)
        ->Arg(128);
  };
  add("plain", grey, false, false);
  add("plain", colour, false, false);
  add("normalised", colour, true, false);
  add("normalised,crop_flip", colour, true, true);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
