// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "communicator.h"

namespace simgrid::s4u {
class Actor;
class Mailbox;
}  // namespace simgrid::s4u

namespace dsgd {

// Messages between simulated ranks, straight through SimGrid. They take as many virtual seconds as MPI's, and
// half as many real ones; many at a time between many ranks a tenth.
class Mailboxes {
 public:
  void open(int rank);  // by every rank, before anybody sends to it
  // Sizes alone. They return when MPI_Send, MPI_Recv and MPI_Sendrecv do. Both sides know the number of
  // bytes.
  void send(int rank, std::size_t bytes, int to);
  void receive(int rank, std::size_t bytes, int from);
  void exchange(int rank, std::size_t sent, int to, std::size_t received, int from);
  // All at a time, as MPI_Alltoallv's linear algorithm has it. `lengths`: of what each rank will receive.
  std::vector<Bytes> all_to_all(int rank, const std::vector<Bytes>& messages,
                                const std::vector<std::int64_t>& lengths);

 private:
  simgrid::s4u::Mailbox& box(int from, int to, std::size_t bytes);

  static inline int made_ = 0;
  int number_ = made_++;  // keeps names apart
  std::vector<simgrid::s4u::Actor*> ranks_;
  std::unordered_map<std::uint64_t, simgrid::s4u::Mailbox*> boxes_;
};

}  // namespace dsgd
