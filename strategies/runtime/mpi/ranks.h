// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the communicator's files share. These files alone know MPI. They are compiled twice: with processes/
// for Open MPI's ranks, and with simulated/ for simulated ranks. Each of the two folders has an engine.h, a
// message.h and the definitions that differ.

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "communicator.h"
#include "engine.h"
#include "shared_memory.h"
#include "vec.h"
#include "wire.h"

namespace dsgd {

constexpr int request_tag = 1, reply_tag = 2, gather_tag = 3, idle_tag = 4, mix_tag = 5, ask_tag = 6,
              answer_tag = 7, tree_tag = 8;
constexpr std::size_t at_most = std::size_t(1) << 28;  // elements in one MPI call, whose counts are int

class Comm {
 public:
  explicit Comm(MPI_Comm comm) : comm_(comm) {}
  Comm(const Comm&) = delete;
  ~Comm() {
    if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
  }
  operator MPI_Comm() const { return comm_; }
  int rank() const {
    int r = 0;
    MPI_Comm_rank(comm_, &r);
    return r;
  }
  int size() const {
    int s = 0;
    MPI_Comm_size(comm_, &s);
    return s;
  }

 private:
  MPI_Comm comm_;
};

inline MPI_Comm duplicate(MPI_Comm of) {
  MPI_Comm comm;
  MPI_Comm_dup(of, &comm);
  return comm;
}

// A communicator of the ranks with the same colour, in their order; MPI_COMM_NULL for colour MPI_UNDEFINED.
inline MPI_Comm split(MPI_Comm of, int colour) {
  MPI_Comm comm;
  MPI_Comm_split(of, colour, 0, &comm);
  return comm;
}

template <typename T>
T agree(T value, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, type, op, comm);
  return value;
}

// What a rank shares with the others of its host.
struct alignas(block) HostFlags {
  Doorbell doorbell;           // rung when a message to this rank was sent
  std::uint32_t barriers = 0;  // barriers of the host's workers that this rank has entered
  std::uint32_t secret = 0;
};

// A world's communicator, and the shared memory of its hosts. The constructor is collective.
class Ranks {
 public:
  explicit Ranks(int ranks_per_host);
  Ranks(const Ranks&) = delete;
  ~Ranks() { MPI_Type_free(&block_type); }

  // The lowest rank of this rank's host.
  int host() const { return ranks_are_processes ? hosts_[rank] : rank; }
  bool shares_with(int other) const {
    return ranks_are_processes && other != rank && hosts_[other] == host();
  }
  Common& common() const { return *common_; }
  HostFlags& flags(int of) const { return reinterpret_cast<HostFlags*>(flags_.data())[of]; }

  // Starts MPI_Isend of `blocks` blocks. On an oversubscribed host it also rings the receiver's doorbell.
  void send(const void* data, int blocks, int to, int tag, MPI_Request& request) const;
  // MPI_Wait. On an oversubscribed host its busy loop would keep a core from ranks that compute, so this rank
  // sleeps between two tests. With `rings` it sleeps until the sender, which must be on this host, rings its
  // doorbell, at most 10 ms at a time. Otherwise it sleeps 50 us, in effect about 100 us.
  void wait(MPI_Request& request, bool rings) const;

  const Comm comm;
  const int rank, size;
  MPI_Datatype block_type;
  // For ranks that share memory. MPI_Iprobe is called for MPI progress: MPI can then send what is still
  // pending.
  SpinWait spin{false, [this] {
                  int arrived = 0;
                  MPI_Iprobe(MPI_ANY_SOURCE, idle_tag, comm, &arrived, MPI_STATUS_IGNORE);
                }};

 private:
  void join(int ranks_per_host);      // sets hosts_, flags_ and common_
  bool share_flags(const Comm& own);  // whether all ranks of `own` can map the first one's flags

  std::vector<int> hosts_;  // host() of every rank
  SharedMemory flags_;
  std::shared_ptr<Common> common_;
};

// The space for copies of vectors in `space` that the host can access.
inline const Space& reachable(const Space& space) { return &space == &hollow_space() ? space : host_space(); }
// The address for MPI. A hollow vector has none; its messages carry the size alone.
inline void* address(ConstVec v) { return hollow(v) ? MPI_BOTTOM : const_cast<float*>(v.data); }

// The last model that a server sent. Simulated messages with the same version share its floats.
struct LastSent {
  std::int64_t version = -1;
  std::shared_ptr<float[]> floats;
};

// any_arrived() returns the index of a receive that has completed, or -1; each is reported once. await_any()
// waits for one, as Ranks::wait does.
class Message;
int any_arrived(std::vector<Message>& messages);
int await_any(const Ranks& ranks, std::vector<Message>& messages);

// Collective. Returns the bytes of every rank on rank 0, and nothing on the others.
std::vector<Bytes> gather(const Ranks& ranks, std::span<const std::byte> data);

// Adds the time from its construction to its destruction to a timer.
class Stopwatch {
 public:
  explicit Stopwatch(Timer& timer) : timer_(timer), begin_(clock_now()) {}
  ~Stopwatch() { timer_ += Span{begin_, clock_now()}; }

 private:
  Timer& timer_;
  double begin_;
};

}  // namespace dsgd
