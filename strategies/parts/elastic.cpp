// SPDX-License-Identifier: Apache-2.0
#include "parts/elastic.h"

#include <stdexcept>

namespace dsgd {

Facts Elastic::effective(const Settings& s, const Context& c) {
  if (has_momentum(s) && c.optimizer.rule != OptimizerSettings::Rule::sgd)
    throw std::invalid_argument(
        "delta is the momentum of its local steps (allowed: optimizer.rule = \"sgd\")");
  return {{"global_minibatch", double(c.workers * c.minibatch)},
          {"period", double(s.integer("tau"))},
          {"alpha", alpha(s, c)}};
}

StrategyEntry Elastic::entry(std::string name, std::string summary, bool momentum) {
  StrategyEntry e{
      .name = std::move(name),
      .summary = std::move(summary),
      .paper = "Zhang, Choromanska, LeCun 2015",
      .data_order = DataOrder::shard,
      .parameters = {Parameter::integer("tau", 10, "local steps between two exchanges", 1, 1e9),
                     Parameter::number("beta", 0.9, "share of the way to the workers' mean; alpha = beta / p",
                                       0, 1)},
      .effective = effective,
      .own_models = true,
      .tests = {.conformance = {{"tau", std::int64_t(3)}, {"beta", 0.5}},
                .identities = {{.of = Identity::one_worker,
                                .settings = {{"tau", std::int64_t(1000)}, {"beta", 1.0}},
                                .rounding = 1}}}};
  if (momentum) {
    e.parameters.push_back(Parameter::number("delta", 0.99, "momentum of the local steps", 0, 0.999999));
    e.tests.conformance["delta"] = 0.5;
    e.tests.identities[0].settings["delta"] = 0.0;
  }
  return e;
}

}  // namespace dsgd
