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

// A communicator of NCCL and the thread that watches it. Calls that NCCL has not finished (ncclInProgress)
// are waited for here, what it has queued on the GPU is waited for by the watch: nobody else waits. A sum
// that is not there after `seconds`, or that NCCL gives up, ends the process with a message.
class NcclCommunicator {
 public:
  // Collective; throws std::runtime_error where NCCL refuses or a peer does not come.
  NcclCommunicator(const ncclUniqueId& id, int rank, int size, int device, double seconds);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;

  // The sums that follow wait for `event`, or for what `compute` holds.
  void wait(cudaEvent_t event);
  void wait(cudaStream_t compute);
  void sum(float* v, std::size_t n);  // queues v <- sum over the workers of v
  void hold(cudaStream_t compute);    // what `compute` will hold waits for the sums
  void await();                       // on the host, for the sums
  double ended();                     // seconds of the sums that have ended since this was asked last

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
  std::mutex mutex_;  // of everything below, and of calls to NCCL
  std::condition_variable over_;
  std::deque<Sum> pending_;
  std::vector<Sum> spare_;
  bool done_ = false;
  std::thread watch_;
};

}  // namespace dsgd
