// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "shared_memory.h"

namespace dsgd {

// How requests, gradients and models travel between workers and servers: a header, and the floats behind it
// in the same message or, between ranks of one host, in a slot of shared memory.

// push_again: the floats of the last push once more, pull_work: the model stays; leave: early.
enum class Kind : std::int16_t { attach, push, push_again, pull, pull_work, leave, done };

struct Header {
  Kind kind = Kind::push;
  std::int16_t slot = 0;  // push, pull: to use
  std::int32_t worker = 0;
  std::int64_t version = 0;
  std::int64_t used = 0;      // push: when its work was granted; pull: least; reply: in the vector
  std::int64_t samples = 0;   // push: made of; pull: wanted; reply: granted
  std::int64_t position = 0;  // push, reply: of the work granted; attach: of the slots; pairs: who is at work
  union {
    SharedMemory::Handle memory = {};  // attach: where the worker's slots are
    double number;                     // push, reply: the strategy's
  };
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

// n floats in shared memory on their way from one rank to another.
class Slot {
 public:
  static constexpr std::size_t size(std::size_t n) { return sizeof(Slot) + round_up(n * sizeof(float)); }
  float* data() { return reinterpret_cast<float*>(this + 1); }

  // The writer's side.
  bool empty() { return ready().load(std::memory_order_acquire) == 0; }
  void filled(std::size_t n) { ready().store(n, std::memory_order_release); }  // the first n floats are there
  // The reader's side.
  void await(std::size_t n, const SpinWait& spin) {
    spin.wait([&] { return ready().load(std::memory_order_acquire) >= n; });
  }
  void emptied() { ready().store(0, std::memory_order_release); }

  // Reader and writer go through the slot side by side, a portion behind each other.
  void write(const float* from, std::size_t n) {
    in_portions(n, [&](std::size_t first, std::size_t count) {
      std::copy_n(from + first, count, data() + first);
      filled(first + count);
    });
  }
  // `count` floats from `first` on; who has read all of them calls emptied().
  void read(std::size_t first, float* to, std::size_t count, const SpinWait& spin) {
    in_portions(count, [&](std::size_t at, std::size_t some) {
      await(first + at + some, spin);
      std::copy_n(data() + first + at, some, to + at);
    });
  }

 private:
  template <typename Each>
  static void in_portions(std::size_t n, Each each) {
    constexpr std::size_t portion = 8192;
    for (std::size_t first = 0; first < n; first += portion) each(first, std::min(portion, n - first));
  }
  std::atomic_ref<std::size_t> ready() { return std::atomic_ref(ready_); }
  static_assert(std::atomic_ref<std::size_t>::is_always_lock_free, "others do not work between processes");
  alignas(block) std::size_t ready_;
};
static_assert(sizeof(Slot) == block);

// The two slots of a worker for one server. A push takes an empty one; what is pulled comes back in that of
// the last push, which the server has emptied by then and both have in their caches.
class Slots {
 public:
  static constexpr std::size_t size(std::size_t n) { return 2 * Slot::size(n); }
  Slots() = default;
  Slots(std::byte* at, std::size_t n)
      : slots_{reinterpret_cast<Slot*>(at), reinterpret_cast<Slot*>(at + Slot::size(n))} {}
  explicit operator bool() const { return slots_[0]; }
  Slot& operator[](std::int64_t which) { return *slots_[which]; }

  // The worker's side.
  int for_push(const SpinWait& spin) {  // once there is an empty one
    const auto take = [&](int which) {
      if (which == pulled_ || !slots_[which]->empty()) return false;
      last_ = which;
      return true;
    };
    spin.wait([&] { return take(last_) || take(1 - last_); });
    return last_;
  }
  int for_pull() { return pulled_ = last_; }  // pushes keep off it until it was read
  void read_pulled(std::size_t first, float* to, std::size_t count, const SpinWait& spin) {
    slots_[pulled_]->read(first, to, count, spin);
  }
  void end_pull() {
    slots_[pulled_]->emptied();
    pulled_ = -1;
  }

 private:
  Slot* slots_[2] = {};
  int last_ = 0, pulled_ = -1;
};

}  // namespace dsgd
