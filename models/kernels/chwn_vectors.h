// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>

// For the kernels of chwn.h alone: vectors of 16 floats, and the choice of the instruction set at run time.
// Each instruction set has its own copy of the kernels; template arguments say how many accumulators fit its
// registers. Sums of products may use fused multiply-add here (CMakeLists.txt), as in any library's matrix
// product.
#define DSGD_INLINE __attribute__((always_inline))
#define DSGD_COMPILED(target, ...) [](auto... arguments) target { __VA_ARGS__(arguments...); }
#if defined(__x86_64__)
#define DSGD_AVX512 __attribute__((target("avx512f,avx512bw,avx2,fma")))
#define DSGD_AVX2 __attribute__((target("avx2,fma")))
#else
#define DSGD_AVX512
#define DSGD_AVX2
#endif

namespace dsgd {

// The widest instruction set that this processor has and that the environment variable DSGD_INSTRUCTIONS
// allows. Throws std::invalid_argument if that names none of them.
enum class Instructions { generic, avx2, avx512 };
Instructions instructions();
inline bool has_avx512() { return instructions() >= Instructions::avx512; }
inline bool has_avx2() { return instructions() >= Instructions::avx2; }

constexpr int vector_width = 16;  // floats that every kernel may process at once

// Vectors of `width` numbers. Accumulators must have the instruction set's own width, because GCC keeps wider
// ones in memory.
template <int width>
struct Vectors {
  typedef float Floats __attribute__((vector_size(4 * width), may_alias));
  typedef std::int32_t Ints __attribute__((vector_size(4 * width), may_alias));
};
template <int width>
using FloatsOf = typename Vectors<width>::Floats;
template <int width>
using IntsOf = typename Vectors<width>::Ints;
typedef FloatsOf<vector_width> Floats;
typedef IntsOf<vector_width> Ints;

template <int width = vector_width>
DSGD_INLINE inline FloatsOf<width> load(const float* from) {
  return *reinterpret_cast<const FloatsOf<width>*>(from);
}
template <int width = vector_width>
DSGD_INLINE inline void store(float* to, FloatsOf<width> v) {
  *reinterpret_cast<FloatsOf<width>*>(to) = v;
}
// Loads small unsigned numbers as Ints.
template <int width = vector_width, std::unsigned_integral Small>
DSGD_INLINE inline IntsOf<width> load(const Small* from) {
  typedef Small Smalls __attribute__((vector_size(sizeof(Small) * width), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Smalls*>(from), IntsOf<width>);
}
template <int width = vector_width, std::unsigned_integral Small>
DSGD_INLINE inline void store(Small* to, IntsOf<width> v) {
  typedef Small Smalls __attribute__((vector_size(sizeof(Small) * width), may_alias));
  *reinterpret_cast<Smalls*>(to) = __builtin_convertvector(v, Smalls);
}
template <int width>
DSGD_INLINE inline float sum(FloatsOf<width> v) {
  if constexpr (width == 2) {
    return v[0] + v[1];
  } else {
    return [&]<int... n>(std::integer_sequence<int, n...>) DSGD_INLINE {
      return sum<width / 2>(__builtin_shufflevector(v, v, n...) +
                            __builtin_shufflevector(v, v, (width / 2 + n)...));
    }
    (std::make_integer_sequence<int, width / 2>());
  }
}

// f(first, count) over [0, total), in parts of nearly equal size, at most `most`. count is a compile-time
// constant.
template <int most, class F>
DSGD_INLINE inline void in_parts(int total, F f) {
  const int parts = (total + most - 1) / most;
  for (int part = 0; part < parts; ++part) {
    const int first = total * part / parts, count = total * (part + 1) / parts - first;
    [&]<int... n>(std::integer_sequence<int, n...>) DSGD_INLINE {
      (void)((count == n + 1 && (f(first, std::integral_constant<int, n + 1>()), true)) || ...);
    }
    (std::make_integer_sequence<int, most>());
  }
}

}  // namespace dsgd
