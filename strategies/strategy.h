// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "communicator.h"
#include "data_order.h"
#include "optimizer.h"
#include "parameter.h"
#include "server.h"
#include "vec.h"

namespace dsgd {

// One worker's minibatch. Empty when the budget is spent; count may be 0 in the last step of an epoch shared
// by many workers.
struct Batch {
  std::span<const std::uint32_t> ids;
  std::int64_t global_count = 0;  // samples of all workers in this step
  bool last = false;              // nothing is left of the budget after this one
  int count() const { return int(ids.size()); }
  explicit operator bool() const { return global_count > 0; }
};

// One worker's access to the model and the data.
class Replica {
 public:
  // A summed loss. A GPU may still be at work on it: it is waited for where somebody looks at the number.
  class Loss {
   public:
    Loss(double known) : known_(known) {}
    explicit Loss(Replica& late) : late_(&late) {}
    operator double() const { return late_ ? late_->loss() : known_; }

   private:
    double known_ = 0;
    Replica* late_ = nullptr;
  };
  virtual ~Replica() = default;
  virtual Batch next() = 0;
  // g <- sum over the batch of dL(w)/dw; returns the summed loss, to be looked at before the next one is
  // asked for. An empty batch gives zeros.
  virtual Loss gradient(ConstVec w, const Batch& batch, Vec g) = 0;
  // The same; what is at work behind its host may tell of parts of g, never of all.
  virtual Loss gradient_in_parts(ConstVec at, const Batch& batch, Vec into, const OnReady&) {
    return gradient(at, batch, into);
  }
  // g <- the gradient at `at`, then the optimizer's step of w with it; `when`: its `used`. A GPU has both in
  // the graph of a step.
  virtual Loss descend(ConstVec at, const Batch& batch, Optimizer& optimizer, double scale,
                       std::int64_t when) {
    const Loss loss = gradient(at, batch, g);
    optimizer.step(w, g, scale, when);
    return loss;
  }
  Vec w, g;               // this worker's model and gradient
  std::int64_t t = 0;     // steps that this worker has done
  std::int64_t used = 0;  // samples that all workers have used before this step (lock-step strategies)

 private:
  virtual double loss() { return 0; }  // of the last gradient
};

// Walks over everything that a checkpoint must hold.
class State {
 public:
  virtual ~State() = default;
  virtual void vector(const std::string& name, Vec v) = 0;
  virtual void number(const std::string& name, std::int64_t& n) = 0;
  virtual void number(const std::string& name, double& x) = 0;
  void optimizer(Optimizer& o, const std::string& name = "optimizer") {
    vector(name, o.state());
    number(name + " updates", o.updates());
  }
};

using Facts = std::vector<std::pair<std::string, double>>;

// One step of a paper's loop. No clock, no evaluation, no file, no role test.
class Strategy {
 public:
  virtual ~Strategy() = default;
  virtual bool step(Replica& r) = 0;  // one minibatch; false when the budget is spent
  virtual Vec master(Replica& r) {
    return r.w;
  }  // the model that the paper reports; may be collective; leaves training as it was
  virtual void visit(State&) {}
};

// What a strategy is made from.
struct Context {
  Group* group = nullptr;             // workers as equals
  ParameterServer* server = nullptr;  // null for strategies without a rule
  Pairs* pairs = nullptr;             // null for strategies not in pairs
  Shards* shards = nullptr;           // on servers; null: there is one
  const Space* space = nullptr;
  std::size_t parameters = 0;
  int workers = 1, servers = 0, minibatch = 32;
  int rank = 0;  // of the worker
  OptimizerSettings optimizer;
  std::uint64_t seed = 1;  // of the run
};

// What one worker sends in `steps` steps: the formula that the counters are checked against.
struct Cost {
  double bytes_sent = 0, messages = 0;
};
inline Cost operator+(Cost a, Cost b) { return {a.bytes_sent + b.bytes_sent, a.messages + b.messages}; }
inline Cost operator*(double times, Cost c) { return {times * c.bytes_sent, times * c.messages}; }
inline std::int64_t periods(std::int64_t steps, std::int64_t period) { return (steps + period - 1) / period; }
Cost all_reduce_cost(const Context& c, int vectors = 1);  // 2*(P-1)/P*4n bytes for each
Cost pull_cost(const Context& c);                         // the requests: a header to each server
Cost push_cost(const Context& c);  // a header and its part of the vector to each server

// Settings at which a strategy is plain SGD: the tests hold it against that under every rule and option of
// the optimizer.
struct Identity {
  enum Of {
    one_worker,  // one worker is serial SGD
    in_turn,     // so are several who take turns, a minibatch each
    linear,      // workers in lock-step are `sync` where an update is linear in the gradients
    sync,        // they are, always
    none         // there are no such settings
  } of;
  std::map<std::string, Value> settings = {};
  double rounding = 0;   // off by so many times what sums in another order are; 0: to the bit, but for these
  std::string why = {};  // there are none
};

// Samples that a budget must have for every worker to have some work and for one update, and why.
struct Least {
  std::int64_t samples = 1;
  std::string why;
};
// Of workers that ask a server for so many minibatches at a time; `key`: what says so.
Least least_for_all(const Context& c, std::int64_t minibatches = 1, const std::string& key = {});

// One line of the table of strategies.
struct StrategyEntry {
  std::string name, summary, paper;
  // How workers meet: in every step, at parameter servers (make_rule), or two by two at their own pace.
  enum class Kind { lock_step, servers, pairs } kind = Kind::lock_step;
  DataOrder data_order;
  std::vector<Parameter> parameters;
  std::unique_ptr<Strategy> (*make)(const Settings&, const Context&);
  std::unique_ptr<Rule> (*make_rule)(const Settings&, const Context&);  // of Kind::servers, else null
  Cost (*cost)(const Settings&, const Context&, std::int64_t steps);
  Facts (*effective)(const Settings&, const Context&);  // what the settings amount to, stored in every result
  Least (*least)(const Settings&, const Context&) = nullptr;  // null: a minibatch of every worker will do
  bool tolerates_loss = false;                                // goes on where a push never arrives
  bool own_models = false;        // workers end apart; master() is the common model
  int collectives = 1;            // over all workers at the end of a period
  bool clips_on_workers = false;  // optimizer.clip; not the servers
  bool elements = false;          // reads and writes single elements: its vectors are in the host's memory
  bool cost_is_bound =
      false;                // messages depend on the data or on who is idle: `cost` is the most that is sent
  bool in_batches = false;  // Rule::batch(); samples are read again, in the same batch or as a copy
  // What the tests of every strategy need to know of it.
  struct Tests {
    std::map<std::string, Value> conformance = {};  // settings that are not degenerate
    std::vector<Identity> identities = {};          // at least one
    double rate = 1;  // times the tests' rates, where this one's mean something else
  } tests;
  bool pairs() const { return kind == Kind::pairs; }
  bool served() const { return kind == Kind::servers; }
};

const std::vector<const StrategyEntry*>& all_strategies();
const StrategyEntry* find_strategy(const std::string& name);  // nullptr when unknown
// The optimizer's key for which servers need norms of the whole vector, which several have in parts; empty:
// none.
std::string needs_whole_vector(const StrategyEntry& entry, const OptimizerSettings& optimizer);

}  // namespace dsgd
