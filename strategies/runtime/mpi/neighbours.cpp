// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "mpi/group.h"

// MpiGroup's verbs in which workers send vectors to some of the others: along a tree, and to neighbours.

namespace dsgd {
namespace {

// v, or a copy of it in `staged` if the host cannot reach it.
template <typename V>
V within_reach(V v, Vector& staged) {
  const Space& space = reachable(*v.space);
  if (&space == v.space) return v;
  if (staged.size() != v.size) staged = Vector(space, v.size);
  copy(v, staged);
  return staged.view();
}

}  // namespace

void MpiGroup::send(ConstVec v, int to) {
  for (std::size_t done = 0; done < v.size; done += at_most) {
    MPI_Request request;
    const ConstVec piece = v.part(done, std::min(at_most, v.size - done));
    MPI_Isend(address(piece), int(piece.size), MPI_FLOAT, to, tree_tag, comm_, &request);
    ranks_.wait(request, false);
  }
  traffic_.bytes_sent += std::int64_t(v.size * sizeof(float));
  ++traffic_.messages;
}

void MpiGroup::receive(Vec v, int from) {
  for (std::size_t done = 0; done < v.size; done += at_most) {
    MPI_Request request;
    const Vec piece = v.part(done, std::min(at_most, v.size - done));
    MPI_Irecv(address(piece), int(piece.size), MPI_FLOAT, from, tree_tag, comm_, &request);
    ranks_.wait(request, false);
  }
  traffic_.bytes_received += std::int64_t(v.size * sizeof(float));
}

void MpiGroup::tree_sum(int fan, Vec v) {
  ++traffic_.synchronisations;
  if (size_ == 1) return;
  const Stopwatch stopwatch(traffic_.seconds);
  const Vec sum = within_reach(v, staged_);
  if (branch_.size() != v.size) branch_ = Vector(*sum.space, v.size);
  std::vector<int> children;
  int stride = 1;
  for (; stride < size_ && rank_ % (stride * fan) == 0; stride *= fan)
    for (int k = rank_ + stride; k < std::min(rank_ + fan * stride, size_); k += stride) {
      receive(branch_, k);
      axpy(1, branch_.view(), sum);
      children.push_back(k);
    }
  if (rank_ > 0) {
    const int parent = rank_ - rank_ % (stride * fan);
    send(sum, parent);
    receive(sum, parent);
  }
  for (auto k = children.rbegin(); k != children.rend(); ++k) send(sum, *k);
  if (sum.data != v.data) copy(sum, v);
}

void MpiGroup::begin_mix(ConstVec v, const std::vector<int>& offsets) {
  const Stopwatch stopwatch(traffic_.seconds);
  v = within_reach(v, staged_);
  mixed_.resize(offsets.size());
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (mixed_[i].size() != v.size) mixed_[i] = Vector(*v.space, v.size);
    const int from = (rank_ + offsets[i]) % size_, to = (rank_ + size_ - offsets[i]) % size_;
    for (std::size_t done = 0; done < v.size; done += at_most) {
      const int count = int(std::min(at_most, v.size - done));
      MPI_Irecv(address(mixed_[i].view().part(done, count)), count, MPI_FLOAT, from, mix_tag, comm_,
                &mixing_.emplace_back());
      MPI_Isend(address(v.part(done, count)), count, MPI_FLOAT, to, mix_tag, comm_, &mixing_.emplace_back());
    }
    traffic_.bytes_sent += std::int64_t(v.size * sizeof(float));
    traffic_.bytes_received += std::int64_t(v.size * sizeof(float));
    ++traffic_.messages;
  }
}

void MpiGroup::end_mix(Vec v) {
  if (mixed_.empty()) return;
  const Stopwatch stopwatch(traffic_.seconds);
  for (MPI_Request& request : mixing_) ranks_.wait(request, false);
  mixing_.clear();
  v.space->through_host(v.data, v.size, Space::Way::both, [&](std::size_t at, float* own, std::size_t n) {
    const Vec mean{own, n, &host_space()};
    for (const Vector& other : mixed_) axpy(1, other.view().part(at, n), mean);
    scale(1.0f / float(1 + mixed_.size()), mean);
  });
}

}  // namespace dsgd
