// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gpu_space.h"

namespace dsgd {

// An NCCL communicator and a thread that watches it. NCCL calls that return ncclInProgress are waited for
// here. The thread watches the sums that are queued on the GPU, so that no caller blocks on them. If NCCL
// reports a failure, or a sum has not completed after `seconds`, the thread ends the process with a message.
class NcclCommunicator {
 public:
  // Collective. Throws std::runtime_error if NCCL fails or a peer does not answer within `seconds`.
  NcclCommunicator(const ncclUniqueId& id, int rank, int size, int device, double seconds);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;

  // Later sums wait on the GPU for `event`, or for everything queued on `compute` so far.
  void wait(cudaEvent_t event);
  void wait(cudaStream_t compute);
  void sum(float* v, std::size_t n);  // queues v <- sum over the workers of v; throws std::runtime_error
  void hold(cudaStream_t compute);    // later operations of `compute` wait on the GPU for the sums
  void await();                       // blocks the host until the sums are done
  double ended();                     // seconds of the sums that completed since the last call

 private:
  struct Sum {
    cudaEvent_t begun = nullptr, ended = nullptr;
    std::chrono::steady_clock::time_point queued;
  };
  Sum fresh();
  std::string reason(ncclResult_t status, const char* call) const;
  void finish(ncclResult_t status, const char* call);
  void watch();
  [[noreturn]] void die(const std::string& why);
  void abort();

  ncclComm_t comm_ = nullptr;
  const int rank_, device_;
  const cuda::Stream stream_;
  const cuda::Event ready_, summed_;
  const double seconds_;
  std::mutex mutex_;  // guards everything below, and calls to NCCL
  std::condition_variable over_;
  std::deque<Sum> pending_;
  std::vector<Sum> spare_;
  bool done_ = false;
  std::thread watch_;
};

}  // namespace dsgd
