// SPDX-License-Identifier: Apache-2.0
#include "optimizer.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace dsgd {

using Rule = OptimizerSettings::Rule;

double Schedule::at(std::int64_t used) const {
  if (kind == Kind::constant || samples <= 0) return 1;
  if (kind == Kind::step) return std::pow(factor, double(used / samples));
  return factor + (1 - factor) * std::min(1.0, double(used) / double(samples));
}

const std::vector<std::string>& optimizer_rules() {
  static const std::vector<std::string> names{"sgd",  "momentum", "nesterov", "adagrad",
                                              "adam", "adamw",    "lars"};
  return names;
}

OptimizerSettings::Rule optimizer_rule(const std::string& name) {
  const auto& names = optimizer_rules();
  const auto at = std::find(names.begin(), names.end(), name);
  if (at != names.end()) return OptimizerSettings::Rule(at - names.begin());
  std::string allowed;
  for (const std::string& one : names) allowed += (allowed.empty() ? "" : ", ") + one;
  throw std::invalid_argument("unknown optimizer " + name + " (allowed: " + allowed + ")");
}

int state_vectors(Rule rule) {
  if (rule == Rule::sgd) return 0;
  return rule == Rule::adam || rule == Rule::adamw ? 2 : 1;
}

Optimizer::Optimizer(const OptimizerSettings& settings, const Space& space, std::size_t n)
    : settings_(settings), state_(space, n * std::size_t(state_vectors(settings.rule))) {
  if (settings_.layers.empty())
    settings_.layers.push_back({.name = "weights", .shape = {1, int(n)}, .first = 0, .count = n});
  reset();
}

void Optimizer::reset() {
  fill(settings_.rule == Rule::adagrad ? float(settings_.initial_accumulator) : 0.0f, state_);
  updates_ = 0;
}

void Descent::make(ConstVec g) const {
  const Space& space = *w.space;
  switch (rule) {
    case Rule::sgd:
      return space.sgd(update, w.data, g.data, w.size);
    case Rule::momentum:
      return space.momentum(update, w.data, g.data, state, w.size);
    case Rule::nesterov:
      return space.nesterov(update, w.data, g.data, state, w.size);
    case Rule::adagrad:
      return space.adagrad(update, w.data, g.data, state, w.size);
    case Rule::adam:
    case Rule::adamw:
      return space.adam(adam, w.data, g.data, state, state + w.size, w.size);
    case Rule::lars:
      throw std::logic_error("a step of lars takes the norms of its layers");
  }
}

// Counts it as made.
Descent Optimizer::descent(Vec w, double scale, std::int64_t used, double terms) {
  ++updates_;
  const Space::Update u{float(scale), float(settings_.l2 * terms), float(rate(used)),
                        float(settings_.momentum), float(settings_.epsilon)};
  const bool apart = settings_.rule == Rule::adamw;
  const double first = 1 - std::pow(settings_.momentum, double(updates_)),
               second = 1 - std::pow(settings_.beta2, double(updates_));
  return {.rule = settings_.rule,
          .w = w,
          .state = state_.data(),
          .update = u,
          .adam = {.scale = u.scale,
                   .l2 = apart ? 0 : u.l2,
                   .shrink = apart ? float(rate(used) * settings_.l2) : 0,
                   .beta1 = u.momentum,
                   .fresh1 = float(1 - settings_.momentum),
                   .beta2 = float(settings_.beta2),
                   .fresh2 = float(1 - settings_.beta2),
                   .rate = float(rate(used) / first),
                   .root = float(1 / std::sqrt(second)),
                   .epsilon = u.epsilon}};
}

std::optional<Descent> Optimizer::next(Vec w, double scale, std::int64_t used) {
  if (settings_.clip > 0 || settings_.rule == Rule::lars) return std::nullopt;
  return descent(w, scale, used, 1);
}

double clipped(double clip, double scale, ConstVec g) {
  if (clip > 0)
    if (const double norm = scale * std::sqrt(dot(g, g)); norm > clip) scale *= clip / norm;
  return scale;
}

void Optimizer::step(Vec w, ConstVec g, double scale, std::int64_t used, double terms) {
  const Descent d = descent(w, clipped(settings_.clip, scale, g), used, terms);
  settings_.rule == Rule::lars ? lars(d.update, w, g) : d.make(g);
}

void Optimizer::lars(const Space::Update& u, Vec w, ConstVec g) {
  for (const Extent& layer : settings_.layers) {
    const Vec wl = w.part(layer.first, layer.count);
    const ConstVec gl = g.part(layer.first, layer.count);
    double rate = u.rate;
    if (layer.shape.size() > 1) {
      const double w_norm = std::sqrt(dot(wl, wl)), g_norm = u.scale * std::sqrt(dot(gl, gl));
      if (w_norm > 0 && g_norm > 0) rate *= settings_.trust * w_norm / (g_norm + u.l2 * w_norm);
    }
    const Space::Update scaled{float(rate * u.scale), float(rate * u.l2), 1, u.momentum, u.epsilon};
    wl.space->momentum(scaled, wl.data, gl.data, state_.data() + layer.first, wl.size);
  }
}

}  // namespace dsgd
