// SPDX-License-Identifier: Apache-2.0
#pragma once

// Simulated ranks: threads of one process, which take turns and whose clock advances in MPI calls alone. They
// share no memory by the rules of hosts, and all of it in fact.

#include <mpi.h>
#include <simgrid/actor.h>
#include <simgrid/engine.h>

#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "simulated/mailboxes.h"
#include "vec.h"
#include "wire.h"

namespace dsgd {

constexpr bool ranks_are_processes = false;
inline void advance_clock(double seconds) { sg_actor_sleep_for(seconds); }
// MPI_Wtime would ask the system how long this rank has computed.
inline double clock_now() { return simgrid_get_clock(); }

// What one simulated rank hands another beside a message.
struct Content {
  Header header;
  std::size_t count = 0;            // of the floats that it stands for
  std::shared_ptr<float[]> floats;  // none: they are hollow
};
// What all simulated ranks share, which are in one process.
struct Common {
  explicit Common(int ranks) : sent(ranks), gathers(ranks) {}
  // By receiver; by sender and tag; in the order of sending.
  std::vector<std::map<std::pair<int, int>, std::deque<Content>>> sent;
  Mailboxes mailboxes;
  std::vector<float*> summands;  // where a sum comes from and goes to, or what was gathered goes
  Vector sum;                    // where it goes that all read there
  Bytes messages;                // of the workers, one after the other
  int done = 0;                  // workers that have come out of the sum or the exchange
  std::vector<int> gathers;      // calls of gather() that each rank has made
  std::map<int, std::vector<Bytes>> gathered;  // of every rank, by the number of the call
};

}  // namespace dsgd
