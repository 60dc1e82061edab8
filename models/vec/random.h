// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>

namespace dsgd {

// Random numbers that are the same on every host. The C++ standard specifies its engines exactly, but not its
// distributions.

// SplitMix64 (Steele, Lea, Flood 2014): its output function, and its output for the counter after z.
inline std::uint64_t finalised(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}
inline std::uint64_t mixed(std::uint64_t z) { return finalised(z + 0x9e3779b97f4a7c15); }

// 64 random bits. Different (seed, purpose, index) give independent bits.
inline std::uint64_t hash(std::uint64_t seed, std::uint64_t purpose, std::uint64_t index) {
  return mixed(mixed(mixed(seed) + purpose) + index);
}
inline std::mt19937_64 seeded(std::uint64_t seed, std::uint64_t purpose, std::uint64_t index) {
  return std::mt19937_64(hash(seed, purpose, index));
}

// Uniform in [0, n), n >= 1, without bias (Lemire 2019).
inline std::uint32_t below(std::mt19937_64& engine, std::uint32_t n) {
  const auto draw = [&] { return (engine() >> 32) * n; };
  std::uint64_t product = draw();
  if (std::uint32_t(product) < n)
    for (const std::uint32_t biased = -n % n; std::uint32_t(product) < biased;) product = draw();
  return std::uint32_t(product >> 32);
}

}  // namespace dsgd
