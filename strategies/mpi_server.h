#pragma once

#include <deque>
#include <vector>

#include "strategies/communicator.h"
#include "strategies/mpi_ranks.h"
#include "strategies/server.h"

namespace dsgd {

// A worker's side of the vector that is cut over the servers.
class MpiParameterServer final : public ParameterServer {
 public:
  MpiParameterServer(const Ranks& ranks, int workers, int minibatch, std::size_t n, Traffic& traffic);
  void begin_pull(int minibatches) override;
  void end_pull(Vec w) override;
  void push(float a, ConstVec g, std::int64_t samples) override;
  std::int64_t used() const override { return used_; }
  Portion take(int count) override;
  void leave(bool early) override;

 private:
  struct Link {  // to one server
    int server;
    ShardRange range;
    std::size_t offset;  // of its slots
    Message request, reply;
    Message push[2];  // one is filled while the other travels
    Slots slots;      // none: the server is on another host, and the messages carry the floats
    int next = 0;     // of `push`, without slots
    std::int64_t version = 0;
  };
  struct Granted {
    std::int64_t position, count;
  };
  void count(std::size_t floats) {
    traffic_.bytes_sent += std::int64_t(sizeof(Header) + floats * sizeof(float));
    ++traffic_.messages;
  }

  const Ranks& ranks_;
  int minibatch_;
  Traffic& traffic_;
  SharedMemory memory_;
  Vector staged_;  // a part on its way to a vector that is not in the host's memory
  std::vector<Link> links_;
  std::deque<Granted> granted_;
  std::int64_t used_ = 0;
};

// A server's side of the same.
class Service {
 public:
  Service(const Ranks& ranks, int workers, Shard& shard, Traffic& traffic);
  void run();

 private:
  struct Client {
    Message reply;
    SharedMemory memory;
    Slots slots;
    std::int64_t reply_slot = 0;
    std::int64_t held = 0;    // samples wanted by a pull that the rule holds back
    std::size_t request = 0;  // that pull, in the shard's record
  };
  std::size_t size() const { return shard_.w().size; }

  int source() const;  // of the next request
  void serve(const Header& header);
  void push(Client& client, const Header& header);
  void answer(int worker);
  void answer_held();

  const Ranks& ranks_;
  Shard& shard_;
  Traffic& traffic_;
  int present_;
  bool all_ring_ = true;
  std::vector<Client> clients_;
  Message incoming_;
};

}  // namespace dsgd
