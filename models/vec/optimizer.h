// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vec.h"

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
  enum class Rule { sgd, momentum, nesterov, adagrad, adam, adamw, lars } rule = Rule::sgd;
  double learning_rate = 0.1;
  double momentum = 0.9;             // momentum, nesterov, lars; beta1 of adam and adamw
  double l2 = 0;                     // coefficient of w in the gradient; adamw: of w beside it
  double initial_accumulator = 0.1;  // adagrad: first value of the sum of squares (not given by the papers)
  double epsilon = 1e-8;             // adagrad, adam, adamw: added to the square root
  double beta2 = 0.999;              // adam, adamw: share of the old mean square kept
  double trust = 0.001;              // lars: eta
  double clip = 0;                   // largest norm of scale*g; 0: any
  Schedule schedule;
  std::vector<Extent> layers;  // lars: of the vector; none: it is one layer
};

const std::vector<std::string>& optimizer_rules();                // names, in the order of the enumeration
OptimizerSettings::Rule optimizer_rule(const std::string& name);  // throws std::invalid_argument
int state_vectors(OptimizerSettings::Rule rule);                  // of the size of w, that the rule keeps

// One step of a rule that changes every element by itself, as data: for who makes it together with the
// gradient.
struct Descent {
  OptimizerSettings::Rule rule;  // not lars
  Vec w;
  float* state = nullptr;  // as many elements as w; of adam and adamw twice as many
  Space::Update update{};  // of all other rules
  Space::Adam adam{};      // of adam and adamw
  void make(ConstVec g) const;
};

double clipped(double clip, double scale,
               ConstVec g);  // scale, or clip/|g| where that is less; clip = 0: any

// Turns a gradient into an update of w; used by workers and by server rules alike. With d = scale*g + l2*w:
//   sgd       w <- w - rate*d
//   momentum  v <- mu*v + d;  w <- w - rate*v
//   nesterov  v <- mu*v + d;  w <- w - rate*(d + mu*v)
//   adagrad   s <- s + d^2;   w <- w - rate*d / (sqrt(s) + epsilon)      (Duchi 2011; Dean 2012, section 4.1)
//   adam      m <- mu*m + (1 - mu)*d;  v <- beta2*v + (1 - beta2)*d^2                     (Kingma & Ba 2015)
//             w <- w - rate * m/(1 - mu^t) / (sqrt(v/(1 - beta2^t)) + epsilon)        t: updates, with this
//   adamw     adam with d = scale*g, and w <- w - rate*l2*w                   (Loshchilov & Hutter 2019)
//   lars      v <- mu*v + rate*lambda*d;  w <- w - v                                       (You et al. 2017)
//             lambda = trust*|w| / (|scale*g| + l2*|w|) for the weights of each layer,
//             1 for its biases and where a norm is 0
// Where |scale*g| > clip, scale becomes clip/|g|.
class Optimizer {
 public:
  Optimizer(const OptimizerSettings& settings, const Space& space, std::size_t n);
  // g holds a sum over samples; scale = 1/count makes it a mean. `used`: samples used by the run so far (for
  // the schedule). terms: g is the sum of so many gradients, each with a decay l2*w (of adamw: one with all).
  void step(Vec w, ConstVec g, double scale, std::int64_t used, double terms = 1);
  // The same step before there is a g, counted as made: who asks makes it. None, and nothing counted, where
  // it depends on norms (lars, clip).
  std::optional<Descent> next(Vec w, double scale, std::int64_t used);
  Vec state() { return state_; }                // velocity or sum of squares; adam: m, then v; empty for sgd
  std::int64_t& updates() { return updates_; }  // since the start or the last reset
  void reset();                                 // state as at the start
  double rate(std::int64_t used) const { return settings_.learning_rate * settings_.schedule.at(used); }
  const OptimizerSettings& settings() const { return settings_; }

 private:
  Descent descent(Vec w, double scale, std::int64_t used, double terms);
  void lars(const Space::Update& u, Vec w, ConstVec g);

  OptimizerSettings settings_;
  Vector state_;
  std::int64_t updates_ = 0;
};

}  // namespace dsgd
