// SPDX-License-Identifier: Apache-2.0
#include "mpi/group.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace dsgd {

MpiGroup::MpiGroup(const Ranks& ranks, MPI_Comm workers, Traffic& traffic)
    : comm_(workers),
      ranks_(ranks),
      host_(ranks_are_processes ? split(comm_, ranks.host()) : duplicate(MPI_COMM_SELF)),
      rank_(comm_.rank()),
      size_(comm_.size()),
      neighbour_(host_.rank()),
      neighbours_(host_.size()),
      slices_(agree(neighbours_, MPI_INT, MPI_MIN, comm_)),
      shared_(agree(neighbours_, MPI_INT, MPI_MAX, comm_) > 1),
      peers_(shared_ ? split(comm_, neighbour_ < slices_ ? neighbour_ : MPI_UNDEFINED) : duplicate(comm_)),
      hosts_(neighbour_ < slices_ ? peers_.size() : 0),
      traffic_(traffic) {
  members_.resize(neighbours_);
  MPI_Allgather(&ranks.rank, 1, MPI_INT, members_.data(), 1, MPI_INT, host_);
  if (shared_) portions_ = share(portion);
}

Vec MpiGroup::vector(std::size_t n) {
  if (shared_) {
    vectors_.push_back({share(n), n});
    return {vectors_.back().copies[neighbour_], n, &host_space()};
  }
  return private_.emplace_back(host_space(), n);
}

std::vector<float*> MpiGroup::share(std::size_t n) {
  SharedMemory own(n * sizeof(float));
  std::vector<SharedMemory::Handle> handles(neighbours_, own.handle());
  MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, handles.data(), sizeof handles[0], MPI_BYTE, host_);
  std::vector<float*> copies;
  for (int k = 0; k < neighbours_; ++k) {
    memory_.push_back(k == neighbour_ ? std::move(own) : SharedMemory(handles[k]));
    copies.push_back(reinterpret_cast<float*>(memory_.back().data()));
  }
  MPI_Barrier(host_);  // all have found what they map
  return copies;
}

void add_up(const Space& space, const std::vector<float*>& copies, std::size_t first, std::size_t count,
            float* sum) {
  if (sum != copies[0]) space.copy(copies[0] + first, sum + first, count);
  for (std::size_t k = 1; k < copies.size(); ++k) space.axpy(1, copies[k] + first, sum + first, count);
}

void spread(const Space& space, float a, const std::vector<float*>& copies, std::size_t first,
            std::size_t count) {
  if (a != 1) space.scale(a, copies[0] + first, count);
  for (std::size_t k = 1; k < copies.size(); ++k) space.copy(copies[0] + first, copies[k] + first, count);
}

void MpiGroup::reduce(float a, Vec v) {
  counted(v, [&] { sum_vectors(a, v); });
}

void MpiGroup::in_place(float a, const std::vector<float*>& copies, std::size_t first, std::size_t n) {
  meet();
  const auto bound = [&](int slice) {
    return first + (slice == slices_ ? n : n * slice / slices_ / 16 * 16);
  };
  if (neighbour_ < slices_) {
    const std::size_t begin = bound(neighbour_), end = bound(neighbour_ + 1);
    in_pieces(begin, end, cached, [&](std::size_t at, std::size_t count) {
      add_up(host_space(), copies, at, count, copies[0]);
      if (hosts_ == 1) spread(host_space(), a, copies, at, count);
    });
    in_pieces(begin, hosts_ > 1 ? end : begin, at_most, [&](std::size_t at, std::size_t count) {
      MPI_Allreduce(MPI_IN_PLACE, copies[0] + at, int(count), MPI_FLOAT, MPI_SUM, peers_);
      spread(host_space(), a, copies, at, count);
    });
  }
  meet();
}

void MpiGroup::meet() {
  if (neighbours_ == 1) return;
  ++met_;
  const auto barriers = [&](int rank) { return std::atomic_ref(ranks_.flags(rank).barriers); };
  barriers(ranks_.rank).store(met_, std::memory_order_release);
  for (const int k : members_)
    ranks_.spin.wait([&] { return std::int32_t(barriers(k).load(std::memory_order_acquire) - met_) >= 0; });
}

}  // namespace dsgd
