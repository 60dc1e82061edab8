// SPDX-License-Identifier: Apache-2.0
#include "kernels/dense.h"

#include <algorithm>
#include <cstddef>

#include "kernels/chwn_vectors.h"

namespace dsgd {
namespace {

constexpr int line = 16;  // floats in a cache line
// What streams in from memory is asked for one part ahead, into the second-level cache.
DSGD_INLINE inline void prefetch(const float* from) { __builtin_prefetch(from, 0, 2); }

// acc[u][v] += sum over [i, end) of w[u][i] * x[i]
template <int width, int U, int V>
DSGD_INLINE inline void add_products(const float* w, std::ptrdiff_t inputs, std::ptrdiff_t i,
                                     std::ptrdiff_t end, const float* x, std::ptrdiff_t lanes,
                                     FloatsOf<width> (&acc)[U][V]) {
#pragma GCC unroll 4
  for (; i < end; ++i) {
    FloatsOf<width> xs[V];
    for (int v = 0; v < V; ++v) xs[v] = load<width>(x + i * lanes + v * width);
    for (int u = 0; u < U; ++u) {
      const float a = w[u * inputs + i];
      for (int v = 0; v < V; ++v) acc[u][v] += a * xs[v];
    }
  }
}

// U units by V vectors of samples at a time.
template <int width, int U_most, int V>
DSGD_INLINE inline void forward_of(const DenseProducts& k, const float* x, const float* w, const float* b,
                                   float* y) {
  const std::ptrdiff_t inputs = k.inputs, lanes = k.lanes, whole_lines = inputs / line * line;
  in_parts<U_most>(k.units, [&](int first, auto U) DSGD_INLINE {
    const float* ws = w + first * inputs;
    for (std::ptrdiff_t n = 0; n < lanes; n += V * width) {
      FloatsOf<width> acc[U][V];
      for (int u = 0; u < U; ++u)
        for (int v = 0; v < V; ++v) acc[u][v] = FloatsOf<width>{} + b[first + u];
      for (std::ptrdiff_t i = 0; i < whole_lines; i += line) {
        if (n == 0)
          for (int u = 0; u < U; ++u) prefetch(ws + (U + u) * inputs + i);
        add_products<width, U, V>(ws, inputs, i, i + line, x + n, lanes, acc);
      }
      add_products<width, U, V>(ws, inputs, whole_lines, inputs, x + n, lanes, acc);
      for (int u = 0; u < U; ++u) {
        for (int v = 0; v < V; ++v) {
          // What is not a number gets on.
          if (k.relu) acc[u][v] = acc[u][v] <= 0.0f ? FloatsOf<width>{} : acc[u][v];
          store<width>(y + (first + u) * lanes + n + v * width, acc[u][v]);
        }
      }
    }
  });
}

// U units by V vectors of inputs at a time.
template <int width, int U_most, int V>
DSGD_INLINE inline void weights_of(const DenseProducts& k, const float* rows, const float* dy, float* dw,
                                   float* db) {
  typedef float Unaligned __attribute__((vector_size(4 * width), may_alias, aligned(4)));
  const std::ptrdiff_t inputs = k.inputs, lanes = k.lanes;
  in_parts<U_most>(k.units, [&](int first, auto U) DSGD_INLINE {
    const float* from = dy + first * lanes;
    for (std::ptrdiff_t next = 0; next < inputs; next += V * width) {
      const std::ptrdiff_t i = std::min(next, inputs - V * width);  // the last does some twice
      FloatsOf<width> acc[U][V] = {};
#pragma GCC unroll 4
      for (std::ptrdiff_t n = 0; n < lanes; ++n) {
        FloatsOf<width> xs[V];
        for (int v = 0; v < V; ++v)
          xs[v] = *reinterpret_cast<const Unaligned*>(rows + n * inputs + i + v * width);
        for (int u = 0; u < U; ++u) {
          const float a = from[u * lanes + n];
          for (int v = 0; v < V; ++v) acc[u][v] += a * xs[v];
        }
      }
      for (int u = 0; u < U; ++u)
        for (int v = 0; v < V; ++v)
          *reinterpret_cast<Unaligned*>(dw + (first + u) * inputs + i + v * width) = acc[u][v];
    }
    for (int u = 0; u < U; ++u) {
      FloatsOf<width> total = {};
      for (std::ptrdiff_t n = 0; n < lanes; n += width) total += load<width>(from + u * lanes + n);
      db[first + u] = sum<width>(total);
    }
  });
}

// The same for less than a vector of inputs.
void weights_of_few(const DenseProducts& k, const float* rows, const float* dy, float* dw, float* db) {
  for (int u = 0; u < k.units; ++u, dy += k.lanes, dw += k.inputs) {
    std::fill_n(dw, k.inputs, 0.0f);
    db[u] = 0;
    for (int n = 0; n < k.lanes; ++n) {
      db[u] += dy[n];
      for (int i = 0; i < k.inputs; ++i) dw[i] += dy[n] * rows[n * k.inputs + i];
    }
  }
}

// I inputs by V vectors of samples at a time, in blocks of units: those are rows of w, and what I inputs
// leave of a cache line is still there when it is its turn.
template <int width, int I_most, int V>
DSGD_INLINE inline void data_of(const DenseProducts& k, const float* w, const float* dy, float* dx) {
  constexpr int block = 64;
  const std::ptrdiff_t inputs = k.inputs, lanes = k.lanes;
  for (int begin = 0; begin < k.units; begin += block) {
    const int end = std::min(begin + block, k.units);
    in_parts<I_most>(k.inputs, [&](int first, auto I) DSGD_INLINE {
      for (std::ptrdiff_t n = 0; n < lanes; n += V * width) {
        float* const to = dx + first * lanes + n;
        FloatsOf<width> acc[I][V];
        for (int i = 0; i < I; ++i)
          for (int v = 0; v < V; ++v)
            acc[i][v] = begin == 0 ? FloatsOf<width>{} : load<width>(to + i * lanes + v * width);
#pragma GCC unroll 4
        for (std::ptrdiff_t u = begin; u < end; ++u) {
          const float* ws = w + u * inputs + first;
          if (n == 0) prefetch(ws + block * inputs);
          FloatsOf<width> ds[V];
          for (int v = 0; v < V; ++v) ds[v] = load<width>(dy + u * lanes + n + v * width);
          for (int i = 0; i < I; ++i) {
            const float a = ws[i];
            for (int v = 0; v < V; ++v) acc[i][v] += a * ds[v];
          }
        }
        for (int i = 0; i < I; ++i)
          for (int v = 0; v < V; ++v) store<width>(to + i * lanes + v * width, acc[i][v]);
      }
    });
  }
}

// By how many samples (or inputs) a kernel takes at a time: 16, some, and more.
constexpr int widths = 3;
struct Kernels {
  int samples[widths], inputs[widths - 1];
  void (*forward[widths])(const DenseProducts&, const float*, const float*, const float*, float*);
  void (*data[widths])(const DenseProducts&, const float*, const float*, float*);
  void (*weights[widths - 1])(const DenseProducts&, const float*, const float*, float*, float*);
};

// In vectors of `width` floats: A by 16 floats, B by V vectors, C by W; of the weights' gradient D by 16
// floats, E by X vectors.
#define DSGD_KERNELS(target, width, A, B, V, C, W, D, E, X)                                               \
  Kernels {                                                                                               \
    {vector_width, V * width, W * width}, {vector_width, X * width},                                      \
        {DSGD_COMPILED(target, forward_of<width, A, vector_width / width>),                               \
         DSGD_COMPILED(target, forward_of<width, B, V>), DSGD_COMPILED(target, forward_of<width, C, W>)}, \
        {DSGD_COMPILED(target, data_of<width, A, vector_width / width>),                                  \
         DSGD_COMPILED(target, data_of<width, B, V>), DSGD_COMPILED(target, data_of<width, C, W>)},       \
        {DSGD_COMPILED(target, weights_of<width, D, vector_width / width>),                               \
         DSGD_COMPILED(target, weights_of<width, E, X>)},                                                 \
  }

const Kernels& kernels() {
  static const Kernels best = [] {
    if (has_avx512()) return DSGD_KERNELS(DSGD_AVX512, 16, 12, 12, 2, 6, 4, 12, 8, 3);
    if (has_avx2()) return DSGD_KERNELS(DSGD_AVX2, 8, 6, 6, 2, 6, 2, 6, 6, 2);
    return DSGD_KERNELS(, 4, 2, 2, 4, 2, 4, 2, 2, 4);
  }();
  return best;
}

// The widest that fits.
int of_samples(int lanes) {
  int width = widths - 1;
  while (lanes % kernels().samples[width]) --width;
  return width;
}

}  // namespace

bool DenseProducts::faster() const { return has_avx2() && inputs >= vector_width; }

void DenseProducts::forward(const float* x, const float* w, const float* b, float* y) const {
  kernels().forward[of_samples(lanes)](*this, x, w, b, y);
}
void DenseProducts::weights(const float* rows, const float* dy, float* dw, float* db) const {
  if (inputs < vector_width) return weights_of_few(*this, rows, dy, dw, db);
  kernels().weights[inputs >= kernels().inputs[1]](*this, rows, dy, dw, db);
}
void DenseProducts::data(const float* w, const float* dy, float* dx) const {
  kernels().data[of_samples(lanes)](*this, w, dy, dx);
}

}  // namespace dsgd
