// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mpi/ranks.h"

namespace dsgd {

// A header and room for `floats` floats behind it, sent as one message. Before send(), fill payload(space)
// with values of vectors in that space, or call carry(). After a receive, payload() has the received floats.
// send() and receive() return at once; wait(), await() or arrived() completes them, and the message must not
// be changed before.
class Message {
 public:
  explicit Message(const Ranks& ranks, std::size_t floats = 0)
      : ranks_(&ranks),
        floats_(floats),
        blocks_(blocks(floats)),
        memory_(host_space(), blocks_ * (block / sizeof(float))) {}
  Header& header() { return *reinterpret_cast<Header*>(memory_.data()); }
  Vec payload(const Space&) { return payload(); }
  Vec payload() { return {memory_.data() + block / sizeof(float), floats_, &host_space()}; }
  void carry(ConstVec w, std::int64_t, LastSent&) { copy(w, payload()); }
  void forget() {}  // the payload was read

  void send(int to, int tag, std::size_t floats = 0) {
    ranks_->send(memory_.data(), blocks(floats), to, tag, request_);
  }
  void receive(int from, int tag) {
    MPI_Irecv(memory_.data(), blocks_, ranks_->block_type, from, tag, ranks_->comm, &request_);
  }
  void wait() { MPI_Wait(&request_, MPI_STATUS_IGNORE); }
  bool arrived() {
    int done = 0;
    MPI_Test(&request_, &done, MPI_STATUS_IGNORE);
    return done;
  }
  void await(bool rings) { ranks_->wait(request_, rings); }  // as Ranks::wait does
  MPI_Request& request() { return request_; }
  void collect(const MPI_Status&) {}

 private:
  const Ranks* ranks_;
  std::size_t floats_;
  int blocks_;
  Vector memory_;
  MPI_Request request_ = MPI_REQUEST_NULL;
};

}  // namespace dsgd
