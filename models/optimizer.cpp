#include "models/optimizer.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace dsgd {

double Schedule::at(std::int64_t used) const {
  if (kind == Kind::constant || samples <= 0) return 1;
  if (kind == Kind::step) return std::pow(factor, double(used / samples));
  return factor + (1 - factor) * std::min(1.0, double(used) / double(samples));
}

OptimizerSettings::Rule optimizer_rule(const std::string& name) {
  using Rule = OptimizerSettings::Rule;
  if (name == "sgd") return Rule::sgd;
  if (name == "momentum") return Rule::momentum;
  if (name == "nesterov") return Rule::nesterov;
  if (name == "adagrad") return Rule::adagrad;
  throw std::invalid_argument("unknown optimizer " + name + " (allowed: sgd, momentum, nesterov, adagrad)");
}

Optimizer::Optimizer(const OptimizerSettings& settings, const Space& space, std::size_t n)
    : settings_(settings), state_(space, settings.rule == OptimizerSettings::Rule::sgd ? 0 : n) {
  reset();
}

void Optimizer::reset() {
  const bool adagrad = settings_.rule == OptimizerSettings::Rule::adagrad;
  fill(adagrad ? float(settings_.initial_accumulator) : 0.0f, state_);
}

void Optimizer::step(Vec w, ConstVec g, double scale, std::int64_t used) {
  const Space::Update u{float(scale), float(settings_.l2), float(rate(used)), float(settings_.momentum),
                        float(settings_.epsilon)};
  switch (settings_.rule) {
    case OptimizerSettings::Rule::sgd:
      return w.space->sgd(u, w.data, g.data, w.size);
    case OptimizerSettings::Rule::momentum:
      return w.space->momentum(u, w.data, g.data, state_.data(), w.size);
    case OptimizerSettings::Rule::nesterov:
      return w.space->nesterov(u, w.data, g.data, state_.data(), w.size);
    case OptimizerSettings::Rule::adagrad:
      return w.space->adagrad(u, w.data, g.data, state_.data(), w.size);
  }
}

}  // namespace dsgd
