#include <algorithm>
#include <limits>
#include <stdexcept>

#include "strategies/mpi_group.h"

// MpiGroup's verbs that carry byte strings.

namespace dsgd {
namespace {

// Byte strings one after the other, as MPI counts them.
struct Layout {
  explicit Layout(const std::vector<std::int64_t>& lengths) {
    std::int64_t total = 0;
    for (const std::int64_t length : lengths) {
      firsts.push_back(int(total));
      counts.push_back(int(length));
      total += length;
      if (total > std::numeric_limits<int>::max())
        throw std::length_error(
            "a worker's messages in one exchange exceed 2 GB: use fewer workers or a stronger compression");
    }
    bytes.resize(total);
  }
  std::vector<int> counts, firsts;
  Bytes bytes;
};

}  // namespace

template <typename Move>
std::vector<Bytes> MpiGroup::collect(std::int64_t sent, const std::vector<std::int64_t>& lengths, Move move) {
  Layout in(lengths);
  move(in);
  std::vector<Bytes> messages;
  for (int k = 0; k < size_; ++k) {
    const auto first = in.bytes.begin() + in.firsts[k];
    messages.emplace_back(first, first + in.counts[k]);
  }
  traffic_.bytes_sent += sent;
  traffic_.bytes_received += std::int64_t(in.bytes.size()) - lengths[rank_];
  ++traffic_.messages;
  return messages;
}

std::vector<Bytes> MpiGroup::all_gather(const Bytes& message) {
  ++traffic_.synchronisations;
  if (size_ == 1) return {message};
  const Stopwatch stopwatch(traffic_.seconds);
  std::vector<std::int64_t> lengths(size_);
  lengths[rank_] = std::int64_t(message.size());
  MPI_Allgather(MPI_IN_PLACE, 0, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_);
  return collect((size_ - 1) * lengths[rank_], lengths, [&](Layout& in) {
    MPI_Allgatherv(message.data(), in.counts[rank_], MPI_BYTE, in.bytes.data(), in.counts.data(),
                   in.firsts.data(), MPI_BYTE, comm_);
  });
}

std::vector<Bytes> MpiGroup::all_to_all(const std::vector<Bytes>& messages) {
  ++traffic_.synchronisations;
  if (size_ == 1) return messages;
  const Stopwatch stopwatch(traffic_.seconds);
  std::vector<std::int64_t> leaving(size_), lengths(size_);
  for (int k = 0; k < size_; ++k) leaving[k] = std::int64_t(messages.at(k).size());
  MPI_Alltoall(leaving.data(), 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_);
  Layout out(leaving);
  for (int k = 0; k < size_; ++k)
    std::copy(messages[k].begin(), messages[k].end(), out.bytes.begin() + out.firsts[k]);
  return collect(std::int64_t(out.bytes.size()) - leaving[rank_], lengths, [&](Layout& in) {
    MPI_Alltoallv(out.bytes.data(), out.counts.data(), out.firsts.data(), MPI_BYTE, in.bytes.data(),
                  in.counts.data(), in.firsts.data(), MPI_BYTE, comm_);
  });
}

}  // namespace dsgd
