// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "parts/aggregation.h"

namespace dsgd {

// Local SGD: every worker makes a period of local steps. Then the workers average their models, and the
// strategy's outer() makes of the mean the model from which all continue. A period that the end of the budget
// cuts short ends the same way.
class OuterLoop : public Strategy {
 public:
  // tau: local steps of a period. state: whether the optimizer's state is kept, averaged or reset at its end.
  OuterLoop(const Context& c, std::int64_t tau, std::string state)
      : OuterLoop(c, tau, std::move(state), Aggregation(c)) {}
  OuterLoop(const Context& c, std::int64_t tau, std::string state, Aggregation workers)
      : workers_(workers),
        optimizer_(c.optimizer, *c.space, c.parameters),
        tau_(tau),
        state_(std::move(state)) {}

  bool step(Replica& r) override {
    if (r.t == 0) begin(r.w);
    const Batch batch = r.next();
    if (!batch) return false;
    if (together(r.t)) {
      r.gradient(r.w, batch, r.g);
      workers_.sum(r.g);
      optimizer_.step(r.w, r.g, 1.0 / double(batch.global_count), r.used);
      begun_ = r.t + 1;
      return true;
    }
    if (batch.count()) r.descend(r.w, batch, optimizer_, 1.0 / batch.count(), r.used);
    if (r.t + 1 < begun_ + period(begun_) && !batch.last) return true;
    begun_ = r.t + 1;
    workers_.mean(r.w);
    outer(r.w, r.used);
    if (state_ == "average" && optimizer_.state().size) workers_.mean(optimizer_.state());
    if (state_ == "reset") optimizer_.reset();
    return true;
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.number("begun", begun_);
  }

 protected:
  // (w): the model that all workers start from. Called once, before the first step.
  virtual void begin(ConstVec) {}
  // (w, used): w is the workers' mean; outer() turns it into the model from which workers continue. It must
  // give the same bits on all workers.
  virtual void outer(Vec, std::int64_t) {}
  // (t): length of the period that begins at step t.
  virtual std::int64_t period(std::int64_t) const { return tau_; }
  // (t): whether step t is a synchronous one, with the mean gradient of all workers. It ends no period.
  virtual bool together(std::int64_t) const { return false; }

  Aggregation workers_;
  Optimizer optimizer_;  // of the local steps

 private:
  std::int64_t tau_;
  std::string state_;
  std::int64_t begun_ = 0;  // step at which the current period began
};

inline Parameter state_parameter(const char* fallback) {
  return Parameter::choice("state", fallback, {"keep", "average", "reset"},
                           "local optimizer's state at the end of a period");
}
// Cost of averaging the model and, if state = "average", the optimizer's state. aggregate(vectors): cost of
// averaging that many vectors.
template <typename Aggregate>
Cost end_of_period_cost(const Settings& s, const Context& c, Aggregate aggregate) {
  const int kept = s.text("state") == "average" ? state_vectors(c.optimizer.rule) : 0;
  return kept ? aggregate(1) + aggregate(kept) : aggregate(1);
}
inline Cost end_of_period_cost(const Settings& s, const Context& c) {
  return end_of_period_cost(s, c, [&](int vectors) { return all_reduce_cost(c, vectors); });
}

}  // namespace dsgd
