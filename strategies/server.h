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

// One gradient (or the weighted sum of several) as it reaches a shard. The update is made of scale*g.
struct Arrival {
  int worker = 0;
  std::int64_t samples = 0;  // that g was computed from
  std::int64_t version = 0;  // of the shard, as the worker held it
  std::int64_t tau = 0;      // staleness: updates of the shard since then
  ConstVec g;
  float scale = 1;
  double number = 0;  // that came with it; with several their sum
};

// A strategy's server rule: what one shard does with what arrives. The runtime owns versions, staleness,
// budget and shutdown.
class Rule {
 public:
  virtual ~Rule() = default;
  virtual void apply(Vec w, const Arrival& a,
                     std::int64_t used) = 0;               // one update; used: samples in w before it
  virtual double weight(std::int64_t) const { return 1; }  // factor of a gradient with staleness tau
  virtual int arrivals() const { return 1; }  // c: gradients summed (and divided by c) into one update
  // Updates made of a whole batch: its samples are granted in portions, each of which counts once. The update
  // is the sum over the batch, `scale` one over its samples. 0: there are no batches.
  virtual std::int64_t batch() const { return 0; }
  virtual bool same_batch() const { return false; }  // the next one has the same samples
  virtual bool repeats() const { return false; }     // workers push their last gradient again; shards keep it
  virtual int backups() const { return 0; }    // copies of a portion that idle workers get, first one wins
  virtual double number() const { return 0; }  // for the workers: the mean over this shard's elements
  virtual Vec master(Vec w) { return w; }      // the model that the paper reports
  // (worker, used): false holds its pull back for now. Shards other than the first ask where the budget is
  // spent, too: whoever finishes must hold nobody back.
  virtual bool admit(int, std::int64_t) const { return true; }
  virtual void sent(int, ConstVec) {}  // (worker, w): its pull is answered with this w
  virtual void left(int) {}            // (worker): it stopped with the budget unspent
  virtual void finished(int) {}        // (worker): no more comes from it, whatever the budget
  virtual void visit(State&) {}
};

// What a worker sent to a shard.
struct Request {
  enum Kind : std::uint8_t { pull, push, leave, pull_work, push_again };
  std::int32_t worker = 0;
  Kind kind = pull;
  std::int64_t version = 0;   // push: of the shard, as the worker held it; others: when it was answered
  std::int64_t samples = 0;   // push: made of; pull: granted, 0 once the budget is spent; leave: given back
  std::int64_t position = 0;  // pull: of the granted portion
  bool operator==(const Request&) const = default;
};

// One server's part of the flat vector, without any messages: the logic that a script of arrivals can test.
class Shard {
 public:
  struct Options {
    int workers = 1;
    int minibatch = 32;
    std::int64_t budget = 0;  // samples of all workers together
    double drop = 0;          // share of the pushes that never arrive
    std::uint64_t seed = 1;   // decides which, the same at every shard
    bool first = true;        // of the shards: its grants count
  };
  Shard(const Options& settings, Rule& rule, Vec w);

  struct Reply {
    std::int64_t version = 0;
    std::int64_t used = 0;      // samples in w
    std::int64_t position = 0;  // first sample of the granted portion, in the queue's stream
    std::int64_t granted = 0;   // samples to work on; 0: the budget is spent
    double number = 0;          // the rule's
  };
  struct What {
    bool w = true;           // or work alone
    std::int64_t least = 0;  // samples that are to be in w
  };
  // A worker asks for w and for work (0: for w alone). No answer: it is held back; ask again after the next
  // arrival.
  std::optional<Reply> pull(int worker, std::int64_t want, What what);
  std::optional<Reply> pull(int worker, std::int64_t want) { return pull(worker, want, {}); }
  struct Origin {  // of the work that a push was made of: what was used when it was granted, and where it
                   // began
    std::int64_t used = 0, position = 0;
    double number = 0;
  };
  void push(int worker, std::int64_t version, std::int64_t samples, ConstVec g, const Origin& from);
  void push(int worker, std::int64_t version, std::int64_t samples, ConstVec g) {
    push(worker, version, samples, g, {});
  }
  // The worker's last gradient that arrived, of its version, once more; lost where there was none yet.
  void push_again(int worker, std::int64_t samples);
  // The worker stops early. What it was granted and has not pushed goes back to the budget, as long as nobody
  // was told that it is spent; returns how many samples.
  std::int64_t leave(int worker);
  void finish(int worker) { rule_.finished(worker); }  // the worker stops

  Vec w() const { return w_; }
  std::int64_t version() const { return version_; }              // updates made
  std::int64_t used() const { return used_; }                    // samples in w
  std::int64_t unapplied() const { return unapplied_samples_; }  // samples of an incomplete sum (c arrivals)
  std::int64_t arrivals() const { return arrivals_; }
  std::int64_t dropped() const { return dropped_; }  // pushes
  std::int64_t late() const { return late_; }        // pushes of a portion that was there already
  const std::vector<std::int64_t>& staleness() const { return staleness_; }  // count by tau
  const Options& settings() const { return settings_; }
  std::function<void(const Shard&)> updated;  // called after every update
  std::function<void(const Shard&)> arrived;  // called after every arrival

  // What was taken from the workers, in that order: besides the configuration, all that decides w.
  std::vector<Request> requests;
  std::span<const Request> replayed;  // to be taken in this order; empty: as they come

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
  Vector sum_;  // of c arrivals, or of a batch
  struct Last {
    Vector g;
    std::int64_t version = -1;  // none yet
  };
  std::vector<Last> last_;  // of each worker, where the rule repeats them
  double number_ = 0;
  int summed_ = 0;
  std::int64_t unapplied_samples_ = 0, arrivals_ = 0, dropped_ = 0, late_ = 0, version_ = 0, used_ = 0;
  std::int64_t granted_ = 0, position_ = 0;  // samples; in the queue's stream
  bool spent_ = false;                       // somebody was told so
  std::vector<std::int64_t> outstanding_;    // samples that a worker was granted and has not pushed
  std::vector<std::int64_t> pushes_;         // of each worker, dropped ones too
  std::vector<std::int64_t> staleness_;

  std::int64_t handed_out_ = 0;  // samples of the batch, which begins at position_
  std::vector<Portion> out_;     // granted and not done
  std::set<std::int64_t> done_;  // positions of portions of this batch
};

}  // namespace dsgd
