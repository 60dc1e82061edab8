// SPDX-License-Identifier: Apache-2.0
#include "gpu_space.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace dsgd::cuda {

std::string unavailable() {
  static const std::string reason = []() -> std::string {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    for (int k = 0; status == cudaSuccess && k < devices; ++k) {  // ranks take all of them
      cudaDeviceProp about{};
      if (cudaGetDeviceProperties(&about, k) == cudaSuccess && about.major < 8)
        return fmt::format(
            "no GPU: {} has compute capability {}.{}, bfloat16, TF32 and the kernels of this build need 8.0; "
            "leave it out (CUDA_VISIBLE_DEVICES), or use another device",
            about.name, about.major, about.minor);
    }
    if (status == cudaSuccess && devices > 0) return "";
    cudaGetLastError();  // it stays until somebody asks
    int driver = 0, runtime = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
      return "no GPU: there is no CUDA driver; install the GPU's, or use another device";
    cudaRuntimeGetVersion(&runtime);
    return fmt::format(
        "no GPU: {} (the driver serves CUDA {}.{}, this program needs {}.{}); see nvidia-smi, or use another "
        "device",
        status == cudaSuccess ? "the driver shows none" : cudaGetErrorString(status), driver / 1000,
        driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }();
  return reason;
}

void fail(const char* reason, const char* call, const char* file, int line) {
  const char* name = std::strrchr(file, '/');
  throw std::runtime_error(fmt::format("{}:{}: {} (in {})", name ? name + 1 : file, line, reason, call));
}

namespace {

void* allocate_device(std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw std::runtime_error(
        fmt::format("the GPU has no room for {} MB more ({} of {} MB are free): use a smaller minibatch or "
                    "fewer ranks a GPU",
                    bytes >> 20, free >> 20, total >> 20));
  }
  check(status, "cudaMalloc", __FILE__, __LINE__);
  return data;
}

void free_device(void* data) {
  cudaDeviceSynchronize();  // cudaFree may wait for who still uses it, or not
  cudaFree(data);
}

}  // namespace

Memory Memory::device(std::size_t bytes) {
  Memory m;
  if (bytes > 0) m.data_ = allocate_device(bytes);
  m.bytes_ = bytes;
  return m;
}

Memory Memory::pinned(std::size_t bytes) {
  Memory m;
  DSGD_CHECK(cudaHostAlloc(&m.data_, std::max<std::size_t>(bytes, 1), cudaHostAllocDefault));
  std::memset(m.data_, 0, bytes);
  m.bytes_ = bytes;
  m.pinned_ = true;
  return m;
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(pinned_, other.pinned_);
  return *this;
}

Memory::~Memory() {
  if (data_ && pinned_)
    cudaFreeHost(data_);
  else if (data_)
    free_device(data_);
}

const GpuSpace& gpu_space() {
  static const GpuSpace* const space = [] {
    int devices = 0;
    DSGD_CHECK(cudaGetDeviceCount(&devices));
    const char* rank = nullptr;  // among the ranks of this host
    for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"})
      if (!rank) rank = std::getenv(name);
    DSGD_CHECK(cudaSetDevice(rank ? std::atoi(rank) % devices : 0));
    return new GpuSpace;  // not destroyed: CUDA may have ended before
  }();
  return *space;
}

float* GpuSpace::allocate(std::size_t n) const {
  const std::size_t bytes = std::max<std::size_t>(n, 1) * sizeof(float);
  void* const data = allocate_device(bytes);
  DSGD_CHECK(cudaMemsetAsync(data, 0, bytes, stream_));
  return static_cast<float*>(data);
}

void GpuSpace::release(float* data) const { free_device(data); }

void GpuSpace::copy(const float* x, float* y, std::size_t n) const {
  if (n) DSGD_CHECK(cudaMemcpyAsync(y, x, n * sizeof(float), cudaMemcpyDeviceToDevice, stream_));
}

// Copies of both ways go to the one stream, which keeps their order and that of whatever is done to the
// vector: a portion comes after the one that its memory held has gone back.
void GpuSpace::through_host(float* x, std::size_t n, Way way, const Portion& f) const {
  const auto at = [&](std::size_t i) { return bounce_.as<float>() + i % portions * portion; };
  const auto size = [&](std::size_t i) { return std::min(portion, n - i * portion); };
  const auto begin = [&](std::size_t i, void* to, const void* from, cudaMemcpyKind kind) {
    DSGD_CHECK(cudaMemcpyAsync(to, from, size(i) * sizeof(float), kind, stream_));
    DSGD_CHECK(cudaEventRecord(copied_[i % portions], stream_));
  };
  const auto fetch = [&](std::size_t i) {
    if (way != Way::write && i * portion < n) begin(i, at(i), x + i * portion, cudaMemcpyDeviceToHost);
  };
  for (std::size_t i = 0; i + 1 < portions; ++i) fetch(i);
  for (std::size_t i = 0; i * portion < n; ++i) {
    fetch(i + portions - 1);
    DSGD_CHECK(cudaEventSynchronize(copied_[i % portions]));  // it has come, or what lay there has gone
    f(i * portion, at(i), size(i));
    if (way != Way::read) begin(i, x + i * portion, at(i), cudaMemcpyHostToDevice);
  }
}

std::optional<GpuQueue> gpu_queue(const Space& space) {
  const auto* gpu = dynamic_cast<const GpuSpace*>(&space);
  if (!gpu) return std::nullopt;
  GpuQueue p{.stream = gpu->stream()};
  DSGD_CHECK(cudaGetDevice(&p.device));
  cudaDeviceProp about{};
  DSGD_CHECK(cudaGetDeviceProperties(&about, p.device));
  std::memcpy(p.uuid.data(), about.uuid.bytes, p.uuid.size());
  return p;
}

}  // namespace dsgd::cuda
