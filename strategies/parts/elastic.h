// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "strategy.h"

namespace dsgd {

// The worker's half of elastic averaging SGD (Zhang, Choromanska, LeCun 2015), which the asynchronous and
// synchronous forms share. P workers explore on their own; elastic forces tie them to a centre c. Every tau
// local steps, with x as it was before the step,
//   d   <- alpha * (x_i - c)              alpha = beta / P
//   x_i <- x_i - eta * g(x_i) - d         c <- c + d
// EAMSGD has Nesterov momentum in place of the gradient step (algorithm 2):
//   v   <- delta * v - eta * g(x_i + delta * v);   x_i <- x_i + v - d      weight decay is within g
// If a schedule changes eta, v is scaled with it, as with all momentum here. In the authors' program the past
// of v keeps its old eta.
class Elastic : public Strategy {
 public:
  Elastic(const Settings& s, const Context& c)
      : tau_(s.integer("tau")),
        alpha_(float(alpha(s, c))),
        looks_ahead_(has_momentum(s)),
        optimizer_(local_optimizer(s, c.optimizer), *c.space, c.parameters),
        ahead_(*c.space, looks_ahead_ ? c.parameters : 0),
        d_(*c.space, c.parameters) {}
  void visit(State& state) override { state.optimizer(optimizer_); }

  // The fields that all such entries share. Their files fill in the rest.
  static StrategyEntry entry(std::string name, std::string summary, bool momentum);

 protected:
  // One local step of r.w, without the elastic force.
  void local_step(Replica& r, const Batch& batch, std::int64_t used) {
    if (looks_ahead_) {  // ahead <- x + delta * v; the optimizer's state is -v / eta
      const double eta = optimizer_.rate(used), l2 = optimizer_.settings().l2;
      copy(r.w, ahead_);
      axpy(float(-eta * optimizer_.settings().momentum), optimizer_.state(), ahead_);
      // The optimizer adds the decay of x. This turns it into the decay of x + delta * v.
      if (l2 > 0) scale(float(1 - eta * l2), optimizer_.state());
    }
    r.descend(looks_ahead_ ? ahead_.view() : r.w, batch, optimizer_, 1.0 / batch.count(), used);
  }

  std::int64_t tau_;
  float alpha_;
  bool looks_ahead_;
  Optimizer optimizer_;
  Vector ahead_, d_;

 private:
  static bool has_momentum(const Settings& s) { return s.values().count("delta") > 0; }
  static double alpha(const Settings& s, const Context& c) { return s.number("beta") / c.workers; }
  static OptimizerSettings local_optimizer(const Settings& s, OptimizerSettings settings) {
    if (!has_momentum(s)) return settings;
    settings.rule = OptimizerSettings::Rule::momentum;
    settings.momentum = s.number("delta");
    return settings;
  }
  static Facts effective(const Settings& s, const Context& c);
};

}  // namespace dsgd
