// SPDX-License-Identifier: Apache-2.0
#include "kernels/winograd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "vec.h"

namespace dsgd {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  int channels, height, width, filters, lanes;
  std::size_t inputs() const { return std::size_t(channels) * height * width * lanes; }
  std::size_t outputs() const { return std::size_t(filters) * height * width * lanes; }
  std::size_t kernels() const { return std::size_t(filters) * channels * 9; }
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.channels << "x" << c.height << "x" << c.width << " to " << c.filters << ", " << c.lanes
       << " lanes";
}

Vector uniform(std::size_t n, unsigned seed) {
  std::mt19937 bits(seed);
  Vector v(host_space(), n);
  for (std::size_t i = 0; i < n; ++i) v.data()[i] = float(bits()) * 0x1p-31f - 1;
  return v;
}
Vector poisoned(std::size_t n) {
  Vector v(host_space(), n);
  std::fill_n(v.data(), n, nan);
  return v;
}

// |a - b| / |b|; not a number where any element is none.
double distance(const Vector& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(a.data()[i] - b[i], 2);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

// each(filter, channel, tap, output, input): every product of the convolution, over all lanes at once; output
// and input are their first lanes.
template <class Each>
void products(const Case& k, Each each) {
  for (int f = 0; f < k.filters; ++f)
    for (int c = 0; c < k.channels; ++c)
      for (int tap = 0; tap < 9; ++tap)
        for (int i = 0; i < k.height; ++i)
          for (int j = 0; j < k.width; ++j) {
            const int h = i + tap / 3 - 1, l = j + tap % 3 - 1;
            if (h < 0 || h >= k.height || l < 0 || l >= k.width) continue;
            each((std::size_t(f) * k.channels + c) * 9 + tap,
                 ((std::size_t(f) * k.height + i) * k.width + j) * k.lanes,
                 ((std::size_t(c) * k.height + h) * k.width + l) * k.lanes);
          }
}

class Winograd : public testing::TestWithParam<Case> {
 protected:
  const Case c = GetParam();
  const WinogradConv conv{c.channels, c.height, c.width, c.filters, c.lanes};
  const Vector x = uniform(c.inputs(), 1), w = uniform(c.kernels(), 2), b = uniform(c.filters, 3),
               dy = uniform(c.outputs(), 4);
  // Whatever lies there must not show.
  Vector y = poisoned(c.outputs()), dx = poisoned(c.inputs()), dw = poisoned(c.kernels()),
         db = poisoned(c.filters), scratch = poisoned(conv.scratch());
};

TEST_P(Winograd, AgreesWithTheDirectConvolution) {
  std::vector<double> should_y(c.outputs()), should_dx(c.inputs()), should_dw(c.kernels()),
      should_db(c.filters);
  products(c, [&](std::size_t kernel, std::size_t out, std::size_t in) {
    const double a = w.data()[kernel];
    double sum = 0;
    for (int n = 0; n < c.lanes; ++n) {
      should_y[out + n] += a * x.data()[in + n];
      should_dx[in + n] += a * dy.data()[out + n];
      sum += double(x.data()[in + n]) * dy.data()[out + n];
    }
    should_dw[kernel] += sum;
  });
  const std::size_t plane = c.outputs() / c.filters;
  for (std::size_t i = 0; i < c.outputs(); ++i) should_db[i / plane] += dy.data()[i];

  conv.forward(x.data(), w.data(), nullptr, y.data(), scratch.data());
  EXPECT_LT(distance(y, should_y), 5e-6);
  for (std::size_t i = 0; i < c.outputs(); ++i) should_y[i] += b.data()[i / plane];
  conv.forward(x.data(), w.data(), b.data(), y.data(), scratch.data());
  EXPECT_LT(distance(y, should_y), 5e-6);
  conv.data(w.data(), dy.data(), dx.data(), scratch.data());
  EXPECT_LT(distance(dx, should_dx), 5e-6);
  conv.weights(x.data(), dy.data(), dw.data(), db.data(), scratch.data());
  EXPECT_LT(distance(dw, should_dw), 5e-6);
  EXPECT_LT(distance(db, should_db), 5e-6);
  RecordProperty("y", std::to_string(distance(y, should_y) * 1e6));
  RecordProperty("dx", std::to_string(distance(dx, should_dx) * 1e6));
  RecordProperty("dw", std::to_string(distance(dw, should_dw) * 1e6));
}

TEST_P(Winograd, RepeatsBitForBitAndReluOnlyCutsOff) {
  WinogradConv with_relu = conv;
  with_relu.relu = true;
  Vector y2 = poisoned(c.outputs()), dx2 = poisoned(c.inputs()), dw2 = poisoned(c.kernels());
  conv.forward(x.data(), w.data(), b.data(), y.data(), scratch.data());
  conv.data(w.data(), dy.data(), dx.data(), scratch.data());
  conv.weights(x.data(), dy.data(), dw.data(), db.data(), scratch.data());
  conv.weights(x.data(), dy.data(), dw2.data(), nullptr, scratch.data());
  conv.data(w.data(), dy.data(), dx2.data(), scratch.data());
  with_relu.forward(x.data(), w.data(), b.data(), y2.data(), scratch.data());
  for (std::size_t i = 0; i < c.outputs(); ++i) ASSERT_EQ(y2.data()[i], std::max(y.data()[i], 0.0f));
  EXPECT_EQ(0, std::memcmp(dx.data(), dx2.data(), c.inputs() * sizeof(float)));
  EXPECT_EQ(0, std::memcmp(dw.data(), dw2.data(), c.kernels() * sizeof(float)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, Winograd,
                         testing::Values(Case{16, 32, 32, 16, 32}, Case{32, 16, 16, 32, 32},
                                         Case{64, 8, 8, 64, 32}, Case{32, 8, 8, 64, 48}, Case{1, 1, 1, 1, 16},
                                         Case{1, 5, 7, 3, 16}, Case{3, 9, 4, 20, 48}, Case{37, 7, 13, 17, 16},
                                         Case{20, 6, 11, 50, 80}));

}  // namespace
}  // namespace dsgd
