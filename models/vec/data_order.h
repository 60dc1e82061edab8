// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace dsgd {

// Who reads which samples. Declared by the strategy.
enum class DataOrder {
  global,  // the minibatches of P workers are, side by side, that of one worker with P times the size
  shard,   // each worker has its own part of the set, cut once from the seed and reshuffled every epoch
  queue,   // one stream; whoever is idle takes the next portion (a parameter server hands out positions)
};

inline std::string to_string(DataOrder order) {
  return order == DataOrder::global ? "global" : order == DataOrder::shard ? "shard" : "queue";
}
inline std::optional<DataOrder> data_order(const std::string& name) {
  for (const auto order : {DataOrder::global, DataOrder::shard, DataOrder::queue})
    if (to_string(order) == name) return order;
  return std::nullopt;
}

}  // namespace dsgd
