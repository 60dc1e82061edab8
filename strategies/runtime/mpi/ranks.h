#pragma once

// What the communicator's files share. They alone know MPI: Open MPI's for real processes, SimGrid's for
// simulated ones.

#include <mpi.h>
#ifdef SMPI_H
#include <simgrid/actor.h>
#include <simgrid/engine.h>
#endif

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "communicator.h"
#include "vec.h"
#ifdef SMPI_H
#include "simulated/mailboxes.h"
#endif
#include "shared_memory.h"
#include "wire.h"

namespace dsgd {

constexpr int request_tag = 1, reply_tag = 2, gather_tag = 3, idle_tag = 4, mix_tag = 5, ask_tag = 6,
              answer_tag = 7, tree_tag = 8;
constexpr std::size_t at_most = std::size_t(1) << 28;  // elements in one MPI call, whose counts are int

// Whether ranks of one host can share memory and wait for each other by reading it. SimGrid's are threads of
// one process, whose clock advances in MPI calls alone.
#ifdef SMPI_H
constexpr bool ranks_are_processes = false;
inline void advance_clock(double seconds) { sg_actor_sleep_for(seconds); }
// MPI_Wtime would ask the system how long this rank has computed.
inline double clock_now() { return simgrid_get_clock(); }
#else
constexpr bool ranks_are_processes = true;
inline void advance_clock(double) {}
inline double clock_now() { return MPI_Wtime(); }
#endif

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

#ifdef SMPI_H
// What one simulated rank hands another beside a message.
struct Parcel {
  Header header;
  std::size_t count = 0;            // of the floats that it stands for
  std::shared_ptr<float[]> floats;  // none: they are hollow
};
// What all simulated ranks share, which are in one process.
struct Office {
  explicit Office(int ranks) : post(ranks) {}
  // By receiver; by sender and tag; in the order of sending.
  std::vector<std::map<std::pair<int, int>, std::deque<Parcel>>> post;
  Mailboxes mailboxes;
  std::vector<float*> summands;  // where a sum comes from and goes to, or what was gathered goes
  Vector sum;                    // where it goes that all read there
  Bytes messages;                // of the workers, one after the other
  int done = 0;                  // workers that have come out of the sum or the exchange
  std::map<int, std::vector<Bytes>> gathered;  // of every rank, by the number of World::gather's call
};
#endif

// What every rank shows the others of its host.
struct alignas(block) Place {
  Bell bell;                   // rung when a message is on its way
  std::uint32_t meetings = 0;  // of the host's workers that it has come to
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
  Place& place(int of) const { return reinterpret_cast<Place*>(places_.data())[of]; }

  void send(const void* data, int blocks, int to, int tag, MPI_Request& request) const;
  // Where ranks outnumber cores, MPI_Wait's busy loop takes a core from those who work. `rings`: so does who
  // will send the message. Otherwise a nap of about 100 us between two looks costs them less.
  void wait(MPI_Request& request, bool rings) const;

  const Comm comm;
  const int rank, size;
  MPI_Datatype block_type;
  // For ranks that share memory. Whoever waits lets MPI send what it still has in hand.
  Patience patience{false, [this] {
                      int arrived = 0;
                      MPI_Iprobe(MPI_ANY_SOURCE, idle_tag, comm, &arrived, MPI_STATUS_IGNORE);
                    }};

 private:
  bool share_places(const Comm& own);  // whether all of `own` see what the first one writes

  std::vector<int> hosts_;  // of every rank
  SharedMemory places_;

#ifdef SMPI_H
 public:
  Office& office() const { return *office_; }

 private:
  std::shared_ptr<Office> office_;
#endif
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

// A header and room for the floats behind it, sent as one message. `payload(space)` is filled before it is
// sent, from vectors in that space, or `carry` fills it; `payload()` is what was received.
#ifdef SMPI_H
// MPI carries the size alone; the content is handed over, without a copy. So a rank has memory for what is on
// its way, and not for what might be.
class Message {
 public:
  explicit Message(const Ranks& ranks, std::size_t floats = 0) : ranks_(&ranks), floats_(floats) {}
  Header& header() { return parcel_.header; }
  Vec payload(const Space& from) {
    if (!parcel_.floats && &from != &hollow_space())
      parcel_.floats = std::make_shared_for_overwrite<float[]>(floats_);
    return payload();
  }
  Vec payload() {
    if (!parcel_.floats) return {hollow_space().allocate(floats_), floats_, &hollow_space()};
    return {parcel_.floats.get(), floats_, &host_space()};
  }
  // payload <- w, in memory that all messages with this version of it share: who receives it reads it alone.
  void carry(ConstVec w, std::int64_t version, LastSent& last) {
    if (hollow(w)) return;
    if (last.version != version) {
      last = {version, std::make_shared_for_overwrite<float[]>(w.size)};
      copy(w, {last.floats.get(), w.size, &host_space()});
    }
    parcel_.floats = last.floats;
  }
  void forget() { parcel_.floats.reset(); }

  void send(int to, int tag, std::size_t floats = 0) {
    if (!floats) forget();
    parcel_.count = floats;
    ranks_->office().post[to][{ranks_->rank, tag}].push_back(std::move(parcel_));
    MPI_Isend(MPI_BOTTOM, count(floats), MPI_FLOAT, to, tag, ranks_->comm, &request_);
  }
  void receive(int from, int tag) {
    MPI_Irecv(MPI_BOTTOM, count(floats_), MPI_FLOAT, from, tag, ranks_->comm, &request_);
    receiving_ = true;
  }
  void wait() {
    MPI_Status status;
    MPI_Wait(&request_, &status);
    collect(status);
  }
  bool arrived() {
    MPI_Status status;
    int done = 0;
    MPI_Test(&request_, &done, &status);
    if (done) collect(status);
    return done;
  }
  void await(bool) { wait(); }

  MPI_Request& request() { return request_; }
  void collect(const MPI_Status& status) {  // what has come by the request
    if (!std::exchange(receiving_, false)) return;
    auto& letters = ranks_->office().post[ranks_->rank][{status.MPI_SOURCE, status.MPI_TAG}];
    parcel_ = std::move(letters.front());
    letters.pop_front();
    int arrived = 0;
    MPI_Get_count(&status, MPI_FLOAT, &arrived);
    if (arrived != count(parcel_.count))
      throw std::logic_error("messages of simulated ranks arrived out of order");
  }

 private:
  static int count(std::size_t floats) {
    if (floats > at_most * 7)
      throw std::length_error("a server's part of the vector exceeds 7 GB: use more servers");
    return blocks(floats) * int(block / sizeof(float));
  }
  const Ranks* ranks_;
  std::size_t floats_;
  Parcel parcel_;
  bool receiving_ = false;
  MPI_Request request_ = MPI_REQUEST_NULL;
};
#else
class Message {
 public:
  explicit Message(const Ranks& ranks, std::size_t floats = 0)
      : ranks_(&ranks),
        floats_(floats),
        blocks_(blocks(floats)),
        memory_(host_space(), blocks_ * (block / sizeof(float))) {}
  Header& header() { return *reinterpret_cast<Header*>(memory_.data()); }
  Vec payload(const Space&) { return payload(); }
  Vec payload() { return {memory_.data() + block / sizeof(float), floats_, &host_space()}; }
  void carry(ConstVec w, std::int64_t, LastSent&) { copy(w, payload()); }
  void forget() {}  // the payload was read

  void send(int to, int tag, std::size_t floats = 0) {
    ranks_->send(memory_.data(), blocks(floats), to, tag, request_);
  }
  void receive(int from, int tag) {
    MPI_Irecv(memory_.data(), blocks_, ranks_->block_type, from, tag, ranks_->comm, &request_);
  }
  void wait() { MPI_Wait(&request_, MPI_STATUS_IGNORE); }
  bool arrived() {
    int done = 0;
    MPI_Test(&request_, &done, MPI_STATUS_IGNORE);
    return done;
  }
  void await(bool rings) { ranks_->wait(request_, rings); }  // see Ranks::wait
  MPI_Request& request() { return request_; }
  void collect(const MPI_Status&) {}

 private:
  const Ranks* ranks_;
  std::size_t floats_;
  int blocks_;
  Vector memory_;
  MPI_Request request_ = MPI_REQUEST_NULL;
};
#endif

// Which of the messages that are being received is there, one that was not found so before; -1: none.
int any_arrived(std::vector<Message>& messages);
int await_any(const Ranks& ranks, std::vector<Message>& messages);  // waits for it, as Ranks::wait does

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
