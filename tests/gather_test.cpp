#include "datasets/gather.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

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

}  // namespace
}  // namespace dsgd
