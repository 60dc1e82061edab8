#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "strategies/communicator.h"

namespace dsgd {

// Messages of single bits, the first one lowest in its byte; the last byte is filled up with zeros.

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

// Reads what a BitWriter wrote, in the same order.
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

// A value for each of k increasing indices below n < 2^32: k in 32 bits, and for every index its distance
// from the one before in Golomb-Rice code (Rice 1979: x >> b ones, a zero, the low b bits of x), then the
// value. 2^b <= n / k, about the mean distance.
class Sparse {
 public:
  static int low_bits(std::size_t n, std::size_t k) { return k ? int(std::bit_width(n / k)) - 1 : 0; }
  // Bytes that suffice for k values of so many bits; with indices from 0 on without a gap it is fewer.
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

}  // namespace dsgd
