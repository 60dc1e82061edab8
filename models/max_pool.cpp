#include "models/max_pool.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define DSGD_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define DSGD_CLONES
#endif
#define DSGD_INLINE __attribute__((always_inline))

namespace dsgd {
namespace {

constexpr int none = 255;

template <class T, int lanes>
struct Lanes {
  typedef T Type __attribute__((vector_size(lanes * sizeof(T))));
};
template <class T>
DSGD_INLINE inline void load(T& to, const void* from) {
  std::memcpy(&to, from, sizeof to);
}

// One output pixel, `lanes` channels of it.
template <int lanes>
DSGD_INLINE inline void forward_pixel(const MaxPoolKernel& k, const float* x, float* y,
                                      std::uint8_t* winners) {
  typename Lanes<float, lanes>::Type value, best = {};
  typename Lanes<std::int32_t, lanes>::Type winner = {};
  best -= k.relu ? 0 : INFINITY;
  winner += none;
  for (int i = 0; i < k.size; ++i) {
    for (int j = 0; j < k.size; ++j) {
      load(value, x + i * k.row + j * k.column);
      const auto keep = value <= best;  // the first of equal ones stays; what is not a number gets on
      best = keep ? best : value;
      winner = keep ? winner : winner - winner + (i * k.size + j);
    }
  }
  const auto bytes = __builtin_convertvector(winner, typename Lanes<std::uint8_t, lanes>::Type);
  std::memcpy(y, &best, sizeof best);
  std::memcpy(winners, &bytes, sizeof bytes);
}

template <int lanes>
DSGD_INLINE inline void backward_pixel(const MaxPoolKernel& k, const float* dy, const std::uint8_t* winners,
                                       float* dx) {
  typename Lanes<float, lanes>::Type d;
  typename Lanes<std::uint8_t, lanes>::Type bytes;
  load(d, dy);
  load(bytes, winners);
  const auto winner = __builtin_convertvector(bytes, typename Lanes<std::int32_t, lanes>::Type);
  for (int i = 0; i < k.size; ++i) {
    for (int j = 0; j < k.size; ++j) {
      const auto here = winner == i * k.size + j ? d : d - d;
      std::memcpy(dx + i * k.row + j * k.column, &here, sizeof here);
    }
  }
}

// f(lanes, in, out) for every group of channels of every output pixel; in, out: offsets of its first element.
template <class F>
DSGD_INLINE inline void each_group(const MaxPoolKernel& k, F f) {
  std::ptrdiff_t pixel = 0;
  for (int n = 0; n < k.images; ++n) {
    for (int r = 0; r < k.rows; ++r) {
      for (int c = 0; c < k.columns; ++c, pixel += k.channels) {
        std::ptrdiff_t in = n * k.image + r * k.stride * k.row + c * k.stride * k.column, out = pixel;
        for (int left = k.channels; left > 0; left -= k.block, in += k.next_block, out += k.block) {
          const int count = std::min(left, k.block);
          int l = 0;
          for (; l + 16 <= count; l += 16) f(std::integral_constant<int, 16>(), in + l, out + l);
          for (; l + 4 <= count; l += 4) f(std::integral_constant<int, 4>(), in + l, out + l);
          for (; l < count; ++l) f(std::integral_constant<int, 1>(), in + l, out + l);
        }
      }
    }
  }
}

DSGD_CLONES void run_forward(const MaxPoolKernel& k, const float* x, float* y, std::uint8_t* winners) {
  each_group(k, [&](auto lanes, std::ptrdiff_t in, std::ptrdiff_t out)
                    DSGD_INLINE { forward_pixel<lanes>(k, x + in, y + out, winners + out); });
}
DSGD_CLONES void run_backward(const MaxPoolKernel& k, const float* dy, const std::uint8_t* winners,
                              float* dx) {
  each_group(k, [&](auto lanes, std::ptrdiff_t in, std::ptrdiff_t out)
                    DSGD_INLINE { backward_pixel<lanes>(k, dy + out, winners + out, dx + in); });
}

}  // namespace

void MaxPoolKernel::forward(const float* x, float* y, std::uint8_t* winners) const {
  run_forward(*this, x, y, winners);
}
void MaxPoolKernel::backward(const float* dy, const std::uint8_t* winners, float* dx) const {
  run_backward(*this, dy, winners, dx);
}

}  // namespace dsgd
