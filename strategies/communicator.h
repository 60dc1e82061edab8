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

// An interval of time.
struct Span {
  double begin = 0, end = 0;  // seconds of World::now()
};

// Adds up durations in seconds. It also appends each interval to *spans, unless spans is null.
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

// What one rank has sent and received for its strategy, and how long that took. The counts depend neither on
// the algorithm that ran nor on shared memory. An all-reduce of n floats over P workers counts as
// 2*(P-1)/P*4n bytes each way, the least that an all-reduce needs per worker. A push, pull or reply counts as
// a header and its floats. A byte string, or a vector for a neighbour, counts by its length, once for every
// other worker that receives it.
struct Traffic {
  // Sent. One counts for each collective call, neighbour in a mix, edge of a tree, and server that a push,
  // pull or reply concerns.
  std::int64_t messages = 0;
  std::int64_t bytes_sent = 0, bytes_received = 0;
  std::int64_t synchronisations = 0;  // collective calls over all workers
  Timer seconds;                      // inside the communicator's verbs
  // Part of `seconds`: blocked on a server's reply, a neighbour's answer or, on a server, a request.
  Timer waited;
  Timer compressed;  // packing and unpacking of messages; not part of `seconds`
};

using Bytes = std::vector<std::byte>;

// The workers as equals. All functions except rank(), size(), library(), compress() and charge_compression()
// are collective: all workers call them, in the same order and with vectors of the same size. They block
// unless stated otherwise. Sums have the same bits on all workers and in every run. Each host adds in rank
// order, ((v0 + v1) + v2) + ..., and so do simulated workers. MPI_Allreduce then adds the hosts' sums, in an
// order of its own that matters from three hosts on. GPU workers have another order (nccl/group.h).
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  void sum(Vec v) { reduce(1, v); }                      // v <- sum over the workers of v
  void mean(Vec v) { reduce(1.0f / float(size()), v); }  // v <- (1/P) sum over the workers of v
  // A bucketed all-reduce, v <- sum over the workers of v, that can overlap with the computation of v. Call
  // begin_sum() before v is computed; it returns at once. Pass its result to Replica::gradient_in_parts(),
  // which calls it when elements of v are complete. Buckets of `bucket` floats are summed from the end of v
  // to its beginning. end_sum() sums those that are left. It returns the sum: in v, or in memory that
  // simulated workers share. The sum is valid until this worker's next one. This default does not overlap,
  // because the processor that would add is busy with computing v: end_sum() is sum().
  virtual OnReady begin_sum(Vec /*v*/, std::size_t /*bucket*/) { return {}; }
  virtual ConstVec end_sum(Vec v) {
    sum(v);
    return v;
  }
  // v <- sum over the workers of v, along a tree. On the lowest level, the first of every `fan` consecutive
  // workers receives the vectors of the others and adds them in rank order. Each next level does the same
  // with these first workers. Worker 0 thus has the sum, which goes back along the same edges. fan >= 2.
  virtual void tree_sum(int fan, Vec v) = 0;
  // Byte strings of any lengths, including none. all_gather() returns `message` of every worker in rank
  // order. all_to_all() takes one message for each worker and returns what each worker had for this one, in
  // rank order. Both throw std::length_error if a worker would send or receive more than 2 GB in one call.
  virtual std::vector<Bytes> all_gather(const Bytes& message) = 0;
  virtual std::vector<Bytes> all_to_all(const std::vector<Bytes>& messages) = 0;
  // v <- what `unpack` writes to v from the result of all_gather(message). `unpack` must depend on its
  // argument alone, so that v is the same on all workers: simulated workers call it once and copy the result.
  // n: number of elements that it unpacks, for compress().
  using Unpack = std::function<void(const std::vector<Bytes>&)>;
  virtual void all_gather_into(Vec /*v*/, const Bytes& message, std::size_t n, const Unpack& unpack) {
    const std::vector<Bytes> messages = all_gather(message);
    compress(n, [&] { unpack(messages); });
  }
  // Neighbour averaging: v <- (v + sum over the D offsets d of the v of worker (rank + d) mod P) / (1 + D),
  // added in the order of the offsets. The offsets lie in 1 to P - 1, are distinct, and are the same on all
  // workers. begin_mix() starts the transfers and returns at once; end_mix() waits for them and writes v. In
  // between, v may be read but not written, and no other mix or sum may begin.
  virtual void begin_mix(ConstVec v, const std::vector<int>& offsets) = 0;
  virtual void end_mix(Vec v) = 0;
  // Runs `work`, which packs or unpacks n elements, and adds its time to Traffic::compressed. Not collective.
  virtual void compress(std::size_t n, const std::function<void()>& work) = 0;
  // For the runtime alone: virtual seconds by which compress() advances a simulated clock per element.
  virtual void charge_compression(double seconds_per_element) = 0;
  // Allocates n zeros that live as long as the world. On CPUs the workers of one host see each other's
  // memory, so the verbs work on such a vector, or on the same part of it on all workers, without copies. Any
  // other vector is copied to shared memory and back.
  virtual Vec vector(std::size_t n) = 0;
  virtual std::string library() const = 0;  // name and version of the library that carries sums

 private:
  virtual void reduce(float a, Vec v) = 0;  // v <- a * sum over the workers of v
};

// The data that a worker is granted if it does not run in lock-step. The runtime alone calls take() and
// leave(); strategies do not.
class Work {
 public:
  struct Portion {
    std::int64_t position = 0;  // first sample, in the stream of the data order `queue`
    int count = 0;              // samples
  };
  virtual ~Work() = default;
  // Estimate of the samples that all workers had used before the minibatch taken last; learning-rate
  // schedules go by it. Where this worker lacks news of the others, it assumes that each has done as much as
  // itself.
  virtual std::int64_t used() const = 0;
  // Returns up to `count` of the granted samples. count == 0 in the result: the budget is spent.
  virtual Portion take(int count) = 0;
  // Ends this worker's part. early: it stops before the budget is spent (faults.leave_step), and the others
  // do its remaining work.
  virtual void leave(bool early = false) = 0;
};

// Workers at their own pace that average their models two by two. Even ranks ask and odd ranks answer between
// their gradients. Askers thus never wait for each other, which rules out deadlock (Lian et al. 2018). Each
// pair also divides its remaining budget evenly, so fast workers do more of the work.
class Pairs : public Work {
 public:
  // The odd ranks that this worker may ask, without those that have told it that they left. Empty on odd
  // ranks.
  virtual const std::vector<int>& neighbours() const = 0;
  // Even ranks only. Sends a copy of the model to the neighbour and returns without waiting for the answer.
  // The model does not change before end_average().
  virtual void begin_average(int neighbour) = 0;
  // Called by all ranks after each gradient. An even rank that has asked waits for the answer and averages:
  // x, x_j <- (x + x_j) / 2. An odd rank does so with every request that has arrived.
  virtual void end_average() = 0;
  // The requests that this worker answered, in that order; valid until the next call. Request::version counts
  // the calls of take(), end_average() and leave() up to the one that answered. `samples` is what the asker
  // got. `kind` is Request::leave if one of the two had left early.
  virtual const std::vector<Request>& answered() const = 0;
};

// A worker's access to the flat vector that is cut into one shard per server. The servers keep the budget,
// the data positions and the versions: a pull also grants samples to work on. Replica::next() is empty once
// the budget is spent and the granted samples are used. No call is collective.
class ParameterServer : public Work {
 public:
  explicit ParameterServer(int workers) : workers_(workers) {}
  // The samples in the servers' vector when work was last granted, plus `workers` times the samples that this
  // worker has used since and that were not pushed when it asked for that work. Exact for one worker, and in
  // lock-step.
  std::int64_t used() const final {
    return known_ + workers_ * std::max<std::int64_t>(before_ - arrived_, 0);
  }
  // w <- the servers' vector; also asks for `minibatches` minibatches of work, as far as the budget goes.
  // Blocks. With 0 it asks for no work, and the vector is at least as new as the one at the last grant.
  void pull(Vec w, int minibatches = 1) {
    begin_pull(minibatches);
    if (const ConstVec v = end_pull(w); v.data != w.data) {
      copy(v, w);
      forget();
    }
  }
  // As pull(), but returns at once. end_pull() must follow before the next pull; pushes are allowed in
  // between.
  virtual void begin_pull(int minibatches = 1) = 0;
  // Blocks until the replies have arrived. Returns the pulled vector, in `room` or in the receive buffer. It
  // is valid until the next pull, and read-only: simulated workers share it.
  virtual ConstVec end_pull(Vec room) = 0;
  virtual void pull_work(int minibatches = 1) = 0;  // asks for work without the vector; blocks
  // Whether the servers' vector, when work was last granted, was another one than the vector pulled last.
  virtual bool changed() const = 0;
  // Returns where to compute the gradient that the next push() sends: the send buffer if that saves a copy,
  // else `own`. May block as push() does. The contents are undefined after the push.
  virtual Vec place(Vec own) { return own; }
  // Sends a*g to the servers: the gradient of `samples` samples, computed at the version that was pulled
  // last, and a number for the rule. Does not wait for the servers to apply it; it blocks only while the
  // buffers of the two previous pushes are still in use. g may be reused on return.
  virtual void push(float a, ConstVec g, std::int64_t samples, double number = 0) = 0;
  // Tells the servers to apply this worker's last push once more, as the gradient of `samples` new samples.
  virtual void push_again(std::int64_t samples) = 0;
  // Rule::number() of the servers at the last grant, as a mean over all elements of the vector.
  virtual double number() const = 0;

 protected:
  // For used(): implementations report each step of the protocol, in their order.
  void count_taken(std::int64_t samples) {
    before_ = taken_;
    taken_ += samples;
  }
  void count_pushed(std::int64_t samples) { pushed_ += samples; }
  void count_asked() { asked_ = pushed_; }  // work was asked for
  // known: samples in the servers' vector
  void count_granted(std::int64_t known) {
    known_ = known;
    arrived_ = asked_;
  }

 private:
  virtual void forget() {}  // the result of end_pull() was read and its buffer may go
  int workers_;
  std::int64_t taken_ = 0, before_ = 0, pushed_ = 0, asked_ = 0, arrived_ = 0, known_ = 0;
};

// The servers as equals, for their rules. Collective over the servers; blocks.
class Shards {
 public:
  virtual ~Shards() = default;
  virtual double sum(double x) = 0;  // over the servers; the same bits on all of them
};

// All ranks of one run: workers 0 to P-1, then servers. Implementations of this class and of those above are
// the only code that knows MPI. Ranks of one host exchange vectors through shared memory; Traffic is the same
// with and without.
class World {
 public:
  // Collective over all ranks. The first world of a process initialises MPI and finalises it, so it must be
  // closed last; several can be open at a time. Throws std::runtime_error if no rank is left for a worker.
  // minibatch: samples per worker and step. ranks_per_host is for tests and benchmarks: each group of that
  // many ranks counts as a host of its own (1: no shared memory). 0: real hosts.
  static std::unique_ptr<World> open(int servers, int minibatch, int ranks_per_host = 0);
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int workers() const = 0;
  int servers() const { return size() - workers(); }
  bool is_worker() const { return rank() < workers(); }
  virtual double now() const = 0;  // seconds; virtual ones in a simulated world
  // Advances a simulated clock, because computing alone takes no virtual time. No effect on real ranks.
  virtual void charge(double seconds) = 0;
  virtual void sleep(double seconds) = 0;  // real or virtual seconds
  virtual bool simulated() const = 0;      // all ranks are in one process, and one runs at a time

  virtual Group& group() = 0;  // workers only
  // Workers only. Opens access to a vector of n floats that is cut over the servers. The reference is valid
  // until the next call, which ends the access.
  virtual ParameterServer& server(std::size_t n) = 0;
  virtual Shards& shards() = 0;          // servers only
  virtual void serve(Shard& shard) = 0;  // servers only; returns when all workers have left
  // Workers only. Opens pairs that average x and divide the budget (samples of all workers). x must stay
  // valid. The reference is valid until the next call; all workers must have left the old pairs before it.
  // replayed: this worker answers requests in this recorded order; null: in the order of their arrival.
  virtual Pairs& pairs(Vec x, std::int64_t budget, const std::vector<Request>* replayed = nullptr) = 0;
  virtual Traffic& traffic() = 0;

  // Collective over all ranks; blocking. Not counted in Traffic.
  virtual void barrier() = 0;
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
  virtual void sum(std::span<std::int64_t> values) = 0;
  virtual void sum(std::span<double> values) = 0;
  virtual void min(std::span<double> values) = 0;
  virtual void max(std::span<double> values) = 0;
  // Returns one entry per rank on rank 0, and nothing on the others.
  virtual std::vector<std::vector<std::byte>> gather(std::span<const std::byte> data) = 0;
  static std::string library();           // name and version of MPI; needs no open world
  static bool cuda_aware();               // whether MPI takes vectors in a GPU's memory
  [[noreturn]] virtual void abort() = 0;  // ends all ranks
};

// The elements [first, first + count) of a vector of n floats that server s of `servers` holds.
struct ShardRange {
  std::size_t first, count;
};
inline ShardRange shard_range(std::size_t n, int s, int servers) {
  const std::size_t first = n * s / servers, last = n * (s + 1) / servers;
  return {first, last - first};
}

}  // namespace dsgd
