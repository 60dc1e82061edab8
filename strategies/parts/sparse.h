// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "parts/bits.h"

namespace dsgd {

// A coding of k values at increasing indices below n < 2^32. The message holds k in 32 bits and, for every
// index, its distance from the one before in Golomb-Rice code, followed by the value. The code (Rice 1979) of
// x is x >> b ones, a zero, and the low b bits of x; 2^b <= n / k, about the mean distance.
class Sparse {
 public:
  static int low_bits(std::size_t n, std::size_t k) { return k ? int(std::bit_width(n / k)) - 1 : 0; }
  // Upper bound of the message's bytes for k values of value_bits bits.
  static std::size_t at_most(std::size_t n, std::size_t k, int value_bits) {
    const int b = low_bits(n, k);
    return bytes_of(32 + k * std::size_t(b + 1 + value_bits) + ((n - k) >> b));
  }

  // put(writer, i) writes the value of index i.
  template <typename Put>
  static Bytes encode(std::size_t n, const std::vector<std::uint32_t>& indices, Put put) {
    BitWriter out;
    out.put(std::uint64_t(indices.size()), 32);
    const int b = low_bits(n, indices.size());
    std::uint32_t next = 0;
    for (const std::uint32_t i : indices) {
      const std::uint32_t gap = i - next;
      for (std::uint32_t ones = gap >> b; ones > 0; --ones) out.put(1, 1);
      out.put(0, 1);
      out.put(gap & ((std::uint64_t(1) << b) - 1), b);
      put(out, i);
      next = i + 1;
    }
    return out.take();
  }
  // get(reader, i) reads the value of index i.
  template <typename Get>
  static void decode(std::size_t n, const Bytes& message, Get get) {
    BitReader in(message);
    const std::uint32_t k = in.get(32);
    const int b = low_bits(n, k);
    std::uint32_t next = 0;
    for (std::uint32_t done = 0; done < k; ++done) {
      std::uint32_t high = 0;
      while (in.get(1)) ++high;
      const std::uint32_t i = next + (high << b) + in.get(b);
      get(in, i);
      next = i + 1;
    }
  }
};

// Returns the indices of the k >= 1 elements of largest magnitude, in increasing order; valid until the next
// call. Of equal elements it takes the first; NaN counts as the largest.
class Largest {
 public:
  const std::vector<std::uint32_t>& of(ConstVec v, std::size_t k) {
    const auto magnitude = [&](std::size_t i) {  // the bits without the sign have the order of the numbers
      return std::bit_cast<std::uint32_t>(v.data[i]) & 0x7fffffff;
    };
    sorted_.resize(v.size);
    for (std::size_t i = 0; i < v.size; ++i) sorted_[i] = magnitude(i);
    const auto last = sorted_.begin() + std::ptrdiff_t(k - 1);
    std::nth_element(sorted_.begin(), last, sorted_.end(), std::greater<>());
    auto equal = std::count(sorted_.begin(), last + 1, *last);
    indices_.clear();
    for (std::size_t i = 0; i < v.size; ++i)
      if (magnitude(i) > *last || (magnitude(i) == *last && equal-- > 0))
        indices_.push_back(std::uint32_t(i));
    return indices_;
  }

 private:
  std::vector<std::uint32_t> sorted_, indices_;
};

}  // namespace dsgd
