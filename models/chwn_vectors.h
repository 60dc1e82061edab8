#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

// For the kernels of chwn.h alone: vectors of 16 floats and the choice of the instruction set. A sum of
// products may be fused there (CMakeLists.txt), as in any library's matrix product. Each instruction set has
// its own copy of the kernels, picked at run time; the templates' numbers say how many accumulators fit its
// registers.
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

// The widest that this processor has and the environment variable DSGD_INSTRUCTIONS allows. Throws
// std::invalid_argument where that names none of them.
enum class Instructions { generic, avx2, avx512 };
Instructions instructions();
inline bool has_avx512() { return instructions() >= Instructions::avx512; }
inline bool has_avx2() { return instructions() >= Instructions::avx2; }

constexpr int vector_width = 16;  // floats in a vector
typedef float Floats __attribute__((vector_size(64), may_alias));
typedef std::int32_t Ints __attribute__((vector_size(64), may_alias));
typedef std::uint8_t Bytes __attribute__((vector_size(16), may_alias));

DSGD_INLINE inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
DSGD_INLINE inline void store(float* to, Floats v) { *reinterpret_cast<Floats*>(to) = v; }
DSGD_INLINE inline Ints load(const std::uint8_t* from) {
  return __builtin_convertvector(*reinterpret_cast<const Bytes*>(from), Ints);
}
DSGD_INLINE inline void store(std::uint8_t* to, Ints v) {
  *reinterpret_cast<Bytes*>(to) = __builtin_convertvector(v, Bytes);
}
DSGD_INLINE inline float sum(Floats v) {
  const auto eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const auto four =
      __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  const auto two = __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
  return two[0] + two[1];
}

// f(first, count) over [0, total) in parts of nearly equal size, at most `most`; count is known when
// compiling.
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
