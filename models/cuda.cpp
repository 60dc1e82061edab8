#include "models/cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace dsgd::cuda {

namespace {
constexpr std::size_t portion = std::size_t(1) << 20;  // bytes
}

std::string unavailable() {
  static const std::string reason = []() -> std::string {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
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

Memory Memory::device(std::size_t bytes) {
  Memory m;
  if (bytes == 0) return m;
  if (const cudaError_t status = cudaMalloc(&m.data_, bytes); status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw std::runtime_error(
        fmt::format("the GPU has no room for {} MB more ({} of {} MB are free): use a smaller minibatch or "
                    "fewer ranks a GPU",
                    bytes >> 20, free >> 20, total >> 20));
  } else {
    DSGD_CHECK(status);
  }
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
  if (data_) pinned_ ? cudaFreeHost(data_) : cudaFree(data_);
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
  void* data = nullptr;
  DSGD_CHECK(cudaMalloc(&data, bytes));
  DSGD_CHECK(cudaMemsetAsync(data, 0, bytes, stream_));
  return static_cast<float*>(data);
}

void GpuSpace::release(float* data) const { cudaFree(data); }  // waits for whoever still uses it

void GpuSpace::copy(const float* x, float* y, std::size_t n) const {
  if (n) DSGD_CHECK(cudaMemcpyAsync(y, x, n * sizeof(float), cudaMemcpyDeviceToDevice, stream_));
}

void GpuSpace::to_host(const float* x, float* y, std::size_t n) const {
  const std::size_t bytes = n * sizeof(float);
  const auto at = [&](std::size_t i) { return bounce_.as<std::byte>() + i % 2 * portion; };
  const auto size = [&](std::size_t i) { return std::min(portion, bytes - i * portion); };
  const std::size_t portions = (bytes + portion - 1) / portion;
  const auto fetch = [&](std::size_t i) {
    DSGD_CHECK(cudaMemcpyAsync(at(i), reinterpret_cast<const std::byte*>(x) + i * portion, size(i),
                               cudaMemcpyDeviceToHost, stream_));
    DSGD_CHECK(cudaEventRecord(copied_[i % 2], stream_));
  };
  for (std::size_t i = 0; i < portions; ++i) {
    if (i == 0) fetch(0);
    if (i + 1 < portions) fetch(i + 1);
    DSGD_CHECK(cudaEventSynchronize(copied_[i % 2]));
    std::memcpy(reinterpret_cast<std::byte*>(y) + i * portion, at(i), size(i));
  }
}

void GpuSpace::from_host(const float* x, float* y, std::size_t n) const {
  const std::size_t bytes = n * sizeof(float);
  for (std::size_t i = 0; i * portion < bytes; ++i) {
    std::byte* const at = bounce_.as<std::byte>() + i % 2 * portion;
    const std::size_t size = std::min(portion, bytes - i * portion);
    DSGD_CHECK(cudaEventSynchronize(copied_[i % 2]));  // what lay there before is on the GPU
    std::memcpy(at, reinterpret_cast<const std::byte*>(x) + i * portion, size);
    DSGD_CHECK(cudaMemcpyAsync(reinterpret_cast<std::byte*>(y) + i * portion, at, size,
                               cudaMemcpyHostToDevice, stream_));
    DSGD_CHECK(cudaEventRecord(copied_[i % 2], stream_));
  }
}

std::optional<Place> place(const Space& space) {
  const auto* gpu = dynamic_cast<const GpuSpace*>(&space);
  if (!gpu) return std::nullopt;
  Place p{.stream = gpu->stream()};
  DSGD_CHECK(cudaGetDevice(&p.device));
  cudaDeviceProp about{};
  DSGD_CHECK(cudaGetDeviceProperties(&about, p.device));
  std::memcpy(p.uuid.data(), about.uuid.bytes, p.uuid.size());
  return p;
}

}  // namespace dsgd::cuda
