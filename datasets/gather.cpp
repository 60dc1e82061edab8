// SPDX-License-Identifier: Apache-2.0
#include "gather.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "random.h"

namespace dsgd {
namespace {

using Affine = Samples::Affine;

DSGD_CLONES void to_float(const std::uint8_t* __restrict from, float* __restrict to, std::size_t n,
                          Affine a) {
  for (std::size_t i = 0; i < n; ++i) to[i] = float(from[i]) * a.scale + a.shift;
}

// One channel. Pixels that the cut takes from the frame are 0.
DSGD_CLONES void crop_to_float(const std::uint8_t* __restrict from, float* __restrict to, int height,
                               int width, Crop crop, Affine a) {
  const int begin = std::clamp(-crop.right, 0, width), end = std::clamp(width - crop.right, 0, width);
  const int first = crop.flip ? width - end : begin, last = crop.flip ? width - begin : end;
  for (int y = 0; y < height; ++y, to += width) {
    const int row = y + crop.down;
    if (row < 0 || row >= height) {
      std::fill_n(to, width, a.shift);
      continue;
    }
    const std::uint8_t* const in = from + row * width + crop.right;
    std::fill(to, to + first, a.shift);
    if (crop.flip)
      for (int x = first; x < last; ++x) to[x] = float(in[width - 1 - x]) * a.scale + a.shift;
    else
      for (int x = first; x < last; ++x) to[x] = float(in[x]) * a.scale + a.shift;
    std::fill(to + last, to + width, a.shift);
  }
}

}  // namespace

Crop draw_crop(const Augmentation& how, std::uint32_t id) {
  constexpr std::uint64_t purpose = 'c', places = 2 * crop_margin + 1;
  const std::uint64_t bits = mixed(hash(how.seed, purpose, std::uint64_t(how.epoch)) + id);
  const auto place = [](std::uint32_t r) { return int(r * places >> 32) - crop_margin; };
  return {place(std::uint32_t(bits)), place(std::uint32_t(bits >> 32)), (bits & 1) != 0};
}

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

void gather(const Samples& from, std::span<const std::uint32_t> ids, float* x, std::uint8_t* labels,
            const Augmentation& how) {
  const auto [channels, height, width] = from.shape;
  const std::size_t size = from.shape.size(), plane = size / std::size_t(channels);
  const auto row = [&](std::size_t i) { return from.pixels.data() + ids[i] * size; };
  constexpr Affine unit{1.0f / 255, 0};
  // Rows lie anywhere in the set: ask for the one after the next, as far as the hardware won't do it by
  // itself.
  constexpr std::size_t ahead = 2, line = 64, page = 4096;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    assert(ids[i] < from.count);
    if (i + ahead < ids.size())
      for (std::size_t j = 0; j < std::min(size, page); j += line) __builtin_prefetch(row(i + ahead) + j);
    labels[i] = from.labels[ids[i]];
    float* const to = x + i * size;
    if (!how.crop_flip && from.channels.empty()) {
      to_float(row(i), to, size, unit);
      continue;
    }
    const Crop crop = how.crop_flip ? draw_crop(how, ids[i]) : Crop{};
    for (int c = 0; c < channels; ++c) {
      const std::size_t first = std::size_t(c) * plane;
      const Affine a = from.channels.empty() ? unit : from.channels[std::size_t(c)];
      if (how.crop_flip)
        crop_to_float(row(i) + first, to + first, height, width, crop, a);
      else
        to_float(row(i) + first, to + first, plane, a);
    }
  }
}

}  // namespace dsgd
