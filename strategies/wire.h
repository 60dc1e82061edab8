#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>

namespace dsgd {

// How requests, gradients and models travel between workers and servers: a header, and the floats behind it.

enum class Kind : std::int32_t { push, pull, leave };

struct Header {
  Kind kind = Kind::push;
  std::int32_t worker = 0;
  std::int64_t version = 0, used = 0;
  std::int64_t samples = 0;  // push: made of; pull: wanted; reply: granted
  std::int64_t position = 0;
  std::int64_t reserved[3] = {};
};
static_assert(sizeof(Header) == 64);

// MPI counts in int, so messages are counted in blocks of a header's size; the last one may be half empty.
constexpr std::size_t block = sizeof(Header);
constexpr std::size_t round_up(std::size_t bytes) { return (bytes + block - 1) / block * block; }
constexpr int blocks(std::size_t floats) {  // of a message; throws std::length_error beyond 128 GB
  const std::size_t count = 1 + round_up(floats * sizeof(float)) / block;
  if (count > std::size_t(std::numeric_limits<int>::max()))
    throw std::length_error(
        "a server's part of the vector exceeds what one message can hold: use more servers");
  return int(count);
}

}  // namespace dsgd
