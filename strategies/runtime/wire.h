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

// Messages between workers and servers: a header, and floats. Between hosts the floats follow the header in
// the same message. On one host they lie in a slot of shared memory.

// attach: maps the worker's slots. push_again: applies the last push once more. pull_work: asks for work
// without the model. leave: the worker stops early. done: it stops at the end of the budget.
enum class Kind : std::int16_t { attach, push, push_again, pull, pull_work, leave, done };

struct Header {
  Kind kind = Kind::push;
  std::int16_t slot = 0;  // push, pull: which of the two Slots
  std::int32_t worker = 0;
  std::int64_t version = 0;
  // Samples in the vector. push: when its work was granted; pull: the least for an answer; reply: now.
  std::int64_t used = 0;
  std::int64_t samples = 0;  // push: that it was computed from; pull: wanted; reply: granted
  // push, reply: first sample of the granted work. attach: offset of the slots. pairs: workers that have not
  // left early.
  std::int64_t position = 0;
  union {
    SharedMemory::Handle memory = {};  // attach: holds the worker's slots
    double number;                     // push, reply: for or from the rule
  };
};
static_assert(sizeof(Header) == 64);

// MPI counts are int, so messages are counted in blocks of a header's size. The last block may be partly
// unused.
constexpr std::size_t block = sizeof(Header);
constexpr std::size_t round_up(std::size_t bytes) { return (bytes + block - 1) / block * block; }
// Blocks of a message with a header and `floats` floats. Throws std::length_error beyond 128 GB.
constexpr int blocks(std::size_t floats) {
  const std::size_t count = 1 + round_up(floats * sizeof(float)) / block;
  if (count > std::size_t(std::numeric_limits<int>::max()))
    throw std::length_error(
        "a server's part of the vector exceeds what one message can hold: use more servers");
  return int(count);
}

// n floats in shared memory on their way from one rank to another. One rank writes and one reads. data() has
// the floats, filled() and emptied() hand them over.
class Slot {
 public:
  static constexpr std::size_t size(std::size_t n) { return sizeof(Slot) + round_up(n * sizeof(float)); }
  float* data() { return reinterpret_cast<float*>(this + 1); }

  // The writer's side.
  bool empty() { return ready().load(std::memory_order_acquire) == 0; }
  // The first n floats are readable.
  void filled(std::size_t n) { ready().store(n, std::memory_order_release); }
  // The reader's side.
  void await(std::size_t n, const SpinWait& spin) {
    spin.wait([&] { return ready().load(std::memory_order_acquire) >= n; });
  }
  void emptied() { ready().store(0, std::memory_order_release); }

  // Copies in portions, so that the reader can copy one portion while the writer copies the next.
  void write(const float* from, std::size_t n) {
    in_portions(n, [&](std::size_t first, std::size_t count) {
      std::copy_n(from + first, count, data() + first);
      filled(first + count);
    });
  }
  // Waits for and copies `count` floats from `first` on. When all floats are read, call emptied().
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

// A worker's two slots for one server. A push takes an empty one. A pull is answered in the slot of the last
// push: the server has emptied it by then, and both ranks have it in their caches.
class Slots {
 public:
  static constexpr std::size_t size(std::size_t n) { return 2 * Slot::size(n); }
  Slots() = default;
  Slots(std::byte* at, std::size_t n)
      : slots_{reinterpret_cast<Slot*>(at), reinterpret_cast<Slot*>(at + Slot::size(n))} {}
  explicit operator bool() const { return slots_[0]; }
  Slot& operator[](std::int64_t which) { return *slots_[which]; }

  // Returns an empty slot; spin-waits until there is one.
  int for_push(const SpinWait& spin) {
    const auto take = [&](int which) {
      if (which == pulled_ || !slots_[which]->empty()) return false;
      last_ = which;
      return true;
    };
    spin.wait([&] { return take(last_) || take(1 - last_); });
    return last_;
  }
  // Returns the slot for the answer; pushes avoid it until end_pull().
  int for_pull() { return pulled_ = last_; }
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
