// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "communicator.h"
#include "message.h"
#include "mpi/ranks.h"
#include "server.h"

namespace dsgd {

// A worker that answers keeps a receive open for each that may ask, so that their messages travel side by
// side, and looks at them in its verbs.
class MpiPairs final : public Pairs {
 public:
  // replayed: null, requests are taken as they come.
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
  bool due();  // whether a request is to be answered in this call
  void answer();
  int next();  // of asks_: what is to be answered now; waits for it
  void open(int k);
  void arrived(Message& message);  // the other one's
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
  int present_ = 0;  // workers that may still ask
  int at_work_;      // workers that have not left early, as far as this one knows
  bool asked_ = false, left_ = false;
  std::int64_t rest_ = 0, used_ = 0, calls_ = 0;
  Message out_, in_;           // in_: an answer
  std::vector<Message> asks_;  // the k-th is open for worker 2k
  int come_ = -1;              // of asks_: there, and not answered yet
  std::vector<Request> answered_;
};

}  // namespace dsgd
