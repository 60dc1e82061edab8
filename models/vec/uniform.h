// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "random.h"

namespace dsgd {

inline float uniform(std::uint64_t x) { return float(finalised(x) >> 40) * 0x1p-24f; }  // in [0, 1)
// Uniform in [0, 1). Different (seed, stream, draw) give independent numbers.
inline double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t draw) {
  return double(hash(seed, stream, draw) >> 11) * 0x1p-53;
}

}  // namespace dsgd
