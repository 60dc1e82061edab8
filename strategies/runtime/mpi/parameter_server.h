// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <vector>

#include "communicator.h"
#include "message.h"
#include "mpi/ranks.h"

namespace dsgd {

// A worker's side of the parameter servers.
class MpiParameterServer final : public ParameterServer {
 public:
  MpiParameterServer(const Ranks& ranks, int workers, int minibatch, std::size_t n, Traffic& traffic);
  void begin_pull(int minibatches) override;
  ConstVec end_pull(Vec room) override;
  void pull_work(int minibatches) override;
  bool changed() const override { return pulled_ != used_; }
  Vec place(Vec own) override;
  void push(float a, ConstVec g, std::int64_t samples, double number) override;
  void push_again(std::int64_t samples) override;
  double number() const override { return number_; }
  Portion take(int count) override;
  void leave(bool early) override;

 private:
  // The connection to one server.
  struct Link {
    int server;
    ShardRange range;
    std::size_t offset;  // of its slots in memory_
    Message request, reply;
    Message push[2];           // one is filled while the other is being sent
    Slots slots;               // none: the server is on another host, and messages carry the floats
    int next = 0;              // index in `push`, if there are no slots
    std::int64_t version = 0;  // of the shard's vector that was pulled last
  };
  struct Granted {
    std::int64_t position, count;
  };
  void forget() override {
    for (Link& link : links_) link.reply.forget();
  }
  // Whether a message's floats are the whole vector v, so that v need not be copied.
  bool in_messages(ConstVec v) const { return links_.size() == 1 && !links_[0].slots && v.space->host(); }
  void ask(Kind kind, int minibatches);
  void await(Link& link);
  void granted();
  Header push_header(Kind kind, std::int64_t version, std::int64_t samples) const;
  void count(std::size_t floats) {
    traffic_.bytes_sent += std::int64_t(sizeof(Header) + floats * sizeof(float));
    ++traffic_.messages;
  }

  const Ranks& ranks_;
  int minibatch_;
  Traffic& traffic_;
  SharedMemory memory_;
  std::vector<Link> links_;
  std::deque<Granted> granted_;
  // Of the last grant.
  std::int64_t used_ = 0, position_ = 0;
  std::int64_t pulled_ = -1;  // samples in the oldest shard of the last pull
  double number_ = 0;
  bool work_pulled_ = false;  // whether the begun pull asks for work
};

}  // namespace dsgd
