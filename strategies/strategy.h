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

// One worker's minibatch. It converts to false when the budget is spent. ids may be empty in the last step of
// an epoch, when too few samples are left for all workers.
struct Batch {
  // Samples of the training set; valid until the next Replica::next().
  std::span<const std::uint32_t> ids;
  std::int64_t global_count = 0;  // samples of all workers in this step
  bool last = false;              // the budget is spent after this one
  int count() const { return int(ids.size()); }
  explicit operator bool() const { return global_count > 0; }
};

// One worker's access to its model and data.
class Replica {
 public:
  // The loss summed over a batch. A GPU computes it asynchronously: reading the number waits for it. It must
  // be read before the next gradient begins.
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
  // The next minibatch. Ends the validity of the last one.
  virtual Batch next() = 0;
  // g <- sum over the batch of dL(w)/dw; zeros for an empty batch. On a GPU it is asynchronous with respect
  // to the host: g is complete for later operations of its space.
  virtual Loss gradient(ConstVec w, const Batch& batch, Vec g) = 0;
  // The same, but a GPU may call the OnReady for parts of the gradient that are complete before the whole is.
  // The calls need not cover the whole vector; Group::end_sum() handles the rest.
  virtual Loss gradient_in_parts(ConstVec at, const Batch& batch, Vec into, const OnReady&) {
    return gradient(at, batch, into);
  }
  // g <- the gradient at `at`, then optimizer.step(w, g, scale, when). A GPU runs both as one CUDA graph
  // where it can. when: the samples used so far, for the schedule.
  virtual Loss descend(ConstVec at, const Batch& batch, Optimizer& optimizer, double scale,
                       std::int64_t when) {
    const Loss loss = gradient(at, batch, g);
    optimizer.step(w, g, scale, when);
    return loss;
  }
  Vec w, g;            // this worker's model and gradient, n floats each
  std::int64_t t = 0;  // steps that this worker has completed
  // Samples that all workers used before this step. Set for lock-step strategies; others ask Work::used().
  std::int64_t used = 0;

 private:
  virtual double loss() { return 0; }  // of the last gradient
};

// Visits everything that a checkpoint must hold. `name` identifies each item within a strategy.
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

// What the settings of a run amount to, such as the samples per update: name and number.
using Facts = std::vector<std::pair<std::string, double>>;

// One step of a paper's loop, on one worker. It contains no clock, no evaluation, no file access and no test
// of the rank's role.
class Strategy {
 public:
  virtual ~Strategy() = default;
  virtual bool step(Replica& r) = 0;  // one minibatch; false when the budget is spent
  // The model that the paper reports. Does not change training. May be collective, so all workers call it
  // together. The result is valid until the next step.
  virtual Vec master(Replica& r) { return r.w; }
  virtual void visit(State&) {}
};

// What a strategy or a rule is constructed from. Pointers are valid as long as the run.
struct Context {
  Group* group = nullptr;             // workers only
  ParameterServer* server = nullptr;  // workers only; null for strategies without a rule
  Pairs* pairs = nullptr;             // null for other kinds than `pairs`
  Shards* shards = nullptr;           // servers only; null if there is one
  const Space* space = nullptr;       // of the model and the gradient
  std::size_t parameters = 0;         // n, the size of the model
  int workers = 1, servers = 0, minibatch = 32;
  int rank = 0;  // the worker's
  OptimizerSettings optimizer;
  std::uint64_t seed = 1;  // of the run
};

// What one worker sends in `steps` steps. Tests compare this formula with the counters of Traffic.
struct Cost {
  double bytes_sent = 0, messages = 0;
};
inline Cost operator+(Cost a, Cost b) { return {a.bytes_sent + b.bytes_sent, a.messages + b.messages}; }
inline Cost operator*(double times, Cost c) { return {times * c.bytes_sent, times * c.messages}; }
// Periods that `steps` steps begin.
inline std::int64_t periods(std::int64_t steps, std::int64_t period) { return (steps + period - 1) / period; }
Cost all_reduce_cost(const Context& c, int vectors = 1);  // 2*(P-1)/P*4n bytes for each vector
Cost pull_cost(const Context& c);                         // a request header to each server
Cost push_cost(const Context& c);  // to each server a header and its shard's part of the gradient

// Settings at which a strategy is plain SGD. Tests compare it with plain SGD under every optimizer rule and
// option.
struct Identity {
  enum Of {
    one_worker,  // with one worker it is serial SGD
    in_turn,     // so it is with several workers that take turns, a minibatch each
    linear,      // in lock-step it is `sync` if the update is linear in the gradients
    sync,        // in lock-step it is `sync` under every rule
    none         // there are no such settings
  } of;
  std::map<std::string, Value> settings = {};
  // Tolerance, in multiples of the rounding error of a sum in another order. It comes on top of that error
  // where the sums do have another order; otherwise 0 demands equal bits.
  double rounding = 0;
  std::string why = {};  // of `none`: why there are no such settings
};

// The smallest budget, in samples, at which every worker gets work and one update is made, and why.
struct Least {
  std::int64_t samples = 1;
  std::string why;
};
// For workers that ask a server for `minibatches` minibatches at a time. key: the setting that says so, for
// the message.
Least least_for_all(const Context& c, std::int64_t minibatches = 1, const std::string& key = {});

// One row of the table of strategies.
struct StrategyEntry {
  std::string name, summary, paper;
  // How workers meet: all in every step, at parameter servers, or two by two at their own pace.
  enum class Kind { lock_step, servers, pairs } kind = Kind::lock_step;
  DataOrder data_order;
  std::vector<Parameter> parameters;
  std::unique_ptr<Strategy> (*make)(const Settings&, const Context&);
  std::unique_ptr<Rule> (*make_rule)(const Settings&, const Context&);  // Kind::servers only, else null
  Cost (*cost)(const Settings&, const Context&, std::int64_t steps);
  Facts (*effective)(const Settings&, const Context&);        // stored in every result
  Least (*least)(const Settings&, const Context&) = nullptr;  // null: one minibatch per worker is enough
  bool tolerates_loss = false;                                // trains on if a push is lost (faults.drop)
  bool own_models = false;        // workers end with different models; master() is the common one
  int collectives = 1;            // calls over all workers at the end of a period
  bool clips_on_workers = false;  // workers apply optimizer.clip, not the servers
  bool elements = false;          // accesses single elements, so its vectors are in host memory
  // `cost` is an upper bound: what is sent depends on the data or on timing.
  bool cost_is_bound = false;
  bool in_batches = false;  // uses Rule::batch(); samples are read again, in the same batch or as a copy
  // What the tests of all strategies need to know of it.
  struct Tests {
    std::map<std::string, Value> conformance = {};  // settings that are not degenerate
    std::vector<Identity> identities = {};          // at least one
    double rate = 1;  // factor on the tests' learning rates, where this strategy's mean something else
  } tests;
  bool pairs() const { return kind == Kind::pairs; }
  bool served() const { return kind == Kind::servers; }
};

const std::vector<const StrategyEntry*>& all_strategies();
const StrategyEntry* find_strategy(const std::string& name);  // nullptr if unknown
// The key of the optimizer that makes a server use the norm of the whole vector: "optimizer.rule" (lars) or
// "optimizer.clip". Empty if there is none. With several servers none has the whole vector, so such runs are
// refused.
std::string needs_whole_vector(const StrategyEntry& entry, const OptimizerSettings& optimizer);

}  // namespace dsgd
