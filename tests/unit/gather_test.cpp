// SPDX-License-Identifier: Apache-2.0
#include "gather.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "allocations.h"
#include "sampler.h"

namespace dsgd {
namespace {

Samples random_samples(const Shape& shape, std::size_t count, std::uint32_t seed = 1) {
  Samples s{shape, 10, count, std::vector<std::uint8_t>(count * shape.size()),
            std::vector<std::uint8_t>(count)};
  std::mt19937 bits(seed);
  for (auto& p : s.pixels) p = std::uint8_t(bits());
  for (auto& l : s.labels) l = std::uint8_t(bits() % 10);
  return s;
}

TEST(Gather, GivesPixelsOver255InTheOrderAsked) {
  constexpr int size = 67;  // not a multiple of any vector's width
  Samples all{{1, 1, size}, 4, 4, {}, {3, 1, 0, 2}};
  for (int i = 0; i < 4 * size; ++i) all.pixels.push_back(std::uint8_t(i));
  const std::uint32_t ids[] = {2, 0, 3, 2};
  std::vector<float> x(4 * size + 1, -1);
  std::vector<std::uint8_t> y(5, 99);
  gather(all, ids, x.data(), y.data());
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < size; ++j)
      ASSERT_EQ(x[i * size + j], float(std::uint8_t(ids[i] * size + j)) * (1.0f / 255));
  EXPECT_EQ(y, (std::vector<std::uint8_t>{0, 3, 2, 0, 99}));
  EXPECT_EQ(x.back(), -1);  // and writes nothing else
  gather(all, {}, nullptr, nullptr);

  Samples ends{{2}, 1, 1, {0, 255}, {0}};
  const std::uint32_t first[] = {0};
  gather(ends, first, x.data(), y.data());
  EXPECT_EQ(x[0], 0.0f);
  EXPECT_EQ(x[1], 1.0f);
}

// The k-th channel has a range of its own; mean and deviation by the textbook, in two passes.
TEST(Normalise, MatchesTwoPassesInDoublePrecision) {
  constexpr std::size_t count = 1001, plane = 35;
  Dataset set{"", random_samples({3, 5, 7}, count), random_samples({3, 5, 7}, 10, 2)};
  for (std::size_t i = 0; i < set.train.pixels.size(); ++i)
    set.train.pixels[i] /= std::uint8_t(1 + i / plane % 3);
  normalise(set);
  ASSERT_EQ(set.train.channels.size(), 3u);
  for (std::size_t c = 0; c < 3; ++c) {
    std::vector<double> pixels;
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = 0; j < plane; ++j) pixels.push_back(set.train.pixels[(i * 3 + c) * plane + j]);
    double mean = 0, variance = 0;
    for (const double p : pixels) mean += p / double(pixels.size());
    for (const double p : pixels) variance += (p - mean) * (p - mean) / double(pixels.size());
    for (const Samples* s : {&set.train, &set.test}) {
      EXPECT_NEAR(s->channels[c].scale * std::sqrt(variance), 1, 1e-7);
      EXPECT_NEAR(s->channels[c].shift * std::sqrt(variance) / mean, -1, 1e-7);
    }
  }

  std::vector<std::uint32_t> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = std::uint32_t(i);
  std::vector<float> x(count * 3 * plane);
  std::vector<std::uint8_t> labels(count);
  gather(set.train, ids, x.data(), labels.data());
  for (std::size_t c = 0; c < 3; ++c) {
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto [scale, shift] = set.train.channels[i / plane % 3];
      ASSERT_EQ(x[i], float(set.train.pixels[i]) * scale + shift);  // the build doesn't contract
      if (i / plane % 3 == c) sum += x[i], squares += double(x[i]) * x[i];
    }
    EXPECT_NEAR(sum / double(count * plane), 0, 1e-6);
    EXPECT_NEAR(squares / double(count * plane), 1, 1e-6);
  }
  EXPECT_EQ(labels, set.train.labels);
}

TEST(Normalise, OnlyShiftsConstantChannels) {
  Dataset set{"", {{2, 1, 2}, 1, 2, {7, 7, 0, 2, 7, 7, 2, 0}, {0, 0}}, {{2, 1, 2}, 1, 1, {9, 5, 3, 1}, {0}}};
  normalise(set);
  const std::uint32_t ids[] = {0};
  std::vector<float> x(4);
  std::uint8_t label;
  gather(set.train, ids, x.data(), &label);
  EXPECT_EQ(x, (std::vector<float>{0, 0, -1, 1}));
  gather(set.test, ids, x.data(), &label);
  EXPECT_EQ(x, (std::vector<float>{2, -2, 2, 0}));
}

class CropFlip : public testing::Test {
 protected:
  std::vector<float> gathered(const Samples& from, const std::vector<std::uint32_t>& ids,
                              const Augmentation& how) const {
    std::vector<float> x(ids.size() * from.shape.size());
    std::vector<std::uint8_t> labels(ids.size());
    gather(from, ids, x.data(), labels.data(), how);
    for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(labels[i], from.labels[ids[i]]);
    return x;
  }
  std::vector<std::uint32_t> all(const Samples& s) const {
    std::vector<std::uint32_t> ids(s.count);
    std::iota(ids.begin(), ids.end(), 0u);
    return ids;
  }
  static Augmentation of_epoch(std::int64_t epoch, std::uint64_t seed = 3) { return {true, seed, epoch}; }
};

// By the words of the definition: frame, cut, mirror, all on bytes; then the plain gather.
TEST_F(CropFlip, CutsFramedImagesAndMirrorsThem) {
  for (const Shape& shape : {Shape{3, 32, 32}, Shape{1, 28, 28}, Shape{2, 5, 17}, Shape{1, 3, 2}})
    for (const bool normalised : {false, true}) {
      Dataset set{"", random_samples(shape, 400), random_samples(shape, 1)};
      if (normalised) normalise(set);
      const Samples& from = set.train;
      const int height = shape.height, width = shape.width, framed_width = width + 2 * crop_margin;
      Samples changed = from;
      for (std::uint32_t id = 0; id < from.count; ++id) {
        const Crop crop = draw_crop(of_epoch(7), id);
        for (int c = 0; c < shape.channels; ++c) {
          const std::size_t first = (id * shape.channels + c) * std::size_t(height * width);
          std::vector<std::uint8_t> frame(std::size_t(height + 2 * crop_margin) * framed_width);
          for (int y = 0; y < height; ++y)
            for (int x = 0; x < width; ++x)
              frame[(y + crop_margin) * framed_width + x + crop_margin] = from.pixels[first + y * width + x];
          for (int y = 0; y < height; ++y)
            for (int x = 0; x < width; ++x)
              changed.pixels[first + y * width + (crop.flip ? width - 1 - x : x)] =
                  frame[(y + crop_margin + crop.down) * framed_width + x + crop_margin + crop.right];
        }
      }
      ASSERT_EQ(gathered(from, all(from), of_epoch(7)), gathered(changed, all(from), {}));
    }
}

TEST_F(CropFlip, TheMiddleUnmirroredIsTheImage) {
  const Samples s = random_samples({3, 32, 32}, 2000);
  std::vector<std::uint32_t> untouched;
  for (const auto id : all(s))
    if (const Crop c = draw_crop(of_epoch(0), id); c.down == 0 && c.right == 0 && !c.flip)
      untouched.push_back(id);
  EXPECT_GT(untouched.size(), 2u);  // of 12 or so
  EXPECT_EQ(gathered(s, untouched, of_epoch(0)), gathered(s, untouched, {}));
}

// Pinned: the same on every host.
TEST_F(CropFlip, DependsOnSeedEpochAndSampleAlone) {
  const auto draw = [](std::uint64_t seed, std::int64_t epoch, std::uint32_t id) {
    const Crop c = draw_crop({true, seed, epoch}, id);
    return std::array{c.down, c.right, int(c.flip)};
  };
  EXPECT_EQ(draw(1, 0, 0), (std::array{3, 1, 1}));
  EXPECT_EQ(draw(1, 0, 4294967295), (std::array{-1, -2, 1}));
  EXPECT_EQ(draw(1, 1, 0), (std::array{-3, -2, 1}));
  EXPECT_EQ(draw(2, 0, 0), (std::array{4, -1, 0}));

  const Samples s = random_samples({3, 32, 32}, 64);
  const auto ids = all(s);
  const auto x = gathered(s, ids, of_epoch(2));
  EXPECT_EQ(x, gathered(s, ids, of_epoch(2)));
  EXPECT_NE(x, gathered(s, ids, of_epoch(1)));
  EXPECT_NE(x, gathered(s, ids, of_epoch(2, 4)));
  EXPECT_NE(x, gathered(s, ids, {}));
  const std::size_t size = s.shape.size();
  for (const std::uint32_t id : {63u, 5u, 0u}) {  // alone as beside others
    const auto alone = gathered(s, {id}, of_epoch(2));
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), x.begin() + std::ptrdiff_t(id * size)));
  }
}

TEST_F(CropFlip, WorkersSideBySideReadWhatOneReads) {
  const Samples s = random_samples({3, 32, 32}, 100);
  const auto steps = [&](int workers, int minibatch) {
    std::vector<Sampler> samplers;
    for (int worker = 0; worker < workers; ++worker)
      samplers.emplace_back(Sampler::Options{.samples = s.count,
                                             .seed = 9,
                                             .worker = worker,
                                             .workers = workers,
                                             .minibatch = minibatch,
                                             .budget = 330});
    std::vector<std::vector<float>> batches;
    for (bool more = true; more;) {
      batches.emplace_back();
      for (auto& sampler : samplers) {
        const Minibatch b = sampler.next();
        const auto x = gathered(s, {b.ids.begin(), b.ids.end()}, of_epoch(b.epoch, 9));
        batches.back().insert(batches.back().end(), x.begin(), x.end());
        more = b.global_count > 0;
      }
    }
    return batches;
  };
  const auto one = steps(1, 24);
  EXPECT_EQ(one.size(), 18u);  // 5 an epoch, 2 of the last, and the end
  EXPECT_NE(one[0], one[5]);
  for (const int workers : {2, 3, 4}) EXPECT_EQ(steps(workers, 24 / workers), one) << workers;
}

// Chi-square, 0.1 % bounds: places of samples within an epoch, of a sample over epochs, and what two
// neighbours draw.
TEST_F(CropFlip, PlacesAreUniformAndIndependent) {
  constexpr int n = 162000, places = 162;
  const auto place = [](const Augmentation& how, std::uint32_t id) {
    const Crop c = draw_crop(how, id);
    EXPECT_LE(std::abs(c.down), crop_margin);
    EXPECT_LE(std::abs(c.right), crop_margin);
    return (c.down + crop_margin) * 18 + (c.right + crop_margin) * 2 + c.flip;
  };
  const auto chi_square = [](const std::vector<int>& counts) {
    const double expected = double(n) / double(counts.size());
    double sum = 0;
    for (const int count : counts) sum += (count - expected) * (count - expected) / expected;
    return sum;
  };
  std::vector<int> samples(places), epochs(places), seeds(places), neighbours(81), successors(81);
  for (int i = 0; i < n; ++i) {
    const int own = place(of_epoch(5), std::uint32_t(i));
    ++samples[own];
    ++epochs[place(of_epoch(i), 5)];
    ++seeds[place({true, std::uint64_t(i), 0}, 5)];
    ++neighbours[own / 18 * 9 + place(of_epoch(5), std::uint32_t(i + 1)) / 18];
    ++successors[own / 18 * 9 + place(of_epoch(6), std::uint32_t(i)) / 18];
  }
  for (const auto* counts : {&samples, &epochs, &seeds}) EXPECT_LT(chi_square(*counts), 221);  // 161 degrees
  for (const auto* counts : {&neighbours, &successors}) EXPECT_LT(chi_square(*counts), 124);   // 80 degrees
}

TEST_F(CropFlip, AllocatesNothing) {
  Dataset set{"", random_samples({3, 32, 32}, 64), random_samples({3, 32, 32}, 1)};
  normalise(set);
  const auto ids = all(set.train);
  std::vector<float> x(set.train.pixels.size());
  std::vector<std::uint8_t> labels(64);
  const std::size_t before = allocations;
  gather(set.train, ids, x.data(), labels.data());
  gather(set.train, ids, x.data(), labels.data(), of_epoch(1));
  EXPECT_EQ(allocations, before);
  EXPECT_GT(before, 0u);  // the counter counts
}

}  // namespace
}  // namespace dsgd
