#include "datasets/gather.h"

#include <algorithm>
#include <cassert>
#include <cmath>

// The widest vectors that the processor has; one multiplication and one addition an element give the same
// bits on all.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define DSGD_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define DSGD_CLONES
#endif

namespace dsgd {
namespace {

using Affine = Samples::Affine;

DSGD_CLONES void to_float(const std::uint8_t* __restrict from, float* __restrict to, std::size_t n,
                          Affine a) {
  for (std::size_t i = 0; i < n; ++i) to[i] = float(from[i]) * a.scale + a.shift;
}

}  // namespace

void normalise(Dataset& set) {
  const Samples& s = set.train;
  const auto channels = std::size_t(s.shape.channels);
  const std::size_t plane = s.shape.size() / channels;
  std::vector<std::uint64_t> sum(channels), squares(channels);
  for (std::size_t i = 0; i < s.count * channels; ++i) {
    std::uint64_t own = 0, own_squares = 0;
    for (std::size_t j = 0; j < plane; ++j) {
      const std::uint32_t p = s.pixels[i * plane + j];
      own += p;
      own_squares += p * p;
    }
    sum[i % channels] += own;
    squares[i % channels] += own_squares;
  }
  set.train.channels.clear();
  for (std::size_t c = 0; c < channels; ++c) {
    const double n = double(s.count * plane), mean = double(sum[c]) / n;
    const double deviation = std::sqrt(std::max(0.0, double(squares[c]) / n - mean * mean));
    const double scale = deviation > 0 ? 1 / deviation : 1;
    set.train.channels.push_back({float(scale), float(-mean * scale)});
  }
  set.test.channels = set.train.channels;
}

void gather(const Samples& from, std::span<const std::uint32_t> ids, float* x, std::uint8_t* labels) {
  const std::size_t size = from.shape.size(), channels = from.channels.size();
  const auto row = [&](std::size_t i) { return from.pixels.data() + ids[i] * size; };
  // Rows lie anywhere in the set: ask for the one after the next, as far as the hardware won't do it by
  // itself.
  constexpr std::size_t ahead = 2, line = 64, page = 4096;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    assert(ids[i] < from.count);
    if (i + ahead < ids.size())
      for (std::size_t j = 0; j < std::min(size, page); j += line) __builtin_prefetch(row(i + ahead) + j);
    float* const to = x + i * size;
    if (channels == 0) to_float(row(i), to, size, {1.0f / 255, 0});
    for (std::size_t c = 0; c < channels; ++c)
      to_float(row(i) + c * (size / channels), to + c * (size / channels), size / channels, from.channels[c]);
    labels[i] = from.labels[ids[i]];
  }
}

}  // namespace dsgd
