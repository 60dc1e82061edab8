// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "mpi/group.h"

// MpiGroup's verbs that carry byte strings.

namespace dsgd {

Layout::Layout(const std::vector<std::int64_t>& lengths) {
  for (const std::int64_t length : lengths) {
    firsts.push_back(int(total));
    counts.push_back(int(length));
    total += length;
    if (total > std::numeric_limits<int>::max())
      throw std::length_error(
          "a worker's messages in one exchange exceed 2 GB: use fewer workers or a stronger compression");
  }
}

std::vector<Bytes> Layout::split(const Bytes& all) const {
  std::vector<Bytes> messages;
  for (std::size_t k = 0; k < counts.size(); ++k) {
    const auto first = all.begin() + firsts[k];
    messages.emplace_back(first, first + counts[k]);
  }
  return messages;
}

void MpiGroup::count(std::int64_t sent, std::int64_t received) {
  traffic_.bytes_sent += sent;
  traffic_.bytes_received += received;
  ++traffic_.messages;
}

Layout MpiGroup::gather(const Bytes& message, Bytes& all) {
  std::vector<std::int64_t> lengths(size_);
  lengths[rank_] = std::int64_t(message.size());
  MPI_Allgather(MPI_IN_PLACE, 0, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_);
  const Layout in(lengths);
  all.resize(in.total);
  MPI_Allgatherv(message.data(), in.counts[rank_], MPI_BYTE, all.data(), in.counts.data(), in.firsts.data(),
                 MPI_BYTE, comm_);
  count((size_ - 1) * lengths[rank_], in.total - lengths[rank_]);
  return in;
}

std::vector<Bytes> MpiGroup::all_gather(const Bytes& message) {
  ++traffic_.synchronisations;
  if (size_ == 1) return {message};
  const Stopwatch stopwatch(traffic_.seconds);
  Bytes all;
  return gather(message, all).split(all);
}

std::vector<Bytes> MpiGroup::all_to_all(const std::vector<Bytes>& messages) {
  ++traffic_.synchronisations;
  if (size_ == 1) return messages;
  const Stopwatch stopwatch(traffic_.seconds);
  std::vector<std::int64_t> leaving(size_), lengths(size_);
  for (int k = 0; k < size_; ++k) leaving[k] = std::int64_t(messages.at(k).size());
  MPI_Alltoall(leaving.data(), 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_);
  const Layout out(leaving), in(lengths);
  count(out.total - leaving[rank_], in.total - lengths[rank_]);
  return exchange(messages, out, in);
}

}  // namespace dsgd
