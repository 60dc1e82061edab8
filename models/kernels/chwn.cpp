// SPDX-License-Identifier: Apache-2.0
#include "kernels/chwn.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/chwn_vectors.h"

namespace dsgd {

Instructions instructions() {
  static const Instructions widest = [] {
    const auto allowed = [] {
      const char* limit = std::getenv("DSGD_INSTRUCTIONS");
      const std::string name = limit ? limit : "avx512";
      if (name == "avx512") return Instructions::avx512;
      if (name == "avx2") return Instructions::avx2;
      if (name == "generic") return Instructions::generic;
      throw std::invalid_argument("DSGD_INSTRUCTIONS is \"" + name + "\" (allowed: avx512, avx2, generic)");
    }();
    auto present = Instructions::generic;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) present = Instructions::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
      present = Instructions::avx512;
#endif
    return std::min(allowed, present);
  }();
  return widest;
}

namespace {

// Distances in floats.
struct Strides {
  explicit Strides(const ChwnConv& k)
      : row(std::ptrdiff_t(k.width + 2 * k.pad) * k.lanes),
        plane((k.height + 2 * k.pad) * row),
        out_row(std::ptrdiff_t(k.columns()) * k.lanes),
        out_plane(k.rows() * out_row) {}
  std::ptrdiff_t row, plane, out_row, out_plane;  // of the padded input and of the output before the max-pool
};

// acc[f][v] = b[f] + sum over the taps of w[f][tap] * x, one output pixel of F filters and V*width samples.
template <int width, int F, int V>
DSGD_INLINE inline void convolve(const ChwnConv& k, const Strides& s, const float* x, const float* w,
                                 const float* b, FloatsOf<width> (&acc)[F][V]) {
  for (int f = 0; f < F; ++f)
    for (int v = 0; v < V; ++v) acc[f][v] = FloatsOf<width>{} + b[f];
  const std::ptrdiff_t taps = k.taps();
  for (int c = 0; c < k.channels; ++c) {
    for (int i = 0; i < k.kernel; ++i) {
      const float* from = x + c * s.plane + i * s.row;
      for (int j = 0; j < k.kernel; ++j, ++w, from += k.lanes) {
        FloatsOf<width> xs[V];
        for (int v = 0; v < V; ++v) xs[v] = load<width>(from + v * width);
        for (int f = 0; f < F; ++f) {
          const float a = w[f * taps];
          for (int v = 0; v < V; ++v) acc[f][v] += a * xs[v];
        }
      }
    }
  }
}

template <int width, int F_most, int V>
DSGD_INLINE inline void forward_plain(const ChwnConv& k, const float* x, const float* w, const float* b,
                                      float* y) {
  const Strides s(k);
  in_parts<F_most>(k.filters, [&](int first, auto F) DSGD_INLINE {
    for (int r = 0; r < k.rows(); ++r) {
      for (int c = 0; c < k.columns(); ++c) {
        for (int n = 0; n < k.lanes; n += V * width) {
          FloatsOf<width> acc[F][V];
          convolve<width, F, V>(k, s, x + r * k.stride * s.row + std::ptrdiff_t(c) * k.stride * k.lanes + n,
                                w + first * k.taps(), b + first, acc);
          float* to = y + first * s.out_plane + r * s.out_row + std::ptrdiff_t(c) * k.lanes + n;
          for (int f = 0; f < F; ++f) {
            for (int v = 0; v < V; ++v) {
              // What is not a number gets on.
              if (k.relu) acc[f][v] = acc[f][v] <= 0.0f ? FloatsOf<width>{} : acc[f][v];
              store<width>(to + f * s.out_plane + v * width, acc[f][v]);
            }
          }
        }
      }
    }
  });
}

// One more value of a window: the first of equal ones stays; what is not a number gets on.
template <int width>
DSGD_INLINE inline void larger(FloatsOf<width> value, int place, FloatsOf<width>& best,
                               IntsOf<width>& winner) {
  const auto keep = value <= best;
  best = keep ? best : value;
  winner = keep ? winner : IntsOf<width>{} + place;
}

template <int width, int F_most, int V>
DSGD_INLINE inline void forward_pooled(const ChwnConv& k, const float* x, const float* w, const float* b,
                                       float* y, std::uint8_t* winners) {
  const Strides s(k);
  const int rows = k.rows() / k.pool, columns = k.columns() / k.pool;
  in_parts<F_most>(k.filters, [&](int first, auto F) DSGD_INLINE {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        for (int n = 0; n < k.lanes; n += V * width) {
          FloatsOf<width> best[F][V];
          IntsOf<width> winner[F][V];
          for (int f = 0; f < F; ++f) {
            for (int v = 0; v < V; ++v) {
              best[f][v] = FloatsOf<width>{} - (k.relu ? 0 : INFINITY);
              winner[f][v] = IntsOf<width>{} + ChwnConv::none;
            }
          }
          for (int place = 0; place < k.pool * k.pool; ++place) {
            const int i = (r * k.pool + place / k.pool) * k.stride,
                      j = (c * k.pool + place % k.pool) * k.stride;
            FloatsOf<width> acc[F][V];
            convolve<width, F, V>(k, s, x + i * s.row + std::ptrdiff_t(j) * k.lanes + n, w + first * k.taps(),
                                  b + first, acc);
            for (int f = 0; f < F; ++f)
              for (int v = 0; v < V; ++v) larger<width>(acc[f][v], place, best[f][v], winner[f][v]);
          }
          for (int f = 0; f < F; ++f) {
            const std::ptrdiff_t to = (std::ptrdiff_t(first + f) * rows + r) * columns + c;
            for (int v = 0; v < V; ++v) {
              store<width>(y + to * k.lanes + n + v * width, best[f][v]);
              store<width>(winners + to * k.lanes + n + v * width, winner[f][v]);
            }
          }
        }
      }
    }
  });
}

// Rows [first, last) of the pooled gradients of one filter go to the places of the winners; d: the first of
// their rows before the max-pool.
template <int width>
DSGD_INLINE inline void spread_rows(const ChwnConv& k, int first, int last, const float* dy,
                                    const std::uint8_t* winners, float* d) {
  const int columns = k.columns() / k.pool;
  const std::ptrdiff_t lanes = k.lanes, row = k.columns() * lanes;
  for (int r = first; r < last; ++r) {
    for (int c = 0; c < columns; ++c) {
      for (int n = 0; n < k.lanes; n += width) {
        const std::ptrdiff_t from = (std::ptrdiff_t(r) * columns + c) * lanes + n;
        const FloatsOf<width> value = load<width>(dy + from);
        const IntsOf<width> winner = load<width>(winners + from);
        float* to = d + (r - first) * k.pool * row + c * k.pool * lanes + n;
        for (int i = 0; i < k.pool; ++i)
          for (int j = 0; j < k.pool; ++j)
            store<width>(to + i * row + j * lanes, winner == i * k.pool + j ? value : FloatsOf<width>{});
      }
    }
  }
}

// `weights` works on O filters and some rows at a time, so that their gradients stay in the first-level
// cache.
constexpr int O_most = 8;
int band_rows(const ChwnConv& k) {
  constexpr int cache = 8192;  // floats
  const int fit = cache / (O_most * k.columns() * k.lanes) / k.pool * k.pool;
  return std::min(std::max(fit, k.pool), k.rows());
}
// Not a power of two: filters would fall on each other in the cache.
std::ptrdiff_t band_plane(const ChwnConv& k) {
  return std::ptrdiff_t(band_rows(k)) * k.columns() * k.lanes + vector_width;
}

// sums[o][j] += d[o] * x[j] over a band of rows, for the taps J of one kernel row; the last band writes dw.
template <int width, int O, int J>
DSGD_INLINE inline void correlate(const ChwnConv& k, const Strides& s, int rows, const float* x,
                                  const float* d, std::ptrdiff_t d_plane, bool begin, bool end,
                                  FloatsOf<width>* sums, float* dw) {
  FloatsOf<width> acc[O][J];
  for (int o = 0; o < O; ++o)
    for (int j = 0; j < J; ++j) acc[o][j] = begin ? FloatsOf<width>{} : sums[o * J + j];
  for (int r = 0; r < rows; ++r) {
    const float* xs = x + r * k.stride * s.row;
    const float* ds = d + r * s.out_row;
    for (int c = 0; c < k.columns(); ++c, xs += k.stride * k.lanes, ds += k.lanes) {
      for (int n = 0; n < k.lanes; n += width) {
        FloatsOf<width> value[J];
        for (int j = 0; j < J; ++j) value[j] = load<width>(xs + j * k.lanes + n);
        for (int o = 0; o < O; ++o) {
          const FloatsOf<width> a = load<width>(ds + o * d_plane + n);
          for (int j = 0; j < J; ++j) acc[o][j] += a * value[j];
        }
      }
    }
  }
  const std::ptrdiff_t taps = k.taps();
  for (int o = 0; o < O; ++o) {
    for (int j = 0; j < J; ++j) {
      if (end)
        dw[o * taps + j] = sum<width>(acc[o][j]);
      else
        sums[o * J + j] = acc[o][j];
    }
  }
}

template <int width, int O_part, int J_most>
DSGD_INLINE inline void weights_of(const ChwnConv& k, const float* x, const float* dy,
                                   const std::uint8_t* winners, float* dw, float* db, float* scratch) {
  const Strides s(k);
  const bool pooled = k.pool > 1;
  const std::ptrdiff_t taps = k.taps(),
                       dy_row = pooled ? std::ptrdiff_t(k.columns() / k.pool) * k.lanes : s.out_row,
                       dy_plane = pooled ? k.rows() / k.pool * dy_row : s.out_plane;
  const int used_rows = k.rows() / k.pool * k.pool, band = band_rows(k);
  FloatsOf<width>* const sums = reinterpret_cast<FloatsOf<width>*>(scratch);
  float* const d = scratch + taps * O_most * vector_width;
  const std::ptrdiff_t d_plane = band_plane(k);
  if (pooled) std::memset(d, 0, O_most * d_plane * sizeof(float));  // what lies in no window
  in_parts<O_part>(k.filters, [&](int first, auto O) DSGD_INLINE {
    FloatsOf<width> bias[O] = {};
    for (int r = 0; r < used_rows; r += band) {
      const int rows = std::min(band, used_rows - r);
      for (int o = 0; o < O; ++o) {
        float* const to = d + o * d_plane;
        const float* const from = dy + (first + o) * dy_plane;
        if (pooled)
          spread_rows<width>(k, r / k.pool, (r + rows) / k.pool, from, winners + (first + o) * dy_plane, to);
        else
          std::memcpy(to, from + r * s.out_row, rows * s.out_row * sizeof(float));
        for (std::ptrdiff_t e = 0; e < rows * s.out_row; e += width) bias[o] += load<width>(to + e);
      }
      const float* from = x + r * k.stride * s.row;
      std::ptrdiff_t tap = 0;
      for (int c = 0; c < k.channels; ++c) {
        for (int i = 0; i < k.kernel; ++i, tap += k.kernel) {
          in_parts<J_most>(k.kernel, [&](int j, auto J) DSGD_INLINE {
            correlate<width, O, J>(k, s, rows, from + c * s.plane + i * s.row + std::ptrdiff_t(j) * k.lanes,
                                   d, d_plane, r == 0, r + rows == used_rows, sums + (tap + j) * O,
                                   dw + first * taps + tap + j);
          });
        }
      }
    }
    for (int o = 0; o < O; ++o) db[first + o] = sum<width>(bias[o]);
  });
}

template <int width, int C_most, int V>
DSGD_INLINE inline void data_of(const ChwnConv& k, const float* w, const float* d, float* dx) {
  const Strides s(k);
  const std::ptrdiff_t plane = std::ptrdiff_t(k.height) * k.width * k.lanes;
  in_parts<C_most>(k.channels, [&](int first, auto C) DSGD_INLINE {
    for (int h = 0; h < k.height; ++h) {
      for (int l = 0; l < k.width; ++l) {
        for (int n = 0; n < k.lanes; n += V * width) {
          FloatsOf<width> acc[C][V];
          for (auto& a : acc)
            for (auto& v : a) v = FloatsOf<width>{};
          // The outputs (r, q) that this pixel has gone into by tap (i, j).
          for (int i = (h + k.pad) % k.stride; i < k.kernel; i += k.stride) {
            const int r = (h + k.pad - i) / k.stride;
            if (i > h + k.pad || r >= k.rows()) continue;
            for (int j = (l + k.pad) % k.stride; j < k.kernel; j += k.stride) {
              const int q = (l + k.pad - j) / k.stride;
              if (j > l + k.pad || q >= k.columns()) continue;
              const float* ds = d + r * s.out_row + std::ptrdiff_t(q) * k.lanes + n;
              const float* ws = w + std::ptrdiff_t(i * k.kernel + j) * k.filters * k.channels + first;
              for (int o = 0; o < k.filters; ++o, ds += s.out_plane, ws += k.channels) {
                FloatsOf<width> value[V];
                for (int v = 0; v < V; ++v) value[v] = load<width>(ds + v * width);
                for (int c = 0; c < C; ++c) {
                  const float a = ws[c];
                  for (int v = 0; v < V; ++v) acc[c][v] += a * value[v];
                }
              }
            }
          }
          float* to = dx + first * plane + (std::ptrdiff_t(h) * k.width + l) * k.lanes + n;
          for (int c = 0; c < C; ++c)
            for (int v = 0; v < V; ++v) store<width>(to + c * plane + v * width, acc[c][v]);
        }
      }
    }
  });
}

// begin(output) -> state, then each(state, place in the window, input) for what lies in it, then end(state,
// output), for `width` samples of every output.
template <int width, class Begin, class Each, class End>
DSGD_INLINE inline void windows(const ChwnPool& k, Begin begin, Each each, End end) {
  const std::ptrdiff_t lanes = k.lanes;
  for (int c = 0; c < k.channels; ++c) {
    for (int r = 0; r < k.rows; ++r) {
      for (int q = 0; q < k.columns; ++q) {
        const int i_end = std::min(k.size, k.height - r * k.stride),
                  j_end = std::min(k.size, k.width - q * k.stride);
        const std::ptrdiff_t out = ((std::ptrdiff_t(c) * k.rows + r) * k.columns + q) * lanes;
        const std::ptrdiff_t in =
            ((std::ptrdiff_t(c) * k.height + r * k.stride) * k.width + q * k.stride) * lanes;
        for (int n = 0; n < k.lanes; n += width) {
          auto state = begin(out + n, i_end * j_end);
          for (int i = 0; i < i_end; ++i)
            for (int j = 0; j < j_end; ++j)
              each(state, i * k.size + j, in + (std::ptrdiff_t(i) * k.width + j) * lanes + n);
          end(state, out + n);
        }
      }
    }
  }
}
template <int width>
DSGD_INLINE inline void max_forward_of(const ChwnPool& k, const float* x, float* y,
                                       ChwnPool::Place* winners) {
  struct Best {
    FloatsOf<width> value;
    IntsOf<width> winner;
  };
  windows<width>(
      k,
      [](std::ptrdiff_t, int) DSGD_INLINE {
        return Best{FloatsOf<width>{} - INFINITY, IntsOf<width>{}};
      },
      [&](Best& b, int place, std::ptrdiff_t at)
          DSGD_INLINE { larger<width>(load<width>(x + at), place, b.value, b.winner); },
      [&](Best& b, std::ptrdiff_t to) DSGD_INLINE {
        store<width>(y + to, b.value);
        store<width>(winners + to, b.winner);
      });
}
template <int width>
DSGD_INLINE inline void max_backward_of(const ChwnPool& k, const float* dy, const ChwnPool::Place* winners,
                                        float* dx) {
  std::memset(dx, 0, std::size_t(k.channels) * k.height * k.width * k.lanes * sizeof(float));
  struct Won {
    FloatsOf<width> d;
    IntsOf<width> winner;
  };
  windows<width>(
      k,
      [&](std::ptrdiff_t from, int) DSGD_INLINE {
        return Won{load<width>(dy + from), load<width>(winners + from)};
      },
      [&](const Won& won, int place, std::ptrdiff_t at) DSGD_INLINE {
        store<width>(dx + at, load<width>(dx + at) + (won.winner == place ? won.d : FloatsOf<width>{}));
      },
      [](const Won&, std::ptrdiff_t) DSGD_INLINE {});
}
template <int width>
DSGD_INLINE inline void mean_forward_of(const ChwnPool& k, const float* x, float* y) {
  struct Sum {
    FloatsOf<width> total;
    float share;
  };
  windows<width>(
      k,
      [](std::ptrdiff_t, int count) DSGD_INLINE {
        return Sum{FloatsOf<width>{}, 1 / float(count)};
      },
      [&](Sum& s, int, std::ptrdiff_t at) DSGD_INLINE { s.total += load<width>(x + at); },
      [&](const Sum& s, std::ptrdiff_t to) DSGD_INLINE { store<width>(y + to, s.share * s.total); });
}
template <int width>
DSGD_INLINE inline void mean_backward_of(const ChwnPool& k, const float* dy, float* dx) {
  std::memset(dx, 0, std::size_t(k.channels) * k.height * k.width * k.lanes * sizeof(float));
  windows<width>(
      k,
      [&](std::ptrdiff_t from, int count)
          DSGD_INLINE { return FloatsOf<width>(load<width>(dy + from) * (1 / float(count))); },
      [&](const FloatsOf<width>& d, int, std::ptrdiff_t at)
          DSGD_INLINE { store<width>(dx + at, load<width>(dx + at) + d); },
      [](const FloatsOf<width>&, std::ptrdiff_t) DSGD_INLINE {});
}

template <int width, int F_most, int V>
DSGD_INLINE inline void forward_of(const ChwnConv& k, const float* x, const float* w, const float* b,
                                   float* y, std::uint8_t* winners) {
  if (k.pool > 1)
    forward_pooled<width, F_most, V>(k, x, w, b, y, winners);
  else
    forward_plain<width, F_most, V>(k, x, w, b, y);
}

template <int width>
DSGD_INLINE inline void spread_of(const ChwnConv& k, const float* dy, const std::uint8_t* winners, float* d) {
  const int rows = k.rows() / k.pool, columns = k.columns() / k.pool;
  for (int f = 0; f < k.filters; ++f) {
    const std::ptrdiff_t from = std::ptrdiff_t(f) * rows * columns * k.lanes;
    spread_rows<width>(k, 0, rows, dy + from, winners + from,
                       d + std::ptrdiff_t(f) * k.rows() * k.columns() * k.lanes);
  }
}

// v where a lane holds one of n samples, else 0. `whole`: all of them do.
template <bool whole>
DSGD_INLINE inline Floats of_samples(Floats v, int n) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return whole ? v : lane < n ? v : Floats{};
}

// Sums of two numbers over the pixels of a channel and its first n samples: each(a, b, element, samples from
// there on) adds a vector's. In single precision only within a few rows.
template <class Each>
DSGD_INLINE inline std::pair<double, double> two_sums(const ChwnNorm& k, int n, Each each) {
  constexpr int ways = 4, block = 32;  // sums that do not wait for each other; pixels
  std::pair<double, double> total{0, 0};
  for (int first = 0; first < k.pixels; first += block) {
    const int last = std::min(first + block, k.pixels);
    Floats a[ways] = {}, b[ways] = {};
    int p = first;
    for (; p + ways <= last; p += ways)
      for (int v = 0; v < n; v += vector_width)
        for (int i = 0; i < ways; ++i) each(a[i], b[i], std::ptrdiff_t(p + i) * k.lanes + v, n - v);
    for (; p < last; ++p)
      for (int v = 0; v < n; v += vector_width) each(a[0], b[0], std::ptrdiff_t(p) * k.lanes + v, n - v);
    for (int i = 0; i < ways; ++i) {
      for (int j = 0; j < vector_width; ++j) {
        total.first += a[i][j];
        total.second += b[i][j];
      }
    }
  }
  return total;
}

// y = (x - mean) * slope + shift
struct Line {
  Line(const ChwnNorm& k, const ChwnNorm::Channels& of, int c)
      : mean(float(of.mean[c])),
        inverse(1 / std::sqrt(of.variance[c] + k.epsilon)),
        slope(float(of.scale[c] * inverse)),
        shift(of.shift[c]) {}
  float mean;
  double inverse;  // of the standard deviation
  float slope, shift;
};

template <bool whole>
DSGD_INLINE inline void norm_forward_of(const ChwnNorm& k, const float* x, int n, bool given,
                                        const ChwnNorm::Channels& of, const float* added, float* y) {
  const std::ptrdiff_t plane = std::ptrdiff_t(k.pixels) * k.lanes;
  for (int c = 0; c < k.channels; ++c, x += plane, y += plane) {
    if (!given) {
      const float near = x[0];  // close to the mean, so that squares do not swallow the variance
      const auto [sum, squares] =
          two_sums(k, n, [&](Floats& a, Floats& b, std::ptrdiff_t at, int samples) DSGD_INLINE {
            const Floats d = of_samples<whole>(load(x + at) - near, samples);
            a += d;
            b += d * d;
          });
      const double count = double(k.pixels) * n, off = sum / count, variance = squares / count - off * off;
      of.mean[c] = near + off;
      of.variance[c] = variance < 0 ? 0 : variance;
    }
    const Line line(k, of, c);
    for (std::ptrdiff_t e = 0; e < plane; e += vector_width) {
      Floats value = (load(x + e) - line.mean) * line.slope + line.shift;
      if (added) value += load(added + c * plane + e);
      store(y + e, k.relu ? (value <= 0.0f ? Floats{} : value) : value);
    }
  }
}

template <bool whole>
DSGD_INLINE inline void norm_backward_of(const ChwnNorm& k, const float* x, const float* dy, int n,
                                         const ChwnNorm::Channels& of, float* dx, float* dscale,
                                         float* dshift) {
  const std::ptrdiff_t plane = std::ptrdiff_t(k.pixels) * k.lanes;
  const double count = double(k.pixels) * n;
  for (int c = 0; c < k.channels; ++c, x += plane, dy += plane, dx += plane) {
    const Line line(k, of, c);
    const auto through = [&](Floats off, Floats d) DSGD_INLINE {  // ReLU
      return k.relu ? (off * line.slope + line.shift <= 0.0f ? Floats{} : d) : d;
    };
    const auto [sum, along] =
        two_sums(k, n, [&](Floats& a, Floats& b, std::ptrdiff_t at, int samples) DSGD_INLINE {
          const Floats off = load(x + at) - line.mean, d = through(off, load(dy + at));
          const Floats own = of_samples<whole>(d, samples);
          a += own;
          b += own * off;
        });
    dshift[c] = float(sum);
    dscale[c] = float(along * line.inverse);
    const float mean = float(sum / count), tilt = float(along * line.inverse * line.inverse / count);
    for (int p = 0; p < k.pixels; ++p) {
      for (int v = 0; v < k.lanes; v += vector_width) {
        const std::ptrdiff_t at = std::ptrdiff_t(p) * k.lanes + v;
        const Floats off = load(x + at) - line.mean, d = through(off, load(dy + at));
        const Floats own = line.slope * (d - mean - off * tilt);
        store(dx + at, of_samples<whole>(own, n - v));
      }
    }
  }
}

DSGD_INLINE inline void norm_forward(const ChwnNorm& k, const float* x, int n, bool given,
                                     const ChwnNorm::Channels& of, const float* added, float* y) {
  n == k.lanes ? norm_forward_of<true>(k, x, n, given, of, added, y)
               : norm_forward_of<false>(k, x, n, given, of, added, y);
}
DSGD_INLINE inline void norm_backward(const ChwnNorm& k, const float* x, const float* dy, int n,
                                      const ChwnNorm::Channels& of, float* dx, float* dscale, float* dshift) {
  n == k.lanes ? norm_backward_of<true>(k, x, dy, n, of, dx, dscale, dshift)
               : norm_backward_of<false>(k, x, dy, n, of, dx, dscale, dshift);
}

// f(output, pixel of the earlier image or -1) for 16 samples of every output.
template <class F>
DSGD_INLINE inline void each_sum(const ChwnShortcut& k, F f) {
  std::ptrdiff_t out = 0;
  for (int c = 0; c < k.to.channels; ++c) {
    for (int r = 0; r < k.to.height; ++r) {
      for (int q = 0; q < k.to.width; ++q) {
        const std::ptrdiff_t from =
            ((std::ptrdiff_t(c) * k.from.height + r * k.stride) * k.from.width + q * k.stride) * k.lanes;
        for (int n = 0; n < k.lanes; n += vector_width, out += vector_width)
          f(out, c < k.from.channels ? from + n : -1);
      }
    }
  }
}
DSGD_INLINE inline void shortcut_forward(const ChwnShortcut& k, const float* x, const float* earlier,
                                         float* y) {
  each_sum(k, [&](std::ptrdiff_t out, std::ptrdiff_t from) DSGD_INLINE {
    const Floats value = from < 0 ? load(x + out) : load(x + out) + load(earlier + from);
    store(y + out, k.relu ? (value <= 0.0f ? Floats{} : value) : value);
  });
}
DSGD_INLINE inline void shortcut_backward(const ChwnShortcut& k, const float* dy, float* dearlier) {
  each_sum(k, [&](std::ptrdiff_t out, std::ptrdiff_t from) DSGD_INLINE {
    if (from >= 0) store(dearlier + from, load(dearlier + from) + load(dy + out));
  });
}

struct Kernels {
  const char* name;
  int samples;  // that `forward` and `data` take at a time; lanes that are no multiple go by `odd`
  void (*forward)(const ChwnConv&, const float*, const float*, const float*, float*, std::uint8_t*);
  void (*odd_forward)(const ChwnConv&, const float*, const float*, const float*, float*, std::uint8_t*);
  void (*data)(const ChwnConv&, const float*, const float*, float*);
  void (*odd_data)(const ChwnConv&, const float*, const float*, float*);
  void (*weights)(const ChwnConv&, const float*, const float*, const std::uint8_t*, float*, float*, float*);
  void (*weights3)(const ChwnConv&, const float*, const float*, const std::uint8_t*, float*, float*, float*);
  void (*spread)(const ChwnConv&, const float*, const std::uint8_t*, float*);
  void (*max_forward)(const ChwnPool&, const float*, float*, ChwnPool::Place*);
  void (*max_backward)(const ChwnPool&, const float*, const ChwnPool::Place*, float*);
  void (*mean_forward)(const ChwnPool&, const float*, float*);
  void (*mean_backward)(const ChwnPool&, const float*, float*);
  void (*norm_forward)(const ChwnNorm&, const float*, int, bool, const ChwnNorm::Channels&, const float*,
                       float*);
  void (*norm_backward)(const ChwnNorm&, const float*, const float*, int, const ChwnNorm::Channels&, float*,
                        float*, float*);
  void (*shortcut_forward)(const ChwnShortcut&, const float*, const float*, float*);
  void (*shortcut_backward)(const ChwnShortcut&, const float*, float*);
};

// In vectors of `width` samples: F filters (or channels) by V vectors; F1 by 16 samples; O filters by J taps
// of a row, O3 by 3.
#define DSGD_KERNELS(name, target, width, F, V, F1, O, J, O3)                                            \
  Kernels {                                                                                              \
    name, V *width, DSGD_COMPILED(target, forward_of<width, F, V>),                                      \
        DSGD_COMPILED(target, forward_of<width, F1, vector_width / width>),                              \
        DSGD_COMPILED(target, data_of<width, F, V>),                                                     \
        DSGD_COMPILED(target, data_of<width, F1, vector_width / width>),                                 \
        DSGD_COMPILED(target, weights_of<width, O, J>), DSGD_COMPILED(target, weights_of<width, O3, 3>), \
        DSGD_COMPILED(target, spread_of<width>), DSGD_COMPILED(target, max_forward_of<width>),           \
        DSGD_COMPILED(target, max_backward_of<width>), DSGD_COMPILED(target, mean_forward_of<width>),    \
        DSGD_COMPILED(target, mean_backward_of<width>), DSGD_COMPILED(target, norm_forward),             \
        DSGD_COMPILED(target, norm_backward), DSGD_COMPILED(target, shortcut_forward),                   \
        DSGD_COMPILED(target, shortcut_backward)                                                         \
  }

const Kernels& kernels() {
  static const Kernels best = [] {
    if (has_avx512()) return DSGD_KERNELS("avx512", DSGD_AVX512, 16, 12, 2, 12, 5, 5, 8);
    if (has_avx2()) return DSGD_KERNELS("avx2", DSGD_AVX2, 8, 6, 2, 6, 4, 3, 4);
    return DSGD_KERNELS("generic", , 4, 2, 4, 2, 3, 3, 3);
  }();
  return best;
}

}  // namespace

std::size_t ChwnConv::padded_size() const {
  return std::size_t(channels) * (height + 2 * pad) * (width + 2 * pad) * lanes;
}
std::size_t ChwnConv::scratch() const { return O_most * (taps() * vector_width + band_plane(*this)); }
void ChwnConv::padded(const float* x, float* to) const {
  const std::ptrdiff_t row = std::ptrdiff_t(width) * lanes, to_row = std::ptrdiff_t(width + 2 * pad) * lanes;
  for (int c = 0; c < channels; ++c)
    for (int h = 0; h < height; ++h)
      std::memcpy(to + (c * (height + 2 * pad) + h + pad) * to_row + pad * lanes, x + (c * height + h) * row,
                  std::size_t(row) * sizeof(float));
}
void ChwnConv::forward(const float* x, const float* w, const float* b, float* y,
                       std::uint8_t* winners) const {
  const Kernels& k = kernels();
  (lanes % k.samples ? k.odd_forward : k.forward)(*this, x, w, b, y, winners);
}
void ChwnConv::weights(const float* x, const float* dy, const std::uint8_t* winners, float* dw, float* db,
                       float* scratch) const {
  (kernel == 3 ? kernels().weights3 : kernels().weights)(*this, x, dy, winners, dw, db, scratch);
}
void ChwnConv::spread(const float* dy, const std::uint8_t* winners, float* d) const {
  kernels().spread(*this, dy, winners, d);
}
void ChwnConv::data(const float* w, const float* d, float* dx) const {
  const Kernels& k = kernels();
  (lanes % k.samples ? k.odd_data : k.data)(*this, w, d, dx);
}

void ChwnPool::max_forward(const float* x, float* y, Place* winners) const {
  kernels().max_forward(*this, x, y, winners);
}
void ChwnPool::max_backward(const float* dy, const Place* winners, float* dx) const {
  kernels().max_backward(*this, dy, winners, dx);
}
void ChwnPool::mean_forward(const float* x, float* y) const { kernels().mean_forward(*this, x, y); }
void ChwnPool::mean_backward(const float* dy, float* dx) const { kernels().mean_backward(*this, dy, dx); }

void ChwnNorm::forward(const float* x, int n, bool given, const Channels& c, const float* added,
                       float* y) const {
  kernels().norm_forward(*this, x, n, given, c, added, y);
}
void ChwnNorm::backward(const float* x, const float* dy, int n, const Channels& c, float* dx, float* dscale,
                        float* dshift) const {
  kernels().norm_backward(*this, x, dy, n, c, dx, dscale, dshift);
}
void ChwnShortcut::forward(const float* x, const float* earlier, float* y) const {
  kernels().shortcut_forward(*this, x, earlier, y);
}
void ChwnShortcut::backward(const float* dy, float* dearlier) const {
  kernels().shortcut_backward(*this, dy, dearlier);
}

const char* chwn_instructions() { return kernels().name; }

}  // namespace dsgd
