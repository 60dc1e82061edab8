// SPDX-License-Identifier: Apache-2.0
#pragma once

// Simulated ranks: threads of one process that take turns. Their clock advances in MPI calls and
// advance_clock() alone. World treats them as hosts of their own, without shared memory, although they have
// one address space.

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
// Not MPI_Wtime, which would ask the system how long this rank has computed.
inline double clock_now() { return simgrid_get_clock(); }

// The content of a simulated message. It is handed over inside the process.
struct Content {
  Header header;
  std::size_t count = 0;            // floats that the message stands for
  std::shared_ptr<float[]> floats;  // null: they are hollow
};
// What all simulated ranks share.
struct Common {
  explicit Common(int ranks) : sent(ranks), gathers(ranks) {}
  // Contents of the messages on their way: by receiver, by sender and tag, in the order of sending.
  std::vector<std::map<std::pair<int, int>, std::deque<Content>>> sent;
  Mailboxes mailboxes;
  // Of each worker: where its summand is, or where it wants the gathered result.
  std::vector<float*> summands;
  Vector sum;                                  // the sum that all workers read
  Bytes messages;                              // of the workers, concatenated
  int done = 0;                                // workers that have completed the current sum or exchange
  std::vector<int> gathers;                    // number of gather() calls of each rank
  std::map<int, std::vector<Bytes>> gathered;  // entries of every rank, by the number of the call
};

}  // namespace dsgd
