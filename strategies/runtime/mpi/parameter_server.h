// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <vector>

#include "communicator.h"
#include "message.h"
#include "mpi/ranks.h"

namespace dsgd {

// A worker's side of the vector that is cut over the servers.
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
  struct Link {  // to one server
    int server;
    ShardRange range;
    std::size_t offset;  // of its slots
    Message request, reply;
    Message push[2];           // one is filled while the other travels
    Slots slots;               // none: the server is on another host, and the messages carry the floats
    int next = 0;              // of `push`, without slots
    std::int64_t version = 0;  // held
  };
  struct Granted {
    std::int64_t position, count;
  };
  void forget() override {
    for (Link& link : links_) link.reply.forget();
  }
  // Whether the floats of a message can stand for the whole vector v.
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
  std::int64_t used_ = 0, position_ = 0;  // as work was granted last
  std::int64_t pulled_ = -1;              // samples in the oldest part of what was pulled last
  double number_ = 0;
  bool work_pulled_ = false;  // by the pull that was begun
};

}  // namespace dsgd
