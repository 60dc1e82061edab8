// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "strategy.h"

namespace dsgd {

// Elastic averaging SGD (Zhang, Choromanska, LeCun 2015): p workers explore on their own, tied to a centre c
// by elastic forces. Every tau local steps, with x as it was before the step,
//   d   <- alpha * (x_i - c)              alpha = beta / p
//   x_i <- x_i - eta * g(x_i) - d         c <- c + d
// EAMSGD has Nesterov momentum in place of the gradient step (algorithm 2):
//   v   <- delta * v - eta * g(x_i + delta * v);   x_i <- x_i + v - d      weight decay is within g
// Where a schedule changes eta, v changes with it, as in all momentum here; in the authors' program its past
// keeps the old one.
// Here is the worker's half, which asynchronous and synchronous forms share.
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

  // What the entries have in common; the rest is filled in by their files.
  static StrategyEntry entry(std::string name, std::string summary, bool momentum);

 protected:
  void local_step(Replica& r, const Batch& batch, std::int64_t used) {
    if (looks_ahead_) {  // x + delta * v; the optimizer's state is -v / eta
      const double eta = optimizer_.rate(used), l2 = optimizer_.settings().l2;
      copy(r.w, ahead_);
      axpy(float(-eta * optimizer_.settings().momentum), optimizer_.state(), ahead_);
      // The decay of x that the optimizer adds becomes that of x + delta * v.
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
