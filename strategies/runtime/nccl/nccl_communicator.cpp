// SPDX-License-Identifier: Apache-2.0
#include "nccl/nccl_communicator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <stdexcept>

namespace dsgd {
namespace {

using Clock = std::chrono::steady_clock;
using cuda::check;

double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

}  // namespace

NcclCommunicator::NcclCommunicator(const ncclUniqueId& id, int rank, int size, int device, double seconds)
    : rank_(rank), device_(device), seconds_(seconds) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  DSGD_CHECK(cudaSetDevice(device));
  try {
    finish(ncclCommInitRankConfig(&comm_, size, id, rank, &config), "ncclCommInitRankConfig");
  } catch (...) {
    if (comm_) abort();
    throw;
  }
  watch_ = std::thread([this] { watch(); });
}

NcclCommunicator::~NcclCommunicator() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  over_.notify_one();
  watch_.join();
  try {
    if (std::uncaught_exceptions()) throw std::runtime_error("the run has failed");
    finish(ncclCommFinalize(comm_), "ncclCommFinalize");
    ncclCommDestroy(comm_);
  } catch (const std::runtime_error&) {  // nobody knows whether the peers still answer
    abort();
  }
  for (Sum& sum : pending_) spare_.push_back(sum);
  for (const Sum& sum : spare_)
    for (cudaEvent_t event : {sum.begun, sum.ended}) cudaEventDestroy(event);
}

void NcclCommunicator::wait(cudaEvent_t event) { DSGD_CHECK(cudaStreamWaitEvent(stream_, event, 0)); }

void NcclCommunicator::wait(cudaStream_t compute) {
  DSGD_CHECK(cudaEventRecord(ready_, compute));
  wait(cudaEvent_t(ready_));
}

void NcclCommunicator::sum(float* v, std::size_t n) {
  const std::lock_guard lock(mutex_);
  const Sum sum = fresh();
  DSGD_CHECK(cudaEventRecord(sum.begun, stream_));
  finish(ncclAllReduce(v, v, n, ncclFloat32, ncclSum, comm_, stream_), "ncclAllReduce");
  DSGD_CHECK(cudaEventRecord(sum.ended, stream_));
  pending_.push_back(sum);
}

void NcclCommunicator::hold(cudaStream_t compute) {
  DSGD_CHECK(cudaEventRecord(summed_, stream_));
  DSGD_CHECK(cudaStreamWaitEvent(compute, summed_, 0));
}

void NcclCommunicator::await() { DSGD_CHECK(cudaStreamSynchronize(stream_)); }

double NcclCommunicator::ended() {
  const std::lock_guard lock(mutex_);
  double seconds = 0;
  for (; !pending_.empty() && cudaEventQuery(pending_.front().ended) == cudaSuccess; pending_.pop_front()) {
    const Sum& sum = pending_.front();
    float milliseconds = 0;
    DSGD_CHECK(cudaEventElapsedTime(&milliseconds, sum.begun, sum.ended));
    seconds += milliseconds * 1e-3;
    spare_.push_back(sum);
  }
  return seconds;
}

NcclCommunicator::Sum NcclCommunicator::fresh() {
  Sum sum;
  if (spare_.empty()) {
    DSGD_CHECK(cudaEventCreate(&sum.begun));
    DSGD_CHECK(cudaEventCreate(&sum.ended));
  } else {
    sum = spare_.back();
    spare_.pop_back();
  }
  sum.queued = Clock::now();
  return sum;
}

std::string NcclCommunicator::reason(ncclResult_t status, const char* call) const {
  const char* last = ncclGetLastError(comm_);
  return fmt::format("{}: {}{}{} (NCCL_DEBUG=WARN says more)", call, ncclGetErrorString(status),
                     last && *last ? ": " : "", last ? last : "");
}

// Until NCCL has done what it was asked for on the host.
void NcclCommunicator::finish(ncclResult_t status, const char* call) {
  for (const auto begun = Clock::now(); status == ncclInProgress;) {
    if (const ncclResult_t asked = ncclCommGetAsyncError(comm_, &status); asked != ncclSuccess)
      status = asked;
    if (status != ncclInProgress) break;
    if (since(begun) > seconds_)
      throw std::runtime_error(
          fmt::format("{}: not done after {:g} s: a peer has died or hangs, or a link between GPUs is down",
                      call, seconds_));
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  if (status != ncclSuccess) throw std::runtime_error(reason(status, call));
}

// A GPU that waits for a dead peer waits forever, and so does whoever waits for that GPU.
void NcclCommunicator::watch() {
  cudaSetDevice(device_);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;  // a capture going on elsewhere is left alone
  cudaThreadExchangeStreamCaptureMode(&mode);
  std::unique_lock lock(mutex_);
  while (!done_) {
    over_.wait_for(lock, std::chrono::milliseconds(100));
    ncclResult_t status = ncclSuccess;
    if (const ncclResult_t asked = ncclCommGetAsyncError(comm_, &status); asked != ncclSuccess)
      status = asked;
    if (status != ncclSuccess && status != ncclInProgress) die(reason(status, "a sum of GPUs' vectors"));
    for (const Sum& sum : pending_) {
      const cudaError_t ended = cudaEventQuery(sum.ended);
      if (ended == cudaErrorNotReady && since(sum.queued) > seconds_)
        die(
            fmt::format("a sum of GPUs' vectors is not there after {:g} s: a peer has died or hangs, or a "
                        "link between GPUs is down",
                        seconds_));
      if (ended == cudaErrorNotReady) break;
      if (ended != cudaSuccess) die(cudaGetErrorString(ended));
    }
  }
}

void NcclCommunicator::die(const std::string& why) {
  fmt::print(stderr, "rank {}: NCCL: {}\n", rank_, why);
  std::fflush(stderr);
  abort();
  std::_Exit(1);
}

// The GPU stops waiting. It has been seen that this hangs itself: a process that cannot end ends with a
// signal.
void NcclCommunicator::abort() {
  const unsigned before = alarm(10);
  ncclCommAbort(comm_);
  alarm(before);
}

}  // namespace dsgd
