// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "communicator.h"

namespace dsgd {

// Messages of single bits. The first bit is the lowest of its byte; the last byte is padded with zeros.

class BitWriter {
 public:
  void put(std::uint64_t value, int bits) {  // value < 2^bits, bits <= 32
    word_ |= value << filled_;
    for (filled_ += bits; filled_ >= 8; filled_ -= 8, word_ >>= 8) bytes_.push_back(std::byte(word_));
  }
  void put(float x) { put(std::bit_cast<std::uint32_t>(x), 32); }
  Bytes take() {
    if (filled_ > 0) bytes_.push_back(std::byte(word_));
    return std::move(bytes_);
  }

 private:
  Bytes bytes_;
  std::uint64_t word_ = 0;
  int filled_ = 0;
};

// Reads what a BitWriter wrote, in the same order. The bytes must outlive it; it does not check for their
// end.
class BitReader {
 public:
  explicit BitReader(const Bytes& bytes) : next_(bytes.data()) {}
  std::uint32_t get(int bits) {
    for (; filled_ < bits; filled_ += 8) word_ |= std::uint64_t(*next_++) << filled_;
    const std::uint64_t value = word_ & ((std::uint64_t(1) << bits) - 1);
    word_ >>= bits;
    filled_ -= bits;
    return std::uint32_t(value);
  }
  float number() { return std::bit_cast<float>(get(32)); }

 private:
  const std::byte* next_;
  std::uint64_t word_ = 0;
  int filled_ = 0;
};

inline std::size_t bytes_of(std::size_t bits) { return (bits + 7) / 8; }

// One bit per element: 1 is negative. NaN is treated as zero.
inline void put_signs(BitWriter& out, ConstVec p, bool zero_is_negative = false) {
  for (std::size_t i = 0; i < p.size; ++i) out.put(zero_is_negative ? !(p.data[i] > 0) : p.data[i] < 0, 1);
}
inline void add_signs(BitReader& in, float a, Vec y) {  // y <- y + a * signs
  for (std::size_t i = 0; i < y.size; ++i) y.data[i] += in.get(1) ? -a : a;
}

}  // namespace dsgd
