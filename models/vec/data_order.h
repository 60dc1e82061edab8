// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace dsgd {

// Which worker reads which samples. Each strategy declares it.
enum class DataOrder {
  global,  // the minibatches of P workers, side by side, are one worker's minibatch of P times the size
  shard,   // each worker has a part of the set of its own, cut once by the seed and reshuffled every epoch
  queue,   // one stream; each idle worker takes the next portion (parameter servers hand out positions)
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
