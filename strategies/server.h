#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "models/vec.h"

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
  virtual bool admit(int, std::int64_t) const {
    return true;
  }                                    // (worker, used): false holds its pull back for now
  virtual void sent(int, ConstVec) {}  // (worker, w): its pull is answered with this w
  virtual void left(int) {}            // (worker): it stopped with the budget unspent; no more comes from it
  virtual void visit(State&) {}
};

// What a worker sent to a shard.
struct Request {
  enum Kind : std::uint8_t { pull, push, leave };
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
  struct Settings {
    int workers = 1;
    int minibatch = 32;
    std::int64_t budget = 0;  // samples of all workers together
    double drop = 0;          // share of the pushes that never arrive
    std::uint64_t seed = 1;   // decides which, the same at every shard
  };
  Shard(const Settings& settings, Rule& rule, Vec w);

  struct Reply {
    std::int64_t version = 0;
    std::int64_t used = 0;      // samples in w
    std::int64_t position = 0;  // first sample of the granted portion, in the queue's stream
    std::int64_t granted = 0;   // samples to work on; 0: the budget is spent
  };
  // A worker asks for w and for work. No answer: it is held back; ask again after the next arrival.
  std::optional<Reply> pull(int worker, std::int64_t want);
  void push(int worker, std::int64_t version, std::int64_t samples, ConstVec g);
  // The worker stops early. What it was granted and has not pushed goes back to the budget, as long as nobody
  // was told that it is spent; returns how many samples.
  std::int64_t leave(int worker);

  Vec w() const { return w_; }
  std::int64_t version() const { return version_; }              // updates made
  std::int64_t used() const { return used_; }                    // samples in w
  std::int64_t unapplied() const { return unapplied_samples_; }  // samples of an incomplete sum (c arrivals)
  std::int64_t arrivals() const { return arrivals_; }
  std::int64_t dropped() const { return dropped_; }                          // pushes
  const std::vector<std::int64_t>& staleness() const { return staleness_; }  // count by tau
  const Settings& settings() const { return settings_; }
  std::function<void(const Shard&)> updated;  // called after every update
  std::function<void(const Shard&)> arrived;  // called after every arrival

  // What was taken from the workers, in that order: besides the configuration, all that decides w.
  std::vector<Request> requests;
  std::span<const Request> replayed;  // to be taken in this order; empty: as they come

 private:
  Settings settings_;
  Rule& rule_;
  Vec w_;
  bool sums_;
  Vector sum_;  // of c arrivals
  int summed_ = 0;
  std::int64_t unapplied_samples_ = 0, arrivals_ = 0, dropped_ = 0, version_ = 0, used_ = 0;
  std::int64_t granted_ = 0, position_ = 0;  // samples; in the queue's stream
  bool spent_ = false;                       // somebody was told so
  std::vector<std::int64_t> outstanding_;    // samples that a worker was granted and has not pushed
  std::vector<std::int64_t> pushes_;         // of each worker, dropped ones too
  std::vector<std::int64_t> staleness_;
};

}  // namespace dsgd
