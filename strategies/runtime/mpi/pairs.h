// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "communicator.h"
#include "message.h"
#include "mpi/ranks.h"
#include "server.h"

namespace dsgd {

// An odd rank keeps one receive open for each even rank, so that their models can arrive concurrently. It
// tests these receives in its verbs.
class MpiPairs final : public Pairs {
 public:
  // replayed: the order in which to answer requests; null: the order of arrival.
  MpiPairs(const Ranks& ranks, int workers, int minibatch, Vec x, std::int64_t budget,
           const std::vector<Request>* replayed, Traffic& traffic);
  const std::vector<int>& neighbours() const override { return neighbours_; }
  void begin_average(int neighbour) override;
  void end_average() override;
  Portion take(int count) override;
  std::int64_t used() const override { return used_; }
  void leave(bool early) override;
  const std::vector<Request>& answered() const override { return answered_; }

 private:
  bool answers() const { return ranks_.rank % 2; }
  bool due();  // whether this call must answer another request
  void answer();
  int next();  // index in asks_ of the next request to answer; waits for it
  void open(int k);
  void arrived(Message& message);  // takes note of the header's news
  // x <- (x + the message's model) / 2.
  void average(Message& message);
  void send(int to, int tag, Kind kind, std::int64_t rest);
  std::int64_t minibatches(std::int64_t samples) const { return (samples + minibatch_ - 1) / minibatch_; }

  const Ranks& ranks_;
  const int minibatch_;
  Vec x_;
  const std::int64_t budget_;
  const std::vector<Request>* replayed_;
  Traffic& traffic_;
  std::vector<int> neighbours_;
  int present_ = 0;  // even ranks that may still ask
  int at_work_;      // workers that have not left early, as far as this one knows
  bool asked_ = false, left_ = false;
  std::int64_t rest_ = 0, used_ = 0, calls_ = 0;
  Message out_, in_;           // in_: the answer
  std::vector<Message> asks_;  // the k-th receives from rank 2k
  int come_ = -1;              // index in asks_ of a request that arrived and is not answered yet; -1: none
  std::vector<Request> answered_;
};

}  // namespace dsgd
