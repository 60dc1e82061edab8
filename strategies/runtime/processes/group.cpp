// SPDX-License-Identifier: Apache-2.0
#include "mpi/group.h"

#include <algorithm>

namespace dsgd {

void MpiGroup::sum_vectors(float a, Vec v) {
  const auto holds = [&](const Shared& s) {
    return v.data >= s.copies[neighbour_] && v.data + v.size <= s.copies[neighbour_] + s.n;
  };
  const auto in = std::find_if(vectors_.begin(), vectors_.end(), holds);
  if (in != vectors_.end()) return in_place(a, in->copies, v.data - in->copies[neighbour_], v.size);
  v.space->through_host(v.data, v.size, Space::Way::both, [&](std::size_t, float* own, std::size_t n) {
    if (!shared_) {
      alone_[0] = own;
      return in_place(a, alone_, 0, n);
    }
    in_pieces(0, n, portion, [&](std::size_t at, std::size_t count) {
      std::copy_n(own + at, count, portions_[neighbour_]);
      in_place(a, portions_, 0, count);
      std::copy_n(portions_[neighbour_], count, own + at);
    });
  });
}

ConstVec MpiGroup::end_sum(Vec v) { return Group::end_sum(v); }

void MpiGroup::all_gather_into(Vec v, const Bytes& message, std::size_t n, const Unpack& unpack) {
  Group::all_gather_into(v, message, n, unpack);
}

std::vector<Bytes> MpiGroup::exchange(const std::vector<Bytes>& messages, const Layout& out,
                                      const Layout& in) {
  Bytes sent(out.total), received(in.total);
  for (int k = 0; k < size_; ++k)
    std::copy(messages[k].begin(), messages[k].end(), sent.begin() + out.firsts[k]);
  MPI_Alltoallv(sent.data(), out.counts.data(), out.firsts.data(), MPI_BYTE, received.data(),
                in.counts.data(), in.firsts.data(), MPI_BYTE, comm_);
  return in.split(received);
}

}  // namespace dsgd
