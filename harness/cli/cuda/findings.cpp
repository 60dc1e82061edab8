// SPDX-License-Identifier: Apache-2.0
#include <cudnn.h>
#include <fmt/format.h>
#ifdef DSGD_HAVE_NCCL
#include <nccl.h>
#endif

#include <algorithm>

#include "cli/doctor.h"
#include "gpu_space.h"

namespace dsgd {
namespace {

using cuda::check;
using Findings = std::vector<Finding>;

std::string dotted(std::size_t version, std::size_t major, std::size_t minor) {
  return fmt::format("{}.{}.{}", version / major, version % major / minor, version % minor);
}

Findings libraries() {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  Findings all{{Finding::good, "CUDA",
                fmt::format("runtime {}.{}, the driver serves {}", runtime / 1000, runtime % 1000 / 10,
                            driver ? fmt::format("{}.{}", driver / 1000, driver % 1000 / 10)
                                   : "nothing: there is none")},
               {Finding::good, "cuDNN", dotted(cudnnGetVersion(), 10000, 100)}};
  if (driver && driver < runtime / 1000 * 1000) {
    all[0].state = Finding::absent;
    all[0].fix = "install a driver for this CUDA, or build with the CUDA that the driver serves";
  }
#ifdef DSGD_HAVE_NCCL
  int nccl = 0;
  ncclGetVersion(&nccl);
  all.push_back({Finding::good, "NCCL", dotted(std::size_t(nccl), 10000, 100)});
#else
  all.push_back({Finding::absent, "NCCL",
                 "this program was built without: GPUs exchange vectors through the host",
                 "install NCCL from 2.18 on and configure again"});
#endif
  return all;
}

// Bytes per second of copies of 64 MiB, the best of a few. Leaves `to_device` current.
double rate(void* to, int to_device, const void* from, int from_device, bool between) {
  constexpr std::size_t bytes = std::size_t(64) << 20;
  DSGD_CHECK(cudaSetDevice(to_device));
  const cuda::Stream stream;
  cudaEvent_t begun = nullptr, ended = nullptr;
  DSGD_CHECK(cudaEventCreate(&begun));
  DSGD_CHECK(cudaEventCreate(&ended));
  float best = 1e9;
  for (int i = 0; i < 5; ++i) {
    DSGD_CHECK(cudaEventRecord(begun, stream));
    if (between)
      DSGD_CHECK(cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, stream));
    else
      DSGD_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
    DSGD_CHECK(cudaEventRecord(ended, stream));
    DSGD_CHECK(cudaEventSynchronize(ended));
    float milliseconds = 0;
    DSGD_CHECK(cudaEventElapsedTime(&milliseconds, begun, ended));
    best = std::min(best, milliseconds);
  }
  cudaEventDestroy(begun);
  cudaEventDestroy(ended);
  return double(bytes) / (best * 1e-3);
}

Findings gpus() {
  Findings all;
  int count = 0;
  DSGD_CHECK(cudaGetDeviceCount(&count));
  constexpr std::size_t bytes = std::size_t(64) << 20;
  std::vector<cuda::Memory> memory;
  const cuda::Memory host = cuda::Memory::pinned(bytes);
  for (int i = 0; i < count; ++i) {
    DSGD_CHECK(cudaSetDevice(i));
    cudaDeviceProp about{};
    DSGD_CHECK(cudaGetDeviceProperties(&about, i));
    std::size_t free = 0, total = 0;
    DSGD_CHECK(cudaMemGetInfo(&free, &total));
    memory.push_back(cuda::Memory::device(bytes));
    const double in = rate(memory[i].data(), i, host.data(), i, false),
                 out = rate(host.data(), i, memory[i].data(), i, false);
    all.push_back(
        {Finding::good, fmt::format("GPU {}", i),
         fmt::format(
             "{}, {} of {} MiB free, compute capability {}.{}, {} multiprocessors; pinned memory to it "
             "{:.1f} GB/s, from it {:.1f} GB/s",
             about.name, free >> 20, total >> 20, about.major, about.minor, about.multiProcessorCount,
             in / 1e9, out / 1e9)});
  }
#ifdef DSGD_HAVE_NCCL
  if (count == 1)
    all.push_back({Finding::absent, "NCCL",
                   "one GPU: ranks share it and exchange vectors through the host, since NCCL takes one rank "
                   "on each"});
#endif
  for (int from = 0; from < count; ++from)
    for (int to = 0; to < count; ++to) {
      if (from == to) continue;
      int direct = 0, rank = 0;
      DSGD_CHECK(cudaDeviceCanAccessPeer(&direct, to, from));
      DSGD_CHECK(cudaDeviceGetP2PAttribute(&rank, cudaDevP2PAttrPerformanceRank, from, to));
      DSGD_CHECK(cudaSetDevice(to));
      if (direct && cudaDeviceEnablePeerAccess(from, 0) != cudaSuccess) cudaGetLastError();
      const double between = rate(memory[to].data(), to, memory[from].data(), from, true);
      all.push_back({Finding::good, fmt::format("GPU {} to {}", from, to),
                     fmt::format("{} (performance rank {}), {:.1f} GB/s",
                                 direct ? "direct" : "through the host's memory", rank, between / 1e9)});
    }
  return all;
}

}  // namespace

Findings gpu_findings() {
  Findings all = libraries();
  if (!cuda::unavailable().empty()) return all;  // `device cudnn` says why
  try {
    const Findings there = gpus();
    all.insert(all.end(), there.begin(), there.end());
  } catch (const std::runtime_error& e) {
    all.push_back(
        {Finding::absent, "GPU", e.what(), "see nvidia-smi, and the system's log for the driver's words"});
  }
  return all;
}

}  // namespace dsgd
