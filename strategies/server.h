// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "vec.h"

namespace dsgd {

class State;

// One gradient, or the weighted sum of several, as it reaches a shard. The update is made of scale*g.
struct Arrival {
  int worker = 0;            // that sent it; of several the last
  std::int64_t samples = 0;  // that g was computed from
  std::int64_t version = 0;  // of the shard's vector that g was computed at
  std::int64_t tau = 0;      // staleness: updates of the shard since that version
  ConstVec g;                // valid during the call
  float scale = 1;
  double number = 0;  // the worker's number for the rule; of several the sum
};

// A strategy's server rule: what one shard does with arrivals. The runtime handles versions, staleness,
// budget and shutdown. It calls these functions on the server, one at a time.
class Rule {
 public:
  virtual ~Rule() = default;
  // Makes one update of w. used: samples in w before it.
  virtual void apply(Vec w, const Arrival& a, std::int64_t used) = 0;
  virtual double weight(std::int64_t) const { return 1; }  // (tau): factor of a gradient with that staleness
  // c: gradients that are summed, and divided by c, for one update.
  virtual int arrivals() const { return 1; }
  // Samples of a batch, if each update is made of one whole batch; else 0. Its samples are granted in
  // portions, and each portion counts once. The update is the sum over the batch, with scale = 1 / batch().
  virtual std::int64_t batch() const { return 0; }
  virtual bool same_batch() const { return false; }  // whether the next batch has the same samples
  // Whether workers call push_again(), so that shards keep each worker's last gradient.
  virtual bool repeats() const { return false; }
  // Copies of an unfinished portion that idle workers may get; the first result counts.
  virtual int backups() const { return 0; }
  // Goes to the workers with each reply; a mean over this shard's elements.
  virtual double number() const { return 0; }
  virtual Vec master(Vec w) { return w; }  // this shard's part of the model that the paper reports
  // (worker, used): false holds this worker's pull back until the next arrival. The first shard asks only
  // while budget is left, the others always. So once finished() was called for a worker, the rule must not
  // make others wait for it.
  virtual bool admit(int, std::int64_t) const { return true; }
  virtual void sent(int, ConstVec) {}  // (worker, w): its pull is being answered with w
  virtual void left(int) {}            // (worker): it stops before the budget is spent; finished() follows
  virtual void finished(int) {}        // (worker): nothing more comes from it
  virtual void visit(State&) {}
};

// One request of a worker to a shard, as recorded for a replay.
struct Request {
  enum Kind : std::uint8_t { pull, push, leave, pull_work, push_again };
  std::int32_t worker = 0;
  Kind kind = pull;
  // Of the shard. push: the one that the worker held; others: the one when the request was answered.
  std::int64_t version = 0;
  // push: that g was computed from. pull: granted, 0 once the budget is spent. leave: returned to the budget.
  std::int64_t samples = 0;
  std::int64_t position = 0;  // pull: first sample of the granted portion
  bool operator==(const Request&) const = default;
};

// The part of the flat vector that one server holds, without any messages, so that tests can drive it with a
// script of arrivals. w must outlive it.
class Shard {
 public:
  struct Options {
    int workers = 1;
    int minibatch = 32;       // samples
    std::int64_t budget = 0;  // samples of all workers together
    double drop = 0;          // share of the pushes that are lost, for experiments with faults
    std::uint64_t seed = 1;   // decides which are lost, the same ones at every shard
    bool first = true;        // whether this is the first shard: only its grants count
  };
  Shard(const Options& settings, Rule& rule, Vec w);

  struct Reply {
    std::int64_t version = 0;
    std::int64_t used = 0;      // samples in w
    std::int64_t position = 0;  // first sample of the granted portion, in the queue's stream
    std::int64_t granted = 0;   // samples to work on; 0: the budget is spent, or none were wanted
    double number = 0;          // Rule::number()
  };
  struct What {
    bool w = true;           // whether the worker wants w, or work alone
    std::int64_t least = 0;  // samples that w must contain before the answer
  };
  // A worker asks for w and for `want` samples of work (0: no work). Returns nothing if the pull is held
  // back; call again after the next arrival.
  std::optional<Reply> pull(int worker, std::int64_t want, What what);
  std::optional<Reply> pull(int worker, std::int64_t want) { return pull(worker, want, {}); }
  // The work that a push was computed from: the Reply's `used` and `position` when it was granted.
  struct Origin {
    std::int64_t used = 0, position = 0;
    double number = 0;  // for the rule
  };
  // A gradient arrives. It may complete an update, or be dropped or late. g may be reused on return.
  void push(int worker, std::int64_t version, std::int64_t samples, ConstVec g, const Origin& from);
  void push(int worker, std::int64_t version, std::int64_t samples, ConstVec g) {
    push(worker, version, samples, g, {});
  }
  // Applies the last gradient of this worker that arrived, at its version, once more. Counts as dropped if
  // there is none.
  void push_again(int worker, std::int64_t samples);
  // The worker stops early. The samples that it was granted and has not pushed return to the budget, unless a
  // worker has already been told that the budget is spent. Returns how many. With Rule::batch() it returns 0:
  // other workers get the open portions.
  std::int64_t leave(int worker);
  void finish(int worker) { rule_.finished(worker); }  // the worker stops at the end of the budget

  Vec w() const { return w_; }
  std::int64_t version() const { return version_; }              // updates made
  std::int64_t used() const { return used_; }                    // samples in w
  std::int64_t unapplied() const { return unapplied_samples_; }  // samples in a sum that is not complete yet
  std::int64_t arrivals() const { return arrivals_; }
  std::int64_t dropped() const { return dropped_; }  // pushes
  // Pushes of a portion that is done already or of an earlier batch.
  std::int64_t late() const { return late_; }
  const std::vector<std::int64_t>& staleness() const { return staleness_; }  // number of arrivals by tau
  const Options& settings() const { return settings_; }
  std::function<void(const Shard&)> updated;  // called after every update
  std::function<void(const Shard&)> arrived;  // called after every arrival

  // Filled and read by the runtime (mpi/service.h). requests: what the workers sent, in the order in which it
  // was taken. The configuration and this order determine w. replayed: a recorded order to follow; empty: in
  // the order of arrival.
  std::vector<Request> requests;
  std::span<const Request> replayed;

 private:
  struct Portion {
    std::int64_t position = 0, count = 0;
    std::vector<int> workers;  // that work on it
  };
  std::optional<Portion> grant(int worker, std::int64_t want);
  std::optional<Portion> grant_of_batch(int worker, std::int64_t want);
  void release(int worker);
  bool lost(int worker);
  void take(const Arrival& arrival);

  Options settings_;
  Rule& rule_;
  Vec w_;
  bool sums_;
  Vector sum_;  // of the arrivals or the batch so far
  struct Last {
    Vector g;
    std::int64_t version = -1;  // none yet
  };
  std::vector<Last> last_;  // of each worker, if rule_.repeats()
  double number_ = 0;
  int summed_ = 0;
  std::int64_t unapplied_samples_ = 0, arrivals_ = 0, dropped_ = 0, late_ = 0, version_ = 0, used_ = 0;
  std::int64_t granted_ = 0, position_ = 0;  // samples; in the queue's stream
  bool spent_ = false;                       // a worker was told that the budget is spent
  std::vector<std::int64_t> outstanding_;    // of each worker: samples granted and not pushed
  std::vector<std::int64_t> pushes_;         // of each worker, including dropped ones
  std::vector<std::int64_t> staleness_;

  std::int64_t handed_out_ = 0;  // samples granted of the batch that begins at position_
  std::vector<Portion> out_;     // portions of the batch that are granted and not done
  std::set<std::int64_t> done_;  // positions of portions of this batch
};

}  // namespace dsgd
