#include "strategies/nccl_group.h"

#include <fmt/format.h>
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "models/cuda.h"

namespace dsgd {
namespace {

using Clock = std::chrono::steady_clock;
using cuda::check;

double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// A communicator of NCCL and the thread that watches it. Calls that NCCL has not finished (ncclInProgress)
// are waited for here, what it has queued on the GPU is waited for by the watch: nobody else waits.
class Communicator {
 public:
  Communicator(const ncclUniqueId& id, int rank, int size, int device, double seconds)
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
  ~Communicator() {
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
  Communicator(const Communicator&) = delete;

  // The sums that follow wait for `event`, or for what `compute` holds.
  void wait(cudaEvent_t event) { DSGD_CHECK(cudaStreamWaitEvent(stream_, event, 0)); }
  void wait(cudaStream_t compute) {
    DSGD_CHECK(cudaEventRecord(ready_, compute));
    wait(cudaEvent_t(ready_));
  }
  // Queues v <- sum over the workers of v.
  void sum(float* v, std::size_t n) {
    const std::lock_guard lock(mutex_);
    const Sum sum = fresh();
    DSGD_CHECK(cudaEventRecord(sum.begun, stream_));
    finish(ncclAllReduce(v, v, n, ncclFloat32, ncclSum, comm_, stream_), "ncclAllReduce");
    DSGD_CHECK(cudaEventRecord(sum.ended, stream_));
    pending_.push_back(sum);
  }
  // What `compute` will hold waits for the sums.
  void hold(cudaStream_t compute) {
    DSGD_CHECK(cudaEventRecord(summed_, stream_));
    DSGD_CHECK(cudaStreamWaitEvent(compute, summed_, 0));
  }

  // Seconds of the sums that have ended since this was asked last.
  double ended() {
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

 private:
  struct Sum {
    cudaEvent_t begun = nullptr, ended = nullptr;
    Clock::time_point queued;
  };

  Sum fresh() {
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

  std::string reason(ncclResult_t status, const char* call) const {
    const char* last = ncclGetLastError(comm_);
    return fmt::format("{}: {}{}{} (NCCL_DEBUG=WARN says more)", call, ncclGetErrorString(status),
                       last && *last ? ": " : "", last ? last : "");
  }

  // Until NCCL has done what it was asked for on the host.
  void finish(ncclResult_t status, const char* call) {
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
  void watch() {
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

  [[noreturn]] void die(const std::string& why) {
    fmt::print(stderr, "rank {}: NCCL: {}\n", rank_, why);
    std::fflush(stderr);
    abort();
    std::_Exit(1);
  }

  // The GPU stops waiting. It has been seen that this hangs itself: a process that cannot end ends with a
  // signal.
  void abort() {
    const unsigned before = alarm(10);
    ncclCommAbort(comm_);
    alarm(before);
  }

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

class NcclGroup final : public Group {
 public:
  NcclGroup(World& world, const Space& space, const ncclUniqueId& id, double seconds)
      : group_(world.group()),
        traffic_(world.traffic()),
        space_(space),
        place_(*cuda::place(space)),
        communicator_(id, group_.rank(), group_.size(), place_.device, seconds) {}
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  void tree_sum(int fan, Vec v) override { group_.tree_sum(fan, v); }
  void compress(std::size_t n, const std::function<void()>& work) override { group_.compress(n, work); }
  void charge_compression(double seconds) override { group_.charge_compression(seconds); }
  std::vector<Bytes> all_gather(const Bytes& message) override { return group_.all_gather(message); }
  std::vector<Bytes> all_to_all(const std::vector<Bytes>& messages) override {
    return group_.all_to_all(messages);
  }
  void begin_mix(ConstVec v, const std::vector<int>& offsets) override { group_.begin_mix(v, offsets); }
  void end_mix(Vec v) override { group_.end_mix(v); }
  Vec vector(std::size_t n) override { return vectors_.emplace_back(space_, n); }
  OnReady begin_sum(Vec v, std::size_t bucket) override {
    bucket_ = v.space == &space_ && bucket < v.size ? bucket : 0;
    if (bucket_ == 0) return {};
    begun_ = v;
    buckets_ = left_ = (v.size + bucket - 1) / bucket;
    return {bucket, [this](std::size_t first, void* event) {
              if (left_ == 0 || (left_ - 1) * bucket_ < first) return;
              communicator_.wait(static_cast<cudaEvent_t>(event));
              sum_from(first);
            }};
  }
  void end_sum(Vec v) override {
    if (bucket_ == 0) return sum(v);
    count(v.size);
    communicator_.wait(place_.stream);
    sum_from(0);
    communicator_.hold(place_.stream);
    bucket_ = 0;
  }
  std::string library() const override {
    int version = 0;
    ncclGetVersion(&version);
    const std::string buckets =
        buckets_ ? fmt::format(", gradients in {} buckets during the backward pass", buckets_) : "";
    return fmt::format("NCCL {}.{}.{}{}", version / 10000, version % 10000 / 100, version % 100, buckets);
  }

 private:
  void reduce(float a, Vec v) override {
    if (v.space != &space_) return a == 1 ? group_.sum(v) : group_.mean(v);
    count(v.size);
    if (v.size > 0) {
      communicator_.wait(place_.stream);
      communicator_.sum(v.data, v.size);
      communicator_.hold(place_.stream);
    }
    if (a != 1) scale(a, v);
  }
  // Begins those of the buckets left that lie behind `first`.
  void sum_from(std::size_t first) {
    for (; left_ > 0 && (left_ - 1) * bucket_ >= first; --left_) {
      const std::size_t at = (left_ - 1) * bucket_;
      communicator_.sum(begun_.data + at, std::min(bucket_, begun_.size - at));
    }
  }
  void count(std::size_t n) {
    ++traffic_.synchronisations;
    ++traffic_.messages;
    traffic_.seconds += communicator_.ended();
    const auto volume = std::int64_t(2 * sizeof(float) * n * (size() - 1) / size());
    traffic_.bytes_sent += volume;
    traffic_.bytes_received += volume;
  }

  Group& group_;
  Traffic& traffic_;
  const Space& space_;
  const cuda::Place place_;
  Communicator communicator_;
  std::deque<Vector> vectors_;
  Vec begun_;                          // the vector whose buckets are on their way
  std::size_t bucket_ = 0, left_ = 0;  // their size, 0: none are; those that have not begun
  std::size_t buckets_ = 0;            // of the last such vector
};

// A trivial value as a message.
template <typename T>
Bytes bytes_of(const T& value) {
  Bytes bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

}  // namespace

std::unique_ptr<Group> nccl_group(World& world, const Space& space, double seconds, std::string& why) {
  Group& group = world.group();
  const auto place = cuda::place(space);
  const auto cards = group.all_gather(place ? bytes_of(place->uuid) : Bytes());
  std::set<std::string> distinct;
  for (const Bytes& card : cards) distinct.emplace(reinterpret_cast<const char*>(card.data()), card.size());
  if (group.size() == 1)
    why = "there is one worker";
  else if (distinct.contains(""))
    why = "not all workers compute on a GPU";
  else if (distinct.size() < cards.size())
    why =
        fmt::format("{} workers share {} GPUs, NCCL takes one worker on each", cards.size(), distinct.size());
  else
    why = "";
  if (!why.empty()) return nullptr;
  ncclUniqueId id{};
  ncclResult_t status = ncclSuccess;
  if (group.rank() == 0) status = ncclGetUniqueId(&id);
  const Bytes first =
      group.all_gather(group.rank() == 0 && status == ncclSuccess ? bytes_of(id) : Bytes())[0];
  if (first.empty())
    throw std::runtime_error(fmt::format("ncclGetUniqueId: {} (NCCL_SOCKET_IFNAME names the network to use)",
                                         ncclGetErrorString(status)));
  std::memcpy(&id, first.data(), sizeof id);
  return std::make_unique<NcclGroup>(world, space, id, seconds);
}

}  // namespace dsgd
