// SPDX-License-Identifier: Apache-2.0
#include "shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <stdexcept>

namespace dsgd {
namespace {

[[noreturn]] void fail(const char* what, const SharedMemory::Handle& handle) {
  throw std::runtime_error(fmt::format("{} {} bytes of shared memory (process {}, file {}): {}", what,
                                       handle.bytes, handle.process, handle.file, std::strerror(errno)));
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes) : handle_{getpid(), -1, bytes ? bytes : 1} {
  const int file = memfd_create("dsgd", MFD_CLOEXEC);
  handle_.file = file;
  if (file < 0) fail("can't create", handle_);
  owner_ = true;
  if (ftruncate(file, off_t(handle_.bytes))) {
    close(file);
    fail("can't reserve", handle_);
  }
  map(file);
}

SharedMemory::SharedMemory(const Handle& handle) : handle_(handle) {
  const int file =
      open(fmt::format("/proc/{}/fd/{}", handle.process, handle.file).c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) fail("can't open", handle_);
  map(file);
  close(file);
}

void SharedMemory::map(int file) {
  void* at = mmap(nullptr, handle_.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
  if (at == MAP_FAILED) {
    const int error = errno;
    close(file);
    errno = error;
    fail("can't map", handle_);
  }
  data_ = static_cast<std::byte*>(at);
}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(owner_, other.owner_);
  std::swap(data_, other.data_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (data_) munmap(data_, handle_.bytes);
  if (data_ && owner_) close(int(handle_.file));
}

void Doorbell::ring() {
  std::atomic_ref(rings_).fetch_add(1);
  if (std::atomic_ref(asleep_).load()) syscall(SYS_futex, &rings_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

void Doorbell::sleep(std::uint32_t seen, int microseconds) {
  const timespec limit{0, 1000L * microseconds};
  std::atomic_ref(asleep_).store(1);
  syscall(SYS_futex, &rings_, FUTEX_WAIT, seen, &limit, nullptr, 0);
  std::atomic_ref(asleep_).store(0);
}

}  // namespace dsgd
