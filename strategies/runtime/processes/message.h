// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mpi/ranks.h"

namespace dsgd {

// A header and room for the floats behind it, sent as one message. `payload(space)` is filled before it is
// sent, from vectors in that space, or `carry` fills it; `payload()` is what was received.
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
  void await(bool rings) { ranks_->wait(request_, rings); }  // see Ranks::wait
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
