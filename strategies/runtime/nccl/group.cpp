// SPDX-License-Identifier: Apache-2.0
#include "nccl/group.h"

#include <fmt/format.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <set>
#include <stdexcept>

#include "gpu_space.h"
#include "nccl/nccl_communicator.h"

namespace dsgd {
namespace {

class NcclGroup final : public GpuGroup {
 public:
  NcclGroup(World& world, const Space& space, const ncclUniqueId& id, double seconds)
      : group_(world.group()),
        traffic_(world.traffic()),
        space_(space),
        queue_(*cuda::gpu_queue(space)),
        communicator_(id, group_.rank(), group_.size(), queue_.device, seconds) {}
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
  ConstVec end_sum(Vec v) override {
    if (bucket_ == 0) return Group::end_sum(v);
    count(v.size);
    communicator_.wait(queue_.stream);
    sum_from(0);
    communicator_.hold(queue_.stream);
    bucket_ = 0;
    return v;
  }
  void settle() override {
    communicator_.await();
    traffic_.seconds += communicator_.ended();
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
      communicator_.wait(queue_.stream);
      communicator_.sum(v.data, v.size);
      communicator_.hold(queue_.stream);
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
  const cuda::GpuQueue queue_;
  NcclCommunicator communicator_;
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

std::unique_ptr<GpuGroup> nccl_group(World& world, const Space& space, double seconds, std::string& why) {
  Group& group = world.group();
  const auto queue = cuda::gpu_queue(space);
  const auto cards = group.all_gather(queue ? bytes_of(queue->uuid) : Bytes());
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
