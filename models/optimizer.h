#pragma once

#include <cstdint>
#include <string>

#include "models/vec.h"

namespace dsgd {

// Learning rate as a function of the samples that the whole run has used so far.
struct Schedule {
  enum class Kind { constant, step, warmup } kind = Kind::constant;
  std::int64_t samples = 0;  // step: multiply by `factor` after every so many; warmup: grow linearly from
                             // `factor` to 1 over them
  double factor = 0.1;
  double at(std::int64_t used) const;  // multiplier of the base rate
};

struct OptimizerSettings {
  enum class Rule { sgd, momentum, nesterov, adagrad } rule = Rule::sgd;
  double learning_rate = 0.1;
  double momentum = 0.9;             // momentum, nesterov
  double l2 = 0;                     // coefficient of w in the gradient
  double initial_accumulator = 0.1;  // adagrad: first value of the sum of squares (not given by the papers)
  double epsilon = 1e-8;             // adagrad: added to the square root
  Schedule schedule;
};

OptimizerSettings::Rule optimizer_rule(const std::string& name);  // throws std::invalid_argument

// Turns a gradient into an update of w; used by workers and by server rules alike. With d = scale*g + l2*w:
//   sgd       w <- w - rate*d
//   momentum  v <- mu*v + d;  w <- w - rate*v
//   nesterov  v <- mu*v + d;  w <- w - rate*(d + mu*v)
//   adagrad   s <- s + d^2;   w <- w - rate*d / (sqrt(s) + epsilon)      (Duchi 2011; Dean 2012, section 4.1)
class Optimizer {
 public:
  Optimizer(const OptimizerSettings& settings, const Space& space, std::size_t n);
  // g holds a sum over samples; scale = 1/count makes it a mean. `used`: samples used by the run so far (for
  // the schedule).
  void step(Vec w, ConstVec g, double scale, std::int64_t used);
  Vec state() { return state_; }  // velocity or sum of squares; empty for sgd
  void reset();                   // state as at the start
  double rate(std::int64_t used) const { return settings_.learning_rate * settings_.schedule.at(used); }
  const OptimizerSettings& settings() const { return settings_; }

 private:
  OptimizerSettings settings_;
  Vector state_;
};

}  // namespace dsgd
