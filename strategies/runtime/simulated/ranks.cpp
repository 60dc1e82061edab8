// SPDX-License-Identifier: Apache-2.0
#include "mpi/ranks.h"

namespace dsgd {

void Ranks::join(int) {
  auto* common = &common_;  // the first rank's, for all
  if (rank == 0) common_ = std::make_shared<Common>(size);
  MPI_Bcast(&common, sizeof common, MPI_BYTE, 0, comm);
  common_ = *common;
  common_->mailboxes.open(rank);
  MPI_Barrier(comm);
}

// SimGrid looks through all messages on their way to a rank for every one of them: the content passes beside
// it.
std::vector<Bytes> gather(const Ranks& ranks, std::span<const std::byte> data) {
  Common& common = ranks.common();
  std::vector<Bytes>& all = common.gathered[common.gathers[ranks.rank]++];
  all.resize(ranks.size);
  all[ranks.rank].assign(data.begin(), data.end());
  MPI_Barrier(ranks.comm);
  return ranks.rank == 0 ? std::move(all) : std::vector<Bytes>();
}

}  // namespace dsgd
