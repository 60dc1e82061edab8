// SPDX-License-Identifier: Apache-2.0
// What carries vectors between ranks, without MPI: sizes of messages, shared memory, slots.

#include "wire.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

namespace dsgd {
namespace {

TEST(Message, CountsInBlocks) {
  EXPECT_EQ(blocks(0), 1);
  EXPECT_EQ(blocks(1), 2);
  EXPECT_EQ(blocks(16), 2);
  EXPECT_EQ(blocks(17), 3);
}

// 2^29 floats are more bytes than an int counts.
TEST(Message, HoldsMoreThanIntBytes) {
  const std::size_t beyond = std::size_t(1) << 29;
  EXPECT_EQ(blocks(beyond), 1 + (1 << 25));
  EXPECT_EQ(blocks(beyond + 1), 2 + (1 << 25));
  const std::size_t most = (std::size_t(std::numeric_limits<int>::max()) - 1) * 16;
  EXPECT_EQ(blocks(most), std::numeric_limits<int>::max());
  EXPECT_THROW(blocks(most + 1), std::length_error);
}

TEST(SharedMemory, IsSeenByWhoMapsIt) {
  SharedMemory own(100000);
  const SharedMemory other(own.handle());
  ASSERT_NE(own.data(), other.data());
  for (const std::size_t i : {0, 5000, 99999}) {
    EXPECT_EQ(own.data()[i], std::byte(0));
    own.data()[i] = std::byte(i % 251);
    EXPECT_EQ(other.data()[i], std::byte(i % 251));
  }
  const SharedMemory moved(std::move(own));
  moved.data()[1] = std::byte(7);
  EXPECT_EQ(other.data()[1], std::byte(7));
}

TEST(SharedMemory, OutlivesItsOwner) {
  std::optional<SharedMemory> own(4096);
  const SharedMemory other(own->handle());
  own->data()[9] = std::byte(3);
  const auto handle = own->handle();
  own.reset();
  EXPECT_EQ(other.data()[9], std::byte(3));
  EXPECT_THROW(SharedMemory{handle}, std::runtime_error);
}

TEST(SpinWait, IdlesAndYieldsAfterAWhile) {
  for (const bool crowded : {false, true}) {
    int looks = 0, idle = 0;
    const SpinWait spin{crowded, [&] { ++idle; }};
    spin.wait([&] { return ++looks == 5000; });
    EXPECT_EQ(looks, 5000);
    EXPECT_EQ(idle, crowded ? 4999 : 2999);
  }
}

// What another process would see. The thread sanitizer tells memory by its address: between two mappings it
// finds no race.
const SharedMemory& other_side([[maybe_unused]] const SharedMemory& here,
                               [[maybe_unused]] const SharedMemory& there) {
#if defined(__SANITIZE_THREAD__)
  return here;
#else
  return there;
#endif
}

// A sleeper that missed a ring would come back a second later: no time for so many.
TEST(Doorbell, WakesTheSleeper) {
  SharedMemory here(sizeof(Doorbell));
  const SharedMemory there(here.handle());
  Doorbell &mine = *reinterpret_cast<Doorbell*>(here.data()),
       &yours = *reinterpret_cast<Doorbell*>(other_side(here, there).data());
  constexpr std::uint32_t times = 1000;
  const auto begun = std::chrono::steady_clock::now();
  std::thread ringer([&] {
    for (std::uint32_t i = 0; i < times; ++i) {
      while (yours.rings() != 2 * i) std::this_thread::yield();
      yours.ring();
    }
  });
  for (std::uint32_t i = 0; i < times; ++i) {
    while (mine.rings() == 2 * i) mine.sleep(2 * i, 999999);
    EXPECT_EQ(mine.rings(), 2 * i + 1);
    mine.ring();  // nobody sleeps
  }
  ringer.join();
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(times / 10));
}

TEST(Doorbell, SleepsNoLongerThanAsked) {
  Doorbell bell;
  bell.sleep(0, 1000);
  EXPECT_EQ(bell.rings(), 0u);
}

TEST(SharedMemory, OfNothingExists) { EXPECT_NE(SharedMemory(std::size_t(0)).data(), nullptr); }

// Two mappings of the same slots, a writer and a reader.
struct Pair {
  explicit Pair(std::size_t n)
      : here(Slots::size(n)),
        there(here.handle()),
        writer(here.data(), n),
        reader(other_side(here, there).data(), n) {}
  SharedMemory here, there;
  Slots writer, reader;
};

TEST(Slots, DoNotOverlap) {
  for (const std::size_t n : {0, 1, 15, 16, 17, 1000}) {
    Pair pair(n);
    for (const int i : {0, 1}) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pair.writer[i].data()) % 64, 0u);
      std::fill_n(pair.writer[i].data(), n, float(i + 1));
      pair.writer[i].filled(n);
    }
    for (const int i : {0, 1}) {
      EXPECT_EQ(pair.reader[i].empty(), n == 0);
      EXPECT_EQ(std::count(pair.reader[i].data(), pair.reader[i].data() + n, float(i + 1)),
                std::ptrdiff_t(n));
    }
    EXPECT_LE(reinterpret_cast<std::byte*>(pair.writer[1].data() + n), pair.here.data() + Slots::size(n));
  }
}

// Sizes around the portions in which reader and writer follow each other.
TEST(Slots, CarryEveryVectorWhole) {
  const SpinWait crowded{.crowded = true, .idle = {}};
  for (const std::size_t n : {0, 1, 8191, 8192, 8193, 100003}) {
    Pair pair(n);
    std::vector<float> sent(n), received(n);
    std::size_t wrong = 0;
    constexpr int vectors = 20;
    std::thread writer([&] {
      for (int v = 0; v < vectors; ++v) {
        crowded.wait([&] { return pair.writer[1].empty(); });
        std::iota(sent.begin(), sent.end(), float(v));
        pair.writer[1].write(sent.data(), n);
      }
    });
    for (int v = 0; v < vectors; ++v) {
      pair.reader[1].read(0, received.data(), n / 3, crowded);
      pair.reader[1].read(n / 3, received.data() + n / 3, n - n / 3, crowded);
      pair.reader[1].emptied();
      for (std::size_t i = 0; i < n; ++i) wrong += received[i] != float(v) + float(i);
    }
    writer.join();
    EXPECT_EQ(wrong, 0u) << n << " floats";
  }
}

TEST(Slots, KeepToTheOneInTheCaches) {
  Pair pair(10);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(pair.writer.for_push({}), 0);
    pair.writer[0].filled(10);
    pair.reader[0].emptied();
  }
  pair.writer[0].filled(10);
  EXPECT_EQ(pair.writer.for_push({}), 1);
  pair.writer[1].filled(10);
  pair.reader[0].emptied();
  EXPECT_EQ(pair.writer.for_push({}), 0);
}

TEST(Slots, KeepPushesOffWhatIsPulled) {
  Pair pair(10);
  EXPECT_EQ(pair.writer.for_push({}), 0);
  pair.writer[0].filled(10);
  EXPECT_EQ(pair.writer.for_pull(), 0);
  pair.reader[0].emptied();  // the push, before the pull is answered
  EXPECT_EQ(pair.writer.for_push({}), 1);
  std::vector<float> sent(10, 3.0f), received(10);
  pair.reader[0].write(sent.data(), 10);
  pair.writer.read_pulled(0, received.data(), 10, {});
  EXPECT_EQ(pair.writer.for_push({}), 1);
  pair.writer.end_pull();
  EXPECT_EQ(received, sent);
  pair.writer[1].filled(10);
  EXPECT_EQ(pair.writer.for_push({}), 0);
}

}  // namespace
}  // namespace dsgd
