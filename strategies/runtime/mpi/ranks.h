// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the communicator's files share. They are compiled twice, and they alone know MPI: with processes/ for
// Open MPI's ranks, with simulated/ for simulated ones. Both folders have an engine.h, a message.h and the
// definitions that differ.

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

// The ranks of the same colour, in their order; none with colour MPI_UNDEFINED.
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

// What every rank shows the others of its host.
struct alignas(block) HostFlags {
  Doorbell doorbell;           // rung when a message is on its way
  std::uint32_t barriers = 0;  // of the host's workers that it has come to
  std::uint32_t secret = 0;
};

// Where all ranks of a world meet.
class Ranks {
 public:
  explicit Ranks(int ranks_per_host);
  Ranks(const Ranks&) = delete;
  ~Ranks() { MPI_Type_free(&block_type); }

  // The first rank that this one shares memory with.
  int host() const { return ranks_are_processes ? hosts_[rank] : rank; }
  bool shares_with(int other) const {
    return ranks_are_processes && other != rank && hosts_[other] == host();
  }
  Common& common() const { return *common_; }
  HostFlags& flags(int of) const { return reinterpret_cast<HostFlags*>(flags_.data())[of]; }

  void send(const void* data, int blocks, int to, int tag, MPI_Request& request) const;
  // Where ranks outnumber cores, MPI_Wait's busy loop takes a core from those who work. `rings`: so does who
  // will send the message. Otherwise a nap of about 100 us between two looks costs them less.
  void wait(MPI_Request& request, bool rings) const;

  const Comm comm;
  const int rank, size;
  MPI_Datatype block_type;
  // For ranks that share memory. Whoever waits lets MPI send what it still has in hand.
  SpinWait spin{false, [this] {
                  int arrived = 0;
                  MPI_Iprobe(MPI_ANY_SOURCE, idle_tag, comm, &arrived, MPI_STATUS_IGNORE);
                }};

 private:
  void join(int ranks_per_host);      // fills hosts_, flags_, common_
  bool share_flags(const Comm& own);  // whether all of `own` see what the first one writes

  std::vector<int> hosts_;  // of every rank
  SharedMemory flags_;
  std::shared_ptr<Common> common_;
};

// Where the host can work on copies of vectors in `space`.
inline const Space& reachable(const Space& space) { return &space == &hollow_space() ? space : host_space(); }
// For MPI: of a hollow vector its size travels alone.
inline void* address(ConstVec v) { return hollow(v) ? MPI_BOTTOM : const_cast<float*>(v.data); }

// A server's vector as it was sent last.
struct LastSent {
  std::int64_t version = -1;
  std::shared_ptr<float[]> floats;
};

// Which of the messages that are being received is there, one that was not found so before; -1: none.
class Message;
int any_arrived(std::vector<Message>& messages);
int await_any(const Ranks& ranks, std::vector<Message>& messages);  // waits for it, as Ranks::wait does

// Collective: rank 0 gets the bytes of every rank, the others nothing.
std::vector<Bytes> gather(const Ranks& ranks, std::span<const std::byte> data);

// Adds the time of its life to a timer.
class Stopwatch {
 public:
  explicit Stopwatch(Timer& timer) : timer_(timer), begin_(clock_now()) {}
  ~Stopwatch() { timer_ += Span{begin_, clock_now()}; }

 private:
  Timer& timer_;
  double begin_;
};

}  // namespace dsgd
