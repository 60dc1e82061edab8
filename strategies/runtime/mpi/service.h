// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "communicator.h"
#include "message.h"
#include "mpi/ranks.h"
#include "server.h"

namespace dsgd {

// Sums over the servers.
class MpiShards final : public Shards {
 public:
  MpiShards(const Ranks& ranks, MPI_Comm servers, Traffic& traffic)
      : ranks_(ranks), comm_(servers), all_(comm_.size()), traffic_(traffic) {}
  double sum(double x) override;

 private:
  const Ranks& ranks_;
  const Comm comm_;
  std::vector<double> all_;
  Traffic& traffic_;
};

// A server's side of the parameter servers. run() serves requests and returns when all workers have left.
class Service {
 public:
  Service(const Ranks& ranks, int workers, Shard& shard, Traffic& traffic);
  void run();

 private:
  struct Client {
    Message reply;
    SharedMemory memory;
    Slots slots;
    bool waits = false;       // a pull of this worker is held back
    Header pull;              // the last pull
    std::size_t request = 0;  // its index in Shard::requests
  };
  std::size_t size() const { return shard_.w().size; }

  int source() const;  // whose request is next; MPI_ANY_SOURCE without a replay
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
  LastSent sent_;
};

}  // namespace dsgd
