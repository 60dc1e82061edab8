// SPDX-License-Identifier: Apache-2.0
#include "strategy.h"

namespace dsgd {

// The table: one line a strategy.
// clang-format off
#define DSGD_STRATEGIES(entry) \
  entry(sync) \
  entry(averaging) \
  entry(downpour) \
  entry(staleness_aware) \
  entry(bmuf) \
  entry(ssp) \
  entry(dc_asgd) \
  entry(fasgd) \
  entry(easgd) \
  entry(eamsgd) \
  entry(easgd_sync) \
  entry(eamsgd_sync) \
  entry(slowmo) \
  entry(diloco) \
  entry(threshold) \
  entry(topk) \
  entry(qsgd) \
  entry(signsgd) \
  entry(ef_signsgd) \
  entry(onebit) \
  entry(powersgd) \
  entry(dpsgd) \
  entry(adpsgd) \
  entry(sandblaster)
// clang-format on

#define DSGD_DECLARE(name) extern const StrategyEntry name##_entry;
#define DSGD_LIST(name) &name##_entry,
DSGD_STRATEGIES(DSGD_DECLARE)

const std::vector<const StrategyEntry*>& all_strategies() {
  static const std::vector<const StrategyEntry*> table{DSGD_STRATEGIES(DSGD_LIST)};
  return table;
}

const StrategyEntry* find_strategy(const std::string& name) {
  for (const StrategyEntry* entry : all_strategies())
    if (entry->name == name) return entry;
  return nullptr;
}

std::string needs_whole_vector(const StrategyEntry& entry, const OptimizerSettings& optimizer) {
  if (!entry.served() || entry.own_models) return "";
  if (optimizer.rule == OptimizerSettings::Rule::lars) return "optimizer.rule";
  return optimizer.clip > 0 && !entry.clips_on_workers ? "optimizer.clip" : "";
}

Least least_for_all(const Context& c, std::int64_t minibatches, const std::string& key) {
  const std::int64_t each = minibatches * c.minibatch;
  return {
      (c.workers - 1) * each + 1,
      "workers take " +
          (key.empty() ? "a minibatch of " : key + " = " + std::to_string(minibatches) + " minibatches of ") +
          std::to_string(c.minibatch) + " at a time, and not all of " + std::to_string(c.workers) +
          " would get some"};
}

Cost all_reduce_cost(const Context& c, int vectors) {
  if (c.workers == 1) return {};
  return {double(8 * c.parameters * std::size_t(vectors) * (c.workers - 1) / c.workers), 1};
}
Cost pull_cost(const Context& c) { return {64.0 * c.servers, double(c.servers)}; }
Cost push_cost(const Context& c) {
  return {64.0 * c.servers + 4.0 * double(c.parameters), double(c.servers)};
}

}  // namespace dsgd
