#include "strategies/strategy.h"

namespace dsgd {

extern const StrategyEntry sync_entry, averaging_entry, downpour_entry, staleness_aware_entry, bmuf_entry;

const std::vector<const StrategyEntry*>& all_strategies() {
  static const std::vector<const StrategyEntry*> table{&sync_entry, &averaging_entry, &downpour_entry,
                                                       &staleness_aware_entry, &bmuf_entry};
  return table;
}

const StrategyEntry* find_strategy(const std::string& name) {
  for (const StrategyEntry* entry : all_strategies())
    if (entry->name == name) return entry;
  return nullptr;
}

Cost all_reduce_cost(const Context& c) {
  if (c.workers == 1) return {};
  return {double(8 * c.parameters * (c.workers - 1) / c.workers), 1};
}
Cost pull_cost(const Context& c) { return {64.0 * c.servers, double(c.servers)}; }
Cost push_cost(const Context& c) {
  return {64.0 * c.servers + 4.0 * double(c.parameters), double(c.servers)};
}

}  // namespace dsgd
