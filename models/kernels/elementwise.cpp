// SPDX-License-Identifier: Apache-2.0
#include "kernels/elementwise.h"

#include <algorithm>
#include <cstdint>

#include "kernels/chwn_vectors.h"

namespace dsgd {
namespace {

// e^x: 2^n * e^r with |r| <= ln(2)/2, e^r by Cephes' polynomial (Moshier, expf). Beyond the range of float
// the nearest number in it.
template <int width>
DSGD_INLINE inline FloatsOf<width> exponential(FloatsOf<width> x) {
  using F = FloatsOf<width>;
  x = x > 88.0f ? F{} + 88.0f : x;  // NaN stays
  x = x < -87.0f ? F{} - 87.0f : x;
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits of the sum.
  constexpr float round = 12582912.0f;
  const F shifted = x * 1.44269504088896341f + round;
  const F n = shifted - round;
  const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  F e = F{} + 1.9875691500e-4f;
  e = e * r + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  e = e * (r * r) + r + 1.0f;
  const auto power = (reinterpret_cast<IntsOf<width>>(shifted) + 127) << 23;
  return e * reinterpret_cast<F>(power);
}

template <int width>
DSGD_INLINE inline FloatsOf<width> value(Activation a, FloatsOf<width> x) {
  using F = FloatsOf<width>;
  if (a == Activation::relu) return x <= 0.0f ? F{} : x;
  if (a == Activation::sigmoid) return 1.0f / (1.0f + exponential<width>(-x));
  const F far = 1.0f - 2.0f / (exponential<width>(2.0f * x) + 1.0f);
  // Near 0 the difference would cancel: Cephes' polynomial (tanhf).
  const F s = x * x;
  F p = F{} + -5.70498872745e-3f;
  p = p * s + 2.06390887954e-2f;
  p = p * s + -5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s + -3.33332819422e-1f;
  const F near = p * s * x + x;
  return s < 0.390625f ? near : far;
}

template <int width>
DSGD_INLINE inline FloatsOf<width> derivative(Activation a, FloatsOf<width> y, FloatsOf<width> dy) {
  if (a == Activation::relu) return y <= 0.0f ? FloatsOf<width>{} : dy;
  if (a == Activation::sigmoid) return dy * (y * (1.0f - y));
  return dy * (1.0f - y * y);
}

// f(a constant of the activation), so that loops have no branch.
template <class F>
DSGD_INLINE inline void of_kind(Activation a, F f) {
  if (a == Activation::relu) f(std::integral_constant<Activation, Activation::relu>());
  if (a == Activation::sigmoid) f(std::integral_constant<Activation, Activation::sigmoid>());
  if (a == Activation::tanh) f(std::integral_constant<Activation, Activation::tanh>());
}

template <int width>
DSGD_INLINE inline void activate_of(Activation a, float* y, std::size_t n) {
  of_kind(a, [&](auto kind) DSGD_INLINE {
    for (std::size_t i = 0; i < n; i += width) store<width>(y + i, value<width>(kind, load<width>(y + i)));
  });
}

template <int width>
DSGD_INLINE inline void differentiate_of(Activation a, const float* y, float* dy, std::size_t n) {
  of_kind(a, [&](auto kind) DSGD_INLINE {
    for (std::size_t i = 0; i < n; i += width)
      store<width>(dy + i, derivative<width>(kind, load<width>(y + i), load<width>(dy + i)));
  });
}

template <int width>
DSGD_INLINE inline void transpose_tile(const float* from, std::size_t columns, std::size_t rows, float* to) {
  typedef float Unaligned __attribute__((vector_size(4 * width), may_alias, aligned(4)));
  FloatsOf<width> tile[width];
  for (int i = 0; i < width; ++i) tile[i] = *reinterpret_cast<const Unaligned*>(from + i * columns);
  // Interleaving the first half of the rows with the second, log2(width) times, transposes.
  for (int stage = 1; stage < width; stage *= 2) {
    FloatsOf<width> next[width];
    [&]<int... n>(std::integer_sequence<int, n...>) DSGD_INLINE {
      for (int i = 0; i < width / 2; ++i) {
        next[2 * i] = __builtin_shufflevector(tile[i], tile[i + width / 2], (n / 2 + n % 2 * width)...);
        next[2 * i + 1] =
            __builtin_shufflevector(tile[i], tile[i + width / 2], (width / 2 + n / 2 + n % 2 * width)...);
      }
    }
    (std::make_integer_sequence<int, width>());
    for (int i = 0; i < width; ++i) tile[i] = next[i];
  }
  for (int i = 0; i < width; ++i) *reinterpret_cast<Unaligned*>(to + i * rows) = tile[i];
}

template <int width>
DSGD_INLINE inline void transpose_of(const float* from, std::size_t rows, std::size_t columns, float* to) {
  const std::size_t whole_rows = rows / width * width, whole_columns = columns / width * width;
  const auto one_by_one = [&](std::size_t first_row, std::size_t last_row, std::size_t first_column) {
    for (std::size_t r = first_row; r < last_row; ++r)
      for (std::size_t c = first_column; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
  };
  for (std::size_t c = 0; c < whole_columns; c += width)
    for (std::size_t r = 0; r < whole_rows; r += width)
      transpose_tile<width>(from + r * columns + c, columns, rows, to + c * rows + r);
  one_by_one(0, whole_rows, whole_columns);
  one_by_one(whole_rows, rows, 0);
}

struct Kernels {
  void (*activate)(Activation, float*, std::size_t);
  void (*differentiate)(Activation, const float*, float*, std::size_t);
  void (*transpose)(const float*, std::size_t, std::size_t, float*);
};

#define DSGD_KERNELS(target, width)                                                            \
  Kernels {                                                                                    \
    DSGD_COMPILED(target, activate_of<width>), DSGD_COMPILED(target, differentiate_of<width>), \
        DSGD_COMPILED(target, transpose_of<width>)                                             \
  }

const Kernels& kernels() {
  static const Kernels best = [] {
    if (has_avx512()) return DSGD_KERNELS(DSGD_AVX512, 16);
    if (has_avx2()) return DSGD_KERNELS(DSGD_AVX2, 8);
    return DSGD_KERNELS(, 4);
  }();
  return best;
}

}  // namespace

void activate(Activation a, float* y, std::size_t n) { kernels().activate(a, y, n); }
void differentiate(Activation a, const float* y, float* dy, std::size_t n) {
  kernels().differentiate(a, y, dy, n);
}
void transpose(const float* from, std::size_t rows, std::size_t columns, float* to) {
  kernels().transpose(from, rows, columns, to);
}

}  // namespace dsgd
