// SPDX-License-Identifier: Apache-2.0
#include "kernels/winograd.h"

#include <algorithm>
#include <cmath>

#include "kernels/chwn_vectors.h"

namespace dsgd {
namespace {

// A tile of 4x4 outputs Y comes from 6x6 inputs D and the kernel W by
//   Y = A' [sum over channels of (G W G') * (B' D B)] A
// with elementwise products; the weights' gradient is its transpose, W = G' [sum over tiles and samples of
// (B' D B) * (A Y A')] G. The matrices evaluate and interpolate polynomials at 0, ±p, ±q and infinity. These
// points halve the rounding error of the usual 0, ±1, ±2, and their squares are exact.
constexpr float p = 0.625f, q = 1.5f, pp = p * p, qq = q * q;
constexpr int outputs = 4, inputs = 6, places = inputs * inputs;
constexpr float at_0 = 1 / (pp * qq), at_p = 1 / (2 * pp * (pp - qq)), at_q = 1 / (2 * qq * (qq - pp));

// B' d
constexpr auto of_inputs = [](const Floats (&d)[6], Floats (&v)[6]) DSGD_INLINE {
  const Floats even_p = d[4] - qq * d[2], odd_p = d[3] - qq * d[1];
  const Floats even_q = d[4] - pp * d[2], odd_q = d[3] - pp * d[1];
  v[0] = d[4] - (pp + qq) * d[2] + pp * qq * d[0];
  v[1] = even_p + p * odd_p;
  v[2] = even_p - p * odd_p;
  v[3] = even_q + q * odd_q;
  v[4] = even_q - q * odd_q;
  v[5] = d[5] - (pp + qq) * d[3] + pp * qq * d[1];
};
// G w
constexpr auto of_kernel = [](const Floats (&w)[3], Floats (&u)[6]) DSGD_INLINE {
  const Floats even_p = at_p * w[0] + at_p * pp * w[2], even_q = at_q * w[0] + at_q * qq * w[2];
  u[0] = at_0 * w[0];
  u[1] = even_p + at_p * p * w[1];
  u[2] = even_p - at_p * p * w[1];
  u[3] = even_q + at_q * q * w[1];
  u[4] = even_q - at_q * q * w[1];
  u[5] = w[2];
};
// G' s
constexpr auto to_kernel = [](const Floats (&s)[6], Floats (&w)[3]) DSGD_INLINE {
  const Floats sum_p = at_p * (s[1] + s[2]), sum_q = at_q * (s[3] + s[4]);
  w[0] = at_0 * s[0] + sum_p + sum_q;
  w[1] = at_p * p * (s[1] - s[2]) + at_q * q * (s[3] - s[4]);
  w[2] = pp * sum_p + qq * sum_q + s[5];
};
// A' m
constexpr auto to_outputs = [](const Floats (&m)[6], Floats (&y)[4]) DSGD_INLINE {
  const Floats sum_p = m[1] + m[2], odd_p = p * (m[1] - m[2]);
  const Floats sum_q = m[3] + m[4], odd_q = q * (m[3] - m[4]);
  y[0] = m[0] + sum_p + sum_q;
  y[1] = odd_p + odd_q;
  y[2] = pp * sum_p + qq * sum_q;
  y[3] = pp * odd_p + qq * odd_q + m[5];
};
// A y
constexpr auto of_outputs = [](const Floats (&y)[4], Floats (&d)[6]) DSGD_INLINE {
  const Floats even_p = y[0] + pp * y[2], odd_p = y[1] + pp * y[3];
  const Floats even_q = y[0] + qq * y[2], odd_q = y[1] + qq * y[3];
  d[0] = y[0];
  d[1] = even_p + p * odd_p;
  d[2] = even_p - p * odd_p;
  d[3] = even_q + q * odd_q;
  d[4] = even_q - q * odd_q;
  d[5] = y[3];
};

// One of these for the columns, then for the rows of a matrix: load(i, j) -> store(i, j, value).
template <int from, int to, class Transform, class Load, class Store>
DSGD_INLINE inline void both_ways(Transform transform, Load load_at, Store store_at) {
  Floats half[to][from];
#pragma GCC unroll 6
  for (int j = 0; j < from; ++j) {
    Floats in[from], out[to];
#pragma GCC unroll 6
    for (int i = 0; i < from; ++i) in[i] = load_at(i, j);
    transform(in, out);
#pragma GCC unroll 6
    for (int i = 0; i < to; ++i) half[i][j] = out[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < to; ++i) {
    Floats out[to];
    transform(half[i], out);
#pragma GCC unroll 6
    for (int j = 0; j < to; ++j) store_at(i, j, out[j]);
  }
}

// What is transformed lies in one matrix for each of the 36 places. All of it is worked on in blocks of so
// many tiles of 16 samples that a layer of 64 channels stays in a second-level cache of 2 MB.
constexpr int block = 4, block_floats = block * vector_width;
int padded(int n) { return (n + vector_width - 1) / vector_width * vector_width; }
// From one place's matrix to the next's. Not a power of two: they would fall on each other in the cache.
std::ptrdiff_t place_floats(int rows, int columns) { return std::ptrdiff_t(rows) * columns + vector_width; }

struct Tile {
  std::ptrdiff_t first;  // float of the first output in its plane
  int row, column;       // of the first output
};
struct Tiles {
  explicit Tiles(const WinogradConv& k)
      : height(k.height),
        width(k.width),
        lanes(k.lanes),
        plane(std::ptrdiff_t(height) * width * lanes),
        columns((width + outputs - 1) / outputs),
        count((height + outputs - 1) / outputs * columns * (lanes / vector_width)) {}
  Tile operator[](int i) const {
    const int groups = lanes / vector_width, tile = i / groups;
    const int row = tile / columns * outputs, column = tile % columns * outputs;
    return {(std::ptrdiff_t(row) * width + column) * lanes + i % groups * vector_width, row, column};
  }
  int height, width, lanes;
  std::ptrdiff_t plane;
  int columns, count;
};

// Inputs of tiles [first, first + count) -> v {place, channel, tile, sample}
DSGD_INLINE inline void transform_inputs(const Tiles& tiles, int channels, int first, int count,
                                         const float* x, float* v) {
  struct Source {
    std::ptrdiff_t first;
    int i_begin, i_end, j_begin, j_end;  // what lies in the image
    bool whole;
  } sources[block];
  Floats edges[block][places] = {};
  for (int t = 0; t < count; ++t) {
    const Tile tile = tiles[first + t];
    Source& s = sources[t];
    s.first = tile.first - (std::ptrdiff_t(tiles.width) + 1) * tiles.lanes;
    s.i_begin = tile.row == 0;
    s.j_begin = tile.column == 0;
    s.i_end = std::min(inputs, tiles.height + 1 - tile.row);
    s.j_end = std::min(inputs, tiles.width + 1 - tile.column);
    s.whole = !s.i_begin && !s.j_begin && s.i_end == inputs && s.j_end == inputs;
  }
  const std::ptrdiff_t place = place_floats(channels, block_floats);
  for (int c = 0; c < channels; ++c) {
    for (int t = 0; t < count; ++t) {
      const Source& s = sources[t];
      const float* from = x + c * tiles.plane + s.first;
      std::ptrdiff_t row = std::ptrdiff_t(tiles.width) * tiles.lanes, column = tiles.lanes;
      if (!s.whole) {
        Floats* const edge = edges[t];
        for (int i = s.i_begin; i < s.i_end; ++i)
          for (int j = s.j_begin; j < s.j_end; ++j) edge[i * inputs + j] = load(from + i * row + j * column);
        from = reinterpret_cast<const float*>(edge);
        row = inputs * vector_width;
        column = vector_width;
      }
      float* const to = v + (std::ptrdiff_t(c) * block + t) * vector_width;
      both_ways<6, 6>(
          of_inputs, [&](int i, int j) DSGD_INLINE { return load(from + i * row + j * column); },
          [&](int i, int j, Floats value) DSGD_INLINE { store(to + (i * inputs + j) * place, value); });
    }
  }
}

// m {place, filter, tile, sample} -> outputs of the tiles
DSGD_INLINE inline void transform_back(const Tiles& tiles, int filters, int first, int count, const float* m,
                                       const float* b, bool relu, float* y) {
  const std::ptrdiff_t place = place_floats(filters, block_floats),
                       row = std::ptrdiff_t(tiles.width) * tiles.lanes;
  Tile tile[block];
  for (int t = 0; t < count; ++t) tile[t] = tiles[first + t];
  for (int f = 0; f < filters; ++f) {
    const Floats bias = Floats{} + (b ? b[f] : 0), least = Floats{} - (relu ? 0 : INFINITY);
    for (int t = 0; t < count; ++t) {
      const float* const from = m + (std::ptrdiff_t(f) * block + t) * vector_width;
      float* const to = y + f * tiles.plane + tile[t].first;
      const int rows = tiles.height - tile[t].row, columns = tiles.width - tile[t].column;
      both_ways<6, 4>(
          to_outputs, [&](int i, int j) DSGD_INLINE { return load(from + (i * inputs + j) * place); },
          [&](int i, int j, Floats value) DSGD_INLINE {
            value += bias;
            value = value <= least ? least : value;  // what is not a number gets on
            if (i < rows && j < columns) store(to + i * row + std::ptrdiff_t(j) * tiles.lanes, value);
          });
    }
  }
}

// A step of `transpose`: exchanges blocks of size x size floats on either side of the diagonal.
template <int size, int count, int... lane>
DSGD_INLINE inline void exchange(Floats (&rows)[count], std::integer_sequence<int, lane...>) {
#pragma GCC unroll 16
  for (int r = 0; r < count; ++r) {
    if (r & size) continue;
    const Floats upper = rows[r], lower = rows[r + size];
    rows[r] = __builtin_shufflevector(upper, lower, (lane & size ? 16 + lane - size : lane)...);
    rows[r + size] = __builtin_shufflevector(upper, lower, (lane & size ? 16 + lane : lane + size)...);
  }
}
// rows[r][lane] <-> rows[lane][r] of 16 rows; of 8 rows in each half of the lanes.
template <int count>
DSGD_INLINE inline void transpose(Floats (&rows)[count]) {
  constexpr std::make_integer_sequence<int, vector_width> lanes;
  if constexpr (count == 16) exchange<8>(rows, lanes);
  exchange<4>(rows, lanes);
  exchange<2>(rows, lanes);
  exchange<1>(rows, lanes);
}

// w -> u {place, channel, filter}; `turned`: of the convolution that takes dy to dx.
DSGD_INLINE inline void transform_kernels(const WinogradConv& k, bool turned, const float* w, float* u) {
  typedef float Eight __attribute__((vector_size(32), may_alias, aligned(4)));
  const int padded_filters = padded(k.filters);
  const std::ptrdiff_t place = place_floats(k.channels, padded_filters);
  const std::ptrdiff_t of_filter = turned ? 9 : 9 * k.channels, of_channel = turned ? 9 * k.filters : 9;
  for (int c = 0; c < k.channels; ++c) {
    for (int f = 0; f < k.filters; f += vector_width) {
      const auto kernel = [&](int lane) DSGD_INLINE {
        return w + c * of_channel + std::min(f + lane, k.filters - 1) * of_filter;
      };
      Floats taps[8], last;
      for (int r = 0; r < 8; ++r) {
        const float *const one = kernel(r), *const other = kernel(r + 8);
        taps[r] = __builtin_shufflevector(*reinterpret_cast<const Eight*>(one),
                                          *reinterpret_cast<const Eight*>(other), 0, 1, 2, 3, 4, 5, 6, 7, 8,
                                          9, 10, 11, 12, 13, 14, 15);
        last[r] = one[8];
        last[r + 8] = other[8];
      }
      transpose(taps);
      float* const to = u + std::ptrdiff_t(c) * padded_filters + f;
      both_ways<3, 6>(
          of_kernel,
          [&](int i, int j) DSGD_INLINE {
            const int tap = turned ? 8 - i * 3 - j : i * 3 + j;
            return tap < 8 ? taps[tap] : last;
          },
          [&](int i, int j, Floats value) DSGD_INLINE { store(to + (i * inputs + j) * place, value); });
    }
  }
}

// c[row][n] = (add ? c : 0) + sum over depth of a[row][k] * b[k][n] for so many rows and columns. Steps are
// distances in floats; rows of a are a_row apart. By V vectors of `width` floats.
template <int width, int R_most, int V, int a_row>
DSGD_INLINE inline void multiply(int rows, int depth, int columns, const float* a, std::ptrdiff_t a_step,
                                 const float* b, std::ptrdiff_t b_step, float* c, std::ptrdiff_t c_row,
                                 bool add) {
  using Native = FloatsOf<width>;
  in_parts<R_most>(rows, [&](int first, auto R) DSGD_INLINE {
    for (int column = 0; column < columns; column += V * width) {
      Native acc[R][V];
      for (int r = 0; r < R; ++r)
        for (int n = 0; n < V; ++n) acc[r][n] = Native{};
      const float* as = a + first * a_row;
      const float* bs = b + column;
      for (int k = 0; k < depth; ++k, as += a_step, bs += b_step) {
        Native value[V];
        for (int n = 0; n < V; ++n) value[n] = load<width>(bs + n * width);
        for (int r = 0; r < R; ++r) {
          const float factor = as[r * a_row];
          for (int n = 0; n < V; ++n) acc[r][n] += factor * value[n];
        }
      }
      for (int r = 0; r < R; ++r) {
        float* const to = c + (first + r) * c_row + column;
        for (int n = 0; n < V; ++n)
          store<width>(to + n * width, add ? load<width>(to + n * width) + acc[r][n] : acc[r][n]);
      }
    }
  });
}

// Parts of the scratch memory of one convolution, in floats.
std::size_t kernels_size(const WinogradConv& k) {
  return places * place_floats(k.channels, padded(k.filters));
}
std::size_t block_size(int planes) { return places * place_floats(planes, block_floats); }
std::size_t turned_block_size(int planes) { return places * place_floats(block_floats, padded(planes)); }

template <int width, int R_most, int V>
DSGD_INLINE inline void convolve(const WinogradConv& k, bool turned, const float* x, const float* w,
                                 const float* b, float* y, float* scratch) {
  static_assert(block_floats % (V * width) == 0);
  const Tiles tiles(k);
  float *const u = scratch, *const v = u + kernels_size(k), *const m = v + block_size(k.channels);
  const int padded_filters = padded(k.filters);
  transform_kernels(k, turned, w, u);
  for (int first = 0; first < tiles.count; first += block) {
    const int count = std::min(block, tiles.count - first);
    transform_inputs(tiles, k.channels, first, count, x, v);
    for (int place = 0; place < places; ++place) {
      multiply<width, R_most, V, 1>(k.filters, k.channels, count * vector_width,
                                    u + place * place_floats(k.channels, padded_filters), padded_filters,
                                    v + place * place_floats(k.channels, block_floats), block_floats,
                                    m + place * place_floats(k.filters, block_floats), block_floats, false);
    }
    transform_back(tiles, k.filters, first, count, m, b, k.relu, y);
  }
}

// dy of the tiles -> d {place, tile, sample, filter}; adds to the sums over each filter.
DSGD_INLINE inline void transform_gradients(const Tiles& tiles, int filters, int first, int count,
                                            const float* dy, float* d, Floats* sums) {
  const int padded_filters = padded(filters);
  const std::ptrdiff_t place = place_floats(block_floats, padded_filters);
  for (int f = 0; f < filters; f += vector_width, ++sums) {
    for (int t = 0; t < count; ++t) {
      const Tile tile = tiles[first + t];
      Floats pixels[outputs * outputs][vector_width], total = {};
      for (int i = 0; i < outputs; ++i) {
        for (int j = 0; j < outputs; ++j) {
          Floats rows[vector_width] = {};
          if (i < tiles.height - tile.row && j < tiles.width - tile.column) {
            const float* from =
                dy + f * tiles.plane + tile.first + (std::ptrdiff_t(i) * tiles.width + j) * tiles.lanes;
            const int used = std::min(vector_width, filters - f);
            for (int r = 0; r < used; ++r) rows[r] = load(from + r * tiles.plane);
            transpose(rows);
          }
          for (int n = 0; n < vector_width; ++n) pixels[i * outputs + j][n] = rows[n];
        }
      }
      for (int n = 0; n < vector_width; ++n) {
        float* const to = d + std::ptrdiff_t(t * vector_width + n) * padded_filters + f;
        Floats sum = {};
        both_ways<4, 6>(
            of_outputs,
            [&](int i, int j) DSGD_INLINE {
              sum += pixels[i * outputs + j][n];
              return pixels[i * outputs + j][n];
            },
            [&](int i, int j, Floats value) DSGD_INLINE { store(to + (i * inputs + j) * place, value); });
        total += sum;
      }
      *sums += total;
    }
  }
}

template <int width, int R_most, int V, int R_most_1>
DSGD_INLINE inline void weights_of(const WinogradConv& k, const float* x, const float* dy, float* dw,
                                   float* db, float* scratch) {
  const Tiles tiles(k);
  const int padded_filters = padded(k.filters);
  float *const s = scratch, *const v = s + kernels_size(k), *const d = v + block_size(k.channels);
  Floats* const sums = reinterpret_cast<Floats*>(d + turned_block_size(k.filters));
  std::fill_n(sums, padded_filters / vector_width, Floats{});
  const std::ptrdiff_t s_place = place_floats(k.channels, padded_filters),
                       v_place = place_floats(k.channels, block_floats),
                       d_place = place_floats(block_floats, padded_filters);
  for (int first = 0; first < tiles.count; first += block) {
    const int count = std::min(block, tiles.count - first);
    transform_inputs(tiles, k.channels, first, count, x, v);
    transform_gradients(tiles, k.filters, first, count, dy, d, sums);
    for (int place = 0; place < places; ++place) {
      const float *const a = v + place * v_place, *const b = d + place * d_place;
      float* const c = s + place * s_place;
      if (padded_filters % (V * width) == 0) {
        multiply<width, R_most, V, block_floats>(k.channels, count * vector_width, padded_filters, a, 1, b,
                                                 padded_filters, c, padded_filters, first > 0);
      } else {
        multiply<width, R_most_1, vector_width / width, block_floats>(k.channels, count * vector_width,
                                                                      padded_filters, a, 1, b, padded_filters,
                                                                      c, padded_filters, first > 0);
      }
    }
  }
  for (int f = 0; f < k.filters; f += vector_width) {
    const int used = std::min(vector_width, k.filters - f);
    for (int c = 0; c < k.channels; ++c) {
      const float* const from = s + std::ptrdiff_t(c) * padded_filters + f;
      Floats taps[9];
      both_ways<6, 3>(
          to_kernel, [&](int i, int j) DSGD_INLINE { return load(from + (i * inputs + j) * s_place); },
          [&](int i, int j, Floats value) DSGD_INLINE { taps[i * 3 + j] = value; });
      for (int lane = 0; lane < used; ++lane)
        for (int tap = 0; tap < 9; ++tap)
          dw[(std::ptrdiff_t(f + lane) * k.channels + c) * 9 + tap] = taps[tap][lane];
    }
    if (db)
      for (int lane = 0; lane < used; ++lane) db[f + lane] = sums[f / vector_width][lane];
  }
}

struct Kernels {
  void (*convolve)(const WinogradConv&, bool, const float*, const float*, const float*, float*, float*);
  void (*weights)(const WinogradConv&, const float*, const float*, float*, float*, float*);
};

// R rows by V vectors of so many floats, or R1 rows by 16 floats.
#define DSGD_KERNELS(target, width, R, V, R1) \
  Kernels { DSGD_COMPILED(target, convolve<width, R, V>), DSGD_COMPILED(target, weights_of<width, R, V, R1>) }

const Kernels& kernels() {
  static const Kernels best = [] {
    if (has_avx512()) return DSGD_KERNELS(DSGD_AVX512, 16, 12, 2, 16);
    if (has_avx2()) return DSGD_KERNELS(DSGD_AVX2, 8, 6, 2, 6);
    return DSGD_KERNELS(, 4, 2, 4, 2);
  }();
  return best;
}

}  // namespace

bool WinogradConv::faster() const {
  const Tiles tiles(*this);
  const int covered = tiles.count / (lanes / vector_width) * outputs * outputs;
  return channels >= 8 && filters >= 8 && covered <= 2 * height * width;
}
std::size_t WinogradConv::scratch() const {
  // Of `data`, whose filters are the channels, kernels may be padded to more.
  const WinogradConv turned{filters, height, width, channels, lanes};
  return std::max(kernels_size(*this), kernels_size(turned)) + block_size(channels) + block_size(filters) +
         turned_block_size(filters) + padded(filters);
}
void WinogradConv::forward(const float* x, const float* w, const float* b, float* y, float* scratch) const {
  kernels().convolve(*this, false, x, w, b, y, scratch);
}
void WinogradConv::weights(const float* x, const float* dy, float* dw, float* db, float* scratch) const {
  kernels().weights(*this, x, dy, dw, db, scratch);
}
void WinogradConv::data(const float* w, const float* dy, float* dx, float* scratch) const {
  kernels().convolve({filters, height, width, channels, lanes}, true, dy, w, nullptr, dx, scratch);
}

}  // namespace dsgd
