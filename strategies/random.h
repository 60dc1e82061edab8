#pragma once

#include <cstdint>

namespace dsgd {

// Random numbers of a counter: the last part of SplitMix64 (Steele, Lea, Flood 2014), the same on every host.
inline std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}
inline float uniform(std::uint64_t x) { return float(mixed(x) >> 40) * 0x1p-24f; }  // in [0, 1)
// The same of a seed's stream: different (seed, stream, draw) give unrelated numbers.
inline double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t draw) {
  const auto next = [](std::uint64_t x) { return mixed(x + 0x9e3779b97f4a7c15u); };
  return double(next(next(next(seed) + stream) + draw) >> 11) * 0x1p-53;
}

}  // namespace dsgd
