// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <utility>

#include "mpi/ranks.h"

namespace dsgd {

// As processes/message.h. The MPI message has a size and no content; the content is handed over without a
// copy. A rank thus needs memory only for messages on their way.
class Message {
 public:
  explicit Message(const Ranks& ranks, std::size_t floats = 0) : ranks_(&ranks), floats_(floats) {}
  Header& header() { return content_.header; }
  Vec payload(const Space& from) {
    if (!content_.floats && &from != &hollow_space())
      content_.floats = std::make_shared_for_overwrite<float[]>(floats_);
    return payload();
  }
  Vec payload() {
    if (!content_.floats) return {hollow_space().allocate(floats_), floats_, &hollow_space()};
    return {content_.floats.get(), floats_, &host_space()};
  }
  // payload <- w, in memory that all messages with this version share. The receiver must not write to it.
  void carry(ConstVec w, std::int64_t version, LastSent& last) {
    if (hollow(w)) return;
    if (last.version != version) {
      last = {version, std::make_shared_for_overwrite<float[]>(w.size)};
      copy(w, {last.floats.get(), w.size, &host_space()});
    }
    content_.floats = last.floats;
  }
  void forget() { content_.floats.reset(); }

  void send(int to, int tag, std::size_t floats = 0) {
    if (!floats) forget();
    content_.count = floats;
    ranks_->common().sent[to][{ranks_->rank, tag}].push_back(std::move(content_));
    MPI_Isend(MPI_BOTTOM, count(floats), MPI_FLOAT, to, tag, ranks_->comm, &request_);
  }
  void receive(int from, int tag) {
    MPI_Irecv(MPI_BOTTOM, count(floats_), MPI_FLOAT, from, tag, ranks_->comm, &request_);
    receiving_ = true;
  }
  void wait() {
    MPI_Status status;
    MPI_Wait(&request_, &status);
    collect(status);
  }
  bool arrived() {
    MPI_Status status;
    int done = 0;
    MPI_Test(&request_, &done, &status);
    if (done) collect(status);
    return done;
  }
  void await(bool) { wait(); }

  MPI_Request& request() { return request_; }
  void collect(const MPI_Status& status) {  // what has come by the request
    if (!std::exchange(receiving_, false)) return;
    auto& queue = ranks_->common().sent[ranks_->rank][{status.MPI_SOURCE, status.MPI_TAG}];
    content_ = std::move(queue.front());
    queue.pop_front();
    int arrived = 0;
    MPI_Get_count(&status, MPI_FLOAT, &arrived);
    if (arrived != count(content_.count))
      throw std::logic_error("messages of simulated ranks arrived out of order");
  }

 private:
  static int count(std::size_t floats) {
    if (floats > at_most * 7)
      throw std::length_error("a server's part of the vector exceeds 7 GB: use more servers");
    return blocks(floats) * int(block / sizeof(float));
  }
  const Ranks* ranks_;
  std::size_t floats_;
  Content content_;
  bool receiving_ = false;
  MPI_Request request_ = MPI_REQUEST_NULL;
};

}  // namespace dsgd
