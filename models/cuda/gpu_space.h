// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "vec.h"

namespace dsgd::cuda {

// "no GPU: ..." with the reason and the remedy; empty if there is a GPU.
std::string unavailable();

[[noreturn]] void fail(const char* reason, const char* call, const char* file, int line);
inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status != cudaSuccess) fail(cudaGetErrorString(status), call, file, line);
}
// Throws std::runtime_error with the reason, the call and its place in the source. Overloads of `check`
// accept the status types of other libraries.
#define DSGD_CHECK(call) check(call, #call, __FILE__, __LINE__)

// Owns bytes of a GPU's memory, or of pinned host memory, which has the same address on the GPU.
class Memory {
 public:
  Memory() = default;
  static Memory device(std::size_t bytes);
  static Memory pinned(std::size_t bytes);  // zeroed
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();
  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  bool pinned_ = false;
};

class Stream {
 public:
  Stream() { DSGD_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// An event without timing, for the order between streams.
class Event {
 public:
  Event() { DSGD_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  Event(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// A GPU's memory. All operations are queued on one stream in the order of the calls.
class GpuSpace final : public Space {
 public:
  GpuSpace();
  cudaStream_t stream() const { return stream_; }
  void wait() const override { DSGD_CHECK(cudaStreamSynchronize(stream_)); }

  float* allocate(std::size_t n) const override;
  void release(float* data) const override;
  void through_host(float* x, std::size_t n, Way way, const Portion& f) const override;
  void fill(float a, float* y, std::size_t n) const override;
  void copy(const float* x, float* y, std::size_t n) const override;
  void scale(float a, float* y, std::size_t n) const override;
  void axpy(float a, const float* x, float* y, std::size_t n) const override;
  double dot(const float* x, const float* y, std::size_t n) const override;
  void sgd(const Update& u, float* w, const float* g, std::size_t n) const override;
  void momentum(const Update& u, float* w, const float* g, float* v, std::size_t n) const override;
  void nesterov(const Update& u, float* w, const float* g, float* v, std::size_t n) const override;
  void adagrad(const Update& u, float* w, const float* g, float* s, std::size_t n) const override;
  void adam(const Adam& u, float* w, const float* g, float* m, float* v, std::size_t n) const override;
  void compensate(const Compensation& c, const float* g, const float* w, const float* old, float* s, float* d,
                  std::size_t n) const override;
  void divide_by_deviation(const Deviation& u, const float* g, float* m, float* b, float* v, float* d,
                           std::size_t n) const override;
  void divide_by_magnitude(float gamma, float epsilon, const float* g, float* m, float* d,
                           std::size_t n) const override;

 private:
  Stream stream_;
  // through_host(): floats of a portion, and portions that are under way at the same time.
  static constexpr std::size_t portion = std::size_t(1) << 16, portions = 4;
  const Memory bounce_ = Memory::pinned(portions * portion * sizeof(float));
  Event copied_[portions];  // after the last copy from or to each portion of bounce_
  Memory sums_, sum_;       // dot(): partial sums on the GPU, and the result on the host
};

// The only GpuSpace of this process. The first call creates it, if there is a GPU; it lives until the process
// ends. Ranks of one host are assigned its GPUs in turn.
const GpuSpace& gpu_space();

// The GPU of a space, and the stream on which its operations are queued.
struct GpuQueue {
  int device = 0;
  cudaStream_t stream = nullptr;
  std::array<char, 16> uuid{};  // unique over all hosts
};
std::optional<GpuQueue> gpu_queue(const Space& space);  // empty if the space is the host's

}  // namespace dsgd::cuda
