// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vec.h"

namespace dsgd {

class Shard;
struct Request;

struct Span {
  double begin = 0, end = 0;  // of World::now()
};

// Seconds that something took, and when it did, for who wants to know.
class Timer {
 public:
  operator double() const { return total_; }
  void operator+=(double seconds) { total_ += seconds; }
  void operator+=(const Span& span) {
    total_ += span.end - span.begin;
    if (spans) spans->push_back(span);
  }
  std::vector<Span>* spans = nullptr;

 private:
  double total_ = 0;
};

// What a rank has sent and received for its strategy, and the time that took. An all-reduce of n floats over
// P workers counts as the 2*(P-1)/P*4n bytes that the best algorithm sends and receives per worker, whatever
// algorithm ran; pushes, pulls and replies count as a header and their floats, whether these travel in the
// message or in shared memory. A byte string or a neighbour's vector counts by its length, once for every
// other worker that gets it.
struct Traffic {
  std::int64_t messages =
      0;  // sent: one per collective, neighbour, edge of a tree, or push, pull or reply and shard
  std::int64_t bytes_sent = 0, bytes_received = 0;
  std::int64_t synchronisations = 0;  // collectives over all workers
  Timer seconds;                      // inside the communicator's verbs
  Timer waited;                       // of these: blocked until a server's reply was there
  Timer compressed;                   // not of these: packing and unpacking what is sent
};

using Bytes = std::vector<std::byte>;

// The workers as equals. Every verb is collective: all workers call it, in the same order. Results are the
// same bits on all of them and in every run: elements are added in rank order, ((v0 + v1) + v2) + ..., on
// each host and by simulated workers, and the hosts' sums in the order of MPI_Allreduce (two sums have but
// one).
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  void sum(Vec v) { reduce(1, v); }                      // v <- sum over the workers of v
  void mean(Vec v) { reduce(1.0f / float(size()), v); }  // v <- (1/P) sum over the workers of v
  // The sum over the workers of v, in buckets of so many floats, from the last one to the first, which begin
  // when who fills v has told of them, the rest at the end. Here all of it at the end, as sum() does: the
  // processor that would add up is the one that fills v. Returns where the sum is until this worker's next
  // one: v, or memory that simulated workers share.
  virtual OnReady begin_sum(Vec /*v*/, std::size_t /*bucket*/) { return {}; }
  virtual ConstVec end_sum(Vec v) {
    sum(v);
    return v;
  }
  // v <- sum over the workers of v, along a tree: of each `fan` workers, then of each `fan` of the first of
  // those, ..., the first adds up what the others send, in rank order. Worker 0's sum goes back the same way.
  virtual void tree_sum(int fan, Vec v) = 0;
  // Byte strings of any lengths, also none, in rank order: `message` of every worker, and what every worker
  // had for this one in its `messages`, one for each. Throw std::length_error where a worker sends or gets
  // more than 2 GB.
  virtual std::vector<Bytes> all_gather(const Bytes& message) = 0;
  virtual std::vector<Bytes> all_to_all(const std::vector<Bytes>& messages) = 0;
  // v <- what `unpack(messages)`, which unpacks n elements, writes there of all_gather(message), as in
  // compress(). The same on all workers, from these bytes alone: simulated ones take it from the first.
  using Unpack = std::function<void(const std::vector<Bytes>&)>;
  virtual void all_gather_into(Vec /*v*/, const Bytes& message, std::size_t n, const Unpack& unpack) {
    const std::vector<Bytes> messages = all_gather(message);
    compress(n, [&] { unpack(messages); });
  }
  // v <- (v + sum over the D offsets d of the v of worker (rank + d) mod P) / (1 + D), in that order. Offsets
  // are the same on all workers, from 1 to P - 1, each once. The vectors travel in between: until the end v
  // may be read, and no other sum be begun.
  virtual void begin_mix(ConstVec v, const std::vector<int>& offsets) = 0;
  virtual void end_mix(Vec v) = 0;
  // Does `work`, which packs or unpacks n elements, a phase of its own in the result.
  virtual void compress(std::size_t n, const std::function<void()>& work) = 0;
  // For the runtime: what a simulated clock goes on by for each of these elements.
  virtual void charge_compression(double seconds_per_element) = 0;
  // Collective: n zeros that live as long as the world. The workers of a host see each other's, so that verbs
  // work on them (or parts of them, the same on all workers) in place; other vectors are copied to and fro.
  virtual Vec vector(std::size_t n) = 0;
  virtual std::string library() const = 0;  // name and version of what carries sums

 private:
  virtual void reduce(float a, Vec v) = 0;  // v <- a * sum over the workers of v
};

// What a worker that does not go in lock-step has to do. take() and leave() are for the runtime, not for
// strategies.
class Work {
 public:
  struct Portion {
    std::int64_t position = 0;
    int count = 0;
  };
  virtual ~Work() = default;
  // Samples of all workers before the minibatch that was taken last: what learning rates go by. Of what this
  // worker has not heard of, the others have done as much as itself.
  virtual std::int64_t used() const = 0;
  // Up to `count` samples of what was granted: {position in the queue's stream, count}; none: the budget is
  // spent.
  virtual Portion take(int count) = 0;
  virtual void leave(bool early = false) = 0;  // early: others go on with the work that is left
};

// Workers at their own pace, who average their models two by two. Even ranks ask, odd ones answer between
// their gradients, so nobody waits for one who waits. Each pair also shares out what is left of the budget:
// the fast do more of the work.
class Pairs : public Work {
 public:
  // Whom this worker may ask, without those known to have left; none: it answers.
  virtual const std::vector<int>& neighbours() const = 0;
  virtual void begin_average(int neighbour) = 0;  // returns at once; the model stays as it is
  // x, x_j <- (x + x_j) / 2 with the neighbour that was asked; and with all that have asked this worker.
  virtual void end_average() = 0;
  // What was answered, in that order: {worker, , number of the call, samples given to it}; as Request::leave
  // where one of the two left early, with the samples that the other got.
  virtual const std::vector<Request>& answered() const = 0;
};

// A worker's side of the flat vector that is cut over server ranks. Budget, portions of data and versions are
// kept by the servers: a pull also grants work, and Replica::next() is empty once the budget is spent and the
// granted work is done.
class ParameterServer : public Work {
 public:
  explicit ParameterServer(int workers) : workers_(workers) {}
  // What was in the servers' vector when work was granted last, and for each sample of its own that was not
  // on its way there by then one of every worker. Exact for one worker, and in lock-step.
  std::int64_t used() const final {
    return known_ + workers_ * std::max<std::int64_t>(before_ - arrived_, 0);
  }
  // w <- the servers' vector, and work for `minibatches` more steps is granted, as far as the budget goes.
  // With 0 the vector alone, no older than when work was granted last.
  void pull(Vec w, int minibatches = 1) {
    begin_pull(minibatches);
    if (const ConstVec v = end_pull(w); v.data != w.data) {
      copy(v, w);
      forget();
    }
  }
  virtual void begin_pull(int minibatches = 1) = 0;  // returns at once
  // Blocks until the reply is there. Returns where the vector is until more is asked for: in `room`, or where
  // it arrived.
  virtual ConstVec end_pull(Vec room) = 0;
  virtual void pull_work(int minibatches = 1) = 0;  // the work alone; blocks
  // Whether the servers' vector was another one than that pulled last when work was granted.
  virtual bool changed() const = 0;
  // Where to make what is pushed next, which push() leaves undefined: `own`, or in what will carry it.
  virtual Vec place(Vec own) { return own; }
  // Sends a*g, made of `samples` samples, computed at the version that was pulled last, and a number for the
  // rule. Returns at once; g may be reused.
  virtual void push(float a, ConstVec g, std::int64_t samples, double number = 0) = 0;
  // Tells the servers to take this worker's last push once more, in place of `samples` new samples.
  virtual void push_again(std::int64_t samples) = 0;
  // Mean over the elements of what the servers' rules had as number() when they answered last.
  virtual double number() const = 0;

 protected:
  // For used(): in what order a worker did what.
  void count_taken(std::int64_t samples) {
    before_ = taken_;
    taken_ += samples;
  }
  void count_pushed(std::int64_t samples) { pushed_ += samples; }
  void count_asked() { asked_ = pushed_; }  // for work
  void count_granted(std::int64_t known) {  // known: samples in the servers' vector
    known_ = known;
    arrived_ = asked_;
  }

 private:
  virtual void forget() {}  // what end_pull() returned was read
  int workers_;
  std::int64_t taken_ = 0, before_ = 0, pushed_ = 0, asked_ = 0, arrived_ = 0, known_ = 0;
};

// The servers as equals, for their rules: all of them call it, in the same order.
class Shards {
 public:
  virtual ~Shards() = default;
  virtual double sum(double x) = 0;  // over the servers, the same bits on all of them
};

// All ranks of one run: workers 0..P-1, then servers. The only class that knows MPI. Ranks of one host share
// memory; what travels and is counted is the same with and without.
class World {
 public:
  // Collective. Throws std::runtime_error when there are too few ranks. Several worlds can be open at a time;
  // the first one ends last. For tests and benchmarks: every `ranks_per_host` ranks count as a host of their
  // own (1: nothing is shared).
  static std::unique_ptr<World> open(int servers, int minibatch, int ranks_per_host = 0);
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int workers() const = 0;
  int servers() const { return size() - workers(); }
  bool is_worker() const { return rank() < workers(); }
  virtual double now() const = 0;  // seconds; virtual ones in a simulated world
  // Lets a simulated world's clock go on: computing takes no virtual time by itself. Does nothing in a real
  // one.
  virtual void charge(double seconds) = 0;
  virtual void sleep(double seconds) = 0;  // in either: time passes
  virtual bool simulated() const = 0;      // all ranks are in one process, and one is at work at a time

  virtual Group& group() = 0;  // on workers
  // On workers: opens access to a vector of n floats cut over the servers; ends the access opened before.
  virtual ParameterServer& server(std::size_t n) = 0;
  virtual Shards& shards() = 0;          // on servers
  virtual void serve(Shard& shard) = 0;  // on servers; returns when all workers have left
  // On workers: opens pairs that average x and share out the budget; ends those opened before,
  // which all workers have left by then. replayed: requests are answered in this order; null: as they come.
  virtual Pairs& pairs(Vec x, std::int64_t budget, const std::vector<Request>* replayed = nullptr) = 0;
  virtual Traffic& traffic() = 0;

  // Outside the measured time, over all ranks.
  virtual void barrier() = 0;
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
  virtual void sum(std::span<std::int64_t> values) = 0;
  virtual void sum(std::span<double> values) = 0;
  virtual void min(std::span<double> values) = 0;
  virtual void max(std::span<double> values) = 0;
  virtual std::vector<std::vector<std::byte>> gather(
      std::span<const std::byte> data) = 0;  // on rank 0: one entry per rank
  static std::string library();              // name and version; needs no open world
  static bool cuda_aware();                  // whether it takes vectors in a GPU's memory
  [[noreturn]] virtual void abort() = 0;     // ends all ranks
};

// The part of a vector of n floats that server `s` of `servers` holds.
struct ShardRange {
  std::size_t first, count;
};
inline ShardRange shard_range(std::size_t n, int s, int servers) {
  const std::size_t first = n * s / servers, last = n * (s + 1) / servers;
  return {first, last - first};
}

}  // namespace dsgd
