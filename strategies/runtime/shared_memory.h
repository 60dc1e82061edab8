// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

namespace dsgd {

// Zeroed, page-aligned memory of one process that others of the host can map. It has no name: nothing is left
// behind whatever ends its owner, and no file system limits it. (MPI_Win_allocate_shared is bound to
// /dev/shm, 64 MB in many containers; Open MPI 4.1 hangs when that is too small.)
class SharedMemory {
 public:
  struct Handle {
    std::int64_t process = 0, file = -1;
    std::uint64_t bytes = 0;
  };
  SharedMemory() = default;
  explicit SharedMemory(std::size_t bytes);     // throws std::runtime_error
  explicit SharedMemory(const Handle& handle);  // maps another process's, whose owner must live until then
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

// How to wait for what another process of the host does soon.
struct SpinWait {
  bool crowded = false;        // ranks outnumber cores: the other one may need this core for it
  std::function<void()> idle;  // called now and then

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

// Lets one process sleep until another one rings. All zeros at birth, in shared memory.
class Doorbell {
 public:
  std::uint32_t rings() { return std::atomic_ref(rings_).load(); }
  void ring();
  void sleep(std::uint32_t seen, int microseconds);  // at most; not at all if it has rung since `seen`

 private:
  std::uint32_t rings_ = 0, asleep_ = 0;
};

}  // namespace dsgd
