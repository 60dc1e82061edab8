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

// "no GPU: ..." with the reason and what to do; empty where there is one.
std::string unavailable();

[[noreturn]] void fail(const char* reason, const char* call, const char* file, int line);
inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status != cudaSuccess) fail(cudaGetErrorString(status), call, file, line);
}
// Throws std::runtime_error that names the reason, the call and its place. `check` is found by the type of
// the status.
#define DSGD_CHECK(call) check(call, #call, __FILE__, __LINE__)

// Bytes of a GPU's memory, or of the host's that GPUs reach: pinned, at the same address for both.
class Memory {
 public:
  Memory() = default;
  static Memory device(std::size_t bytes);
  static Memory pinned(std::size_t bytes);  // zeros
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

// An order between streams, without times.
class Event {
 public:
  Event() { DSGD_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  Event(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// A GPU's memory. All operations go to one stream in the order of the calls.
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
  static constexpr std::size_t portion = std::size_t(1) << 16, portions = 4;  // floats; of a vector, and on
  const Memory bounce_ = Memory::pinned(portions * portion * sizeof(float));  // their way at a time
  Event copied_[portions];  // the last copies to or from them
  Memory sums_, sum_;       // of dot: partial ones, and the last on the host
};

// The only one of this process. Ranks of a host take its GPUs in turn. Made at the first call, where there is
// a GPU; it stays until the process ends.
const GpuSpace& gpu_space();

// The GPU of a space, and where work on its vectors is queued.
struct GpuQueue {
  int device = 0;
  cudaStream_t stream = nullptr;
  std::array<char, 16> uuid{};  // of the GPU, whatever host it is in
};
std::optional<GpuQueue> gpu_queue(const Space& space);  // none: it is the host's

}  // namespace dsgd::cuda
