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

// Messages between simulated ranks by SimGrid's own mailboxes. They take as much virtual time as SimGrid's
// MPI, and half as much real time; with many messages between many ranks, a tenth.
class Mailboxes {
 public:
  void open(int rank);  // by every rank, before anybody sends to it
  // Messages with a size and no content. They return when MPI_Send, MPI_Recv and MPI_Sendrecv would. Sender
  // and receiver must state the same number of bytes.
  void send(int rank, std::size_t bytes, int to);
  void receive(int rank, std::size_t bytes, int from);
  void exchange(int rank, std::size_t sent, int to, std::size_t received, int from);
  // Sends all messages at the same time, like the linear algorithm of MPI_Alltoallv. lengths: bytes that this
  // rank receives from each rank.
  std::vector<Bytes> all_to_all(int rank, const std::vector<Bytes>& messages,
                                const std::vector<std::int64_t>& lengths);

 private:
  simgrid::s4u::Mailbox& box(int from, int to, std::size_t bytes);

  static inline int made_ = 0;
  int number_ = made_++;  // makes the mailboxes' names unique
  std::vector<simgrid::s4u::Actor*> ranks_;
  std::unordered_map<std::uint64_t, simgrid::s4u::Mailbox*> boxes_;
};

}  // namespace dsgd
