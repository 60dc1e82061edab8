// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

namespace dsgd {

// Zeroed, page-aligned memory of one process that other processes of the host can map. It has no name, so
// nothing is left behind however its owner ends, and it needs no file system. (MPI_Win_allocate_shared is
// limited by /dev/shm, 64 MB in many containers; Open MPI 4.1 hangs when that is too small.)
class SharedMemory {
 public:
  struct Handle {
    std::int64_t process = 0, file = -1;
    std::uint64_t bytes = 0;
  };
  SharedMemory() = default;
  explicit SharedMemory(std::size_t bytes);  // throws std::runtime_error
  // Maps memory that another process owns. The owner must keep it until this returns. Throws
  // std::runtime_error.
  explicit SharedMemory(const Handle& handle);
  SharedMemory(SharedMemory&& other) noexcept { *this = std::move(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();
  const Handle& handle() const { return handle_; }
  std::byte* data() const { return data_; }

 private:
  void map(int file);
  Handle handle_;
  bool owner_ = false;
  std::byte* data_ = nullptr;
};

// Spin-waits for something that another process of the host does soon. It spins at first, unless the host is
// oversubscribed; then it yields the core between two looks.
struct SpinWait {
  bool crowded = false;        // ranks outnumber cores (oversubscribed)
  std::function<void()> idle;  // called before each yield

  template <typename Done>
  void wait(Done done) const {
    for (int tries = 0; !done(); ++tries) {
      if (!crowded && tries < 2000) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        continue;
      }
      if (idle) idle();
      std::this_thread::yield();
    }
  }
};

// Lets one process sleep until another one rings. It lies in shared memory and starts as all zeros.
class Doorbell {
 public:
  std::uint32_t rings() { return std::atomic_ref(rings_).load(); }
  void ring();
  // Sleeps until the next ring, at most so many microseconds. Returns at once if it has rung since rings()
  // was `seen`.
  void sleep(std::uint32_t seen, int microseconds);

 private:
  std::uint32_t rings_ = 0, asleep_ = 0;
};

}  // namespace dsgd
