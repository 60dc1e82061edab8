// SPDX-License-Identifier: Apache-2.0
#include "mpi/ranks.h"

#include <random>
#include <stdexcept>
#include <thread>

namespace dsgd {

void Ranks::join(int ranks_per_host) {
  MPI_Comm neighbours;
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours);
  const Comm machine(neighbours);
  spin.crowded = machine.size() > int(std::thread::hardware_concurrency());
  const Comm own(split(machine, ranks_per_host ? rank / ranks_per_host : 0));
  const int first = agree(rank, MPI_INT, MPI_MIN, own);
  hosts_.resize(size);
  hosts_[rank] = share_flags(own) ? first : rank;
  MPI_Allgather(MPI_IN_PLACE, 0, MPI_INT, hosts_.data(), 1, MPI_INT, comm);
}

bool Ranks::share_flags(const Comm& own) {
  if (own.size() == 1) return false;
  struct {
    SharedMemory::Handle handle;
    std::uint32_t secret = 0;
  } offer;
  bool works = true;
  const auto attempt = [&](bool here, auto map) {
    try {
      if (here) flags_ = map();
    } catch (const std::runtime_error&) {
      works = false;
    }
  };
  const bool first = own.rank() == 0;
  attempt(first, [&] { return SharedMemory(size * sizeof(HostFlags)); });
  offer.handle = flags_.handle();
  offer.secret = std::random_device()();
  if (first && works) flags(0).secret = offer.secret;
  MPI_Bcast(&offer, sizeof offer, MPI_BYTE, 0, own);
  attempt(!first, [&] { return SharedMemory(offer.handle); });
  works = works && flags(0).secret == offer.secret;
  return agree(int(works), MPI_INT, MPI_MIN, own);
}

std::vector<Bytes> gather(const Ranks& ranks, std::span<const std::byte> data) {
  std::vector<std::int64_t> sizes(ranks.size);
  const auto own = std::int64_t(data.size());
  MPI_Gather(&own, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, 0, ranks.comm);
  std::vector<Bytes> all;
  if (ranks.rank > 0) {
    for (std::size_t done = 0; done < data.size(); done += at_most)
      MPI_Send(data.data() + done, int(std::min(at_most, data.size() - done)), MPI_BYTE, 0, gather_tag,
               ranks.comm);
    return all;
  }
  all.emplace_back(data.begin(), data.end());
  for (int r = 1; r < ranks.size; ++r) {
    auto& part = all.emplace_back(sizes[r]);
    for (std::size_t done = 0; done < part.size(); done += at_most)
      MPI_Recv(part.data() + done, int(std::min(at_most, part.size() - done)), MPI_BYTE, r, gather_tag,
               ranks.comm, MPI_STATUS_IGNORE);
  }
  return all;
}

}  // namespace dsgd
