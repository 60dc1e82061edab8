#include <algorithm>
#include <limits>
#include <stdexcept>

#include "mpi/group.h"

// MpiGroup's verbs that carry byte strings.

namespace dsgd {

struct MpiGroup::Layout {
  explicit Layout(const std::vector<std::int64_t>& lengths) {
    for (const std::int64_t length : lengths) {
      firsts.push_back(int(total));
      counts.push_back(int(length));
      total += length;
      if (total > std::numeric_limits<int>::max())
        throw std::length_error(
            "a worker's messages in one exchange exceed 2 GB: use fewer workers or a stronger compression");
    }
  }
  std::vector<Bytes> split(const Bytes& all) const {
    std::vector<Bytes> messages;
    for (std::size_t k = 0; k < counts.size(); ++k) {
      const auto first = all.begin() + firsts[k];
      messages.emplace_back(first, first + counts[k]);
    }
    return messages;
  }
  std::vector<int> counts, firsts;  // as MPI has them
  std::int64_t total = 0;
};

void MpiGroup::count(std::int64_t sent, std::int64_t received) {
  traffic_.bytes_sent += sent;
  traffic_.bytes_received += received;
  ++traffic_.messages;
}

MpiGroup::Layout MpiGroup::gather(const Bytes& message, Bytes& all) {
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

#ifdef SMPI_H
// All receive into the same memory: what is written there is the same.
void MpiGroup::all_gather_into(Vec v, const Bytes& message, std::size_t n, const Unpack& unpack) {
  if (size_ == 1) return Group::all_gather_into(v, message, n, unpack);
  ++traffic_.synchronisations;
  Office& office = ranks_.office();
  office.summands.resize(size_);
  office.summands[rank_] = v.data;
  const Layout in = [&] {
    const Stopwatch stopwatch(traffic_.seconds);
    return gather(message, office.messages);
  }();
  compress(n, [&] {
    if (office.done == 0) {
      unpack(in.split(office.messages));
      for (float* const copy : office.summands)
        if (copy != v.data) std::copy_n(v.data, v.size, copy);
    }
    office.done = (office.done + 1) % size_;
  });
}
#endif

std::vector<Bytes> MpiGroup::all_to_all(const std::vector<Bytes>& messages) {
  ++traffic_.synchronisations;
  if (size_ == 1) return messages;
  const Stopwatch stopwatch(traffic_.seconds);
  std::vector<std::int64_t> leaving(size_), lengths(size_);
  for (int k = 0; k < size_; ++k) leaving[k] = std::int64_t(messages.at(k).size());
  MPI_Alltoall(leaving.data(), 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_);
  const Layout out(leaving), in(lengths);
  count(out.total - leaving[rank_], in.total - lengths[rank_]);
#ifdef SMPI_H
  return ranks_.office().mailboxes.all_to_all(rank_, messages, lengths);
#else
  Bytes sent(out.total), received(in.total);
  for (int k = 0; k < size_; ++k)
    std::copy(messages[k].begin(), messages[k].end(), sent.begin() + out.firsts[k]);
  MPI_Alltoallv(sent.data(), out.counts.data(), out.firsts.data(), MPI_BYTE, received.data(),
                in.counts.data(), in.firsts.data(), MPI_BYTE, comm_);
  return in.split(received);
#endif
}

}  // namespace dsgd
