// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vec.h"

namespace dsgd {

// A factor on the base learning rate, as a function of the samples that the whole run has used.
struct Schedule {
  enum class Kind { constant, step, warmup } kind = Kind::constant;
  // step: the factor is multiplied by `factor` after every `samples` samples. warmup: it grows linearly
  // from `factor` to 1 over the first `samples`.
  std::int64_t samples = 0;
  double factor = 0.1;
  double at(std::int64_t used) const;  // 1 if constant, or if samples <= 0
};

struct OptimizerSettings {
  enum class Rule { sgd, momentum, nesterov, adagrad, adam, adamw, lars } rule = Rule::sgd;
  double learning_rate = 0.1;
  double momentum = 0.9;  // momentum, nesterov, lars; beta1 of adam and adamw
  double l2 = 0;  // weight decay: coefficient of w in the gradient; adamw: decoupled from the gradient
  double initial_accumulator = 0.1;  // adagrad: initial sum of squares (the papers give none)
  double epsilon = 1e-8;             // adagrad, adam, adamw: added to the square root
  double beta2 = 0.999;              // adam, adamw: decay rate of the mean square
  double trust = 0.001;              // lars: eta
  double clip = 0;                   // largest norm of scale*g; 0: no clipping
  Schedule schedule;
  // lars: the layers of the vector; empty: it is one layer.
  std::vector<Extent> layers;
};

const std::vector<std::string>& optimizer_rules();                // names, in the order of the enumeration
OptimizerSettings::Rule optimizer_rule(const std::string& name);  // throws std::invalid_argument
int state_vectors(OptimizerSettings::Rule rule);                  // of the size of w

// One step of an element-wise rule, as data. A GPU can thus make it in the same graph as the gradient.
struct Descent {
  OptimizerSettings::Rule rule;  // not lars
  // w and state belong to the model and its Optimizer, which must outlive the step.
  Vec w;
  float* state = nullptr;       // w.size elements; adam and adamw: 2*w.size (m, then v)
  Space::Update update{};       // other rules
  Space::Adam adam{};           // adam and adamw
  void make(ConstVec g) const;  // throws std::logic_error for lars
};

// Gradient clipping: returns scale, or clip/|g| if scale*|g| > clip. clip = 0: no clipping.
double clipped(double clip, double scale, ConstVec g);

// Turns a gradient into an update of w; used by workers and by server rules. With d = scale*g + l2*w:
//   sgd       w <- w - rate*d
//   momentum  v <- mu*v + d;  w <- w - rate*v
//   nesterov  v <- mu*v + d;  w <- w - rate*(d + mu*v)
//   adagrad   s <- s + d^2;   w <- w - rate*d / (sqrt(s) + epsilon)      (Duchi 2011; Dean 2012, section 4.1)
//   adam      m <- mu*m + (1 - mu)*d;  v <- beta2*v + (1 - beta2)*d^2                     (Kingma & Ba 2015)
//             w <- w - rate * m/(1 - mu^t) / (sqrt(v/(1 - beta2^t)) + epsilon), for update t = 1, 2, ...
//   adamw     adam with d = scale*g, and w <- w - rate*l2*w                   (Loshchilov & Hutter 2019)
//   lars      v <- mu*v + rate*lambda*d;  w <- w - v                                       (You et al. 2017)
//             lambda = trust*|w| / (|scale*g| + l2*|w|) for the weights of each layer,
//             1 for its biases and where a norm is 0
// If |scale*g| > clip, scale becomes clip/|g|.
class Optimizer {
 public:
  Optimizer(const OptimizerSettings& settings, const Space& space, std::size_t n);
  // w <- one update. g: a sum over samples; scale = 1/count makes it a mean. used: samples that the run has
  // used, for the schedule. terms: number of gradients in the sum g, each of which brings a decay l2*w
  // (adamw: one for all).
  void step(Vec w, ConstVec g, double scale, std::int64_t used, double terms = 1);
  // The same update as data, before g exists. It counts as made, so the caller must make it. Returns nothing,
  // and counts nothing, if the update depends on norms (lars, clip).
  std::optional<Descent> next(Vec w, double scale, std::int64_t used);
  Vec state() { return state_; }  // velocity or sum of squares; adam, adamw: m, then v; empty for sgd
  std::int64_t& updates() { return updates_; }  // since construction or reset()
  void reset();                                 // state and updates as after construction
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
