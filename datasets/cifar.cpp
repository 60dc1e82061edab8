// SPDX-License-Identifier: Apache-2.0
#include "cifar.h"

#include <fmt/format.h>

#include <cstdint>
#include <vector>

#include "content.h"

namespace dsgd {

Samples read_cifar10(std::span<const std::filesystem::path> batches) {
  Samples out{.shape = {3, 32, 32}, .classes = 10};
  std::vector<std::uint8_t> record(1 + out.shape.size());
  for (const auto& batch : batches) {  // plain ones: no more memory than needed
    std::error_code missing;
    const auto size = std::filesystem::file_size(batch, missing);
    if (!missing) out.pixels.reserve(out.pixels.capacity() + size);
  }
  for (const auto& batch : batches) {
    Content in(batch);
    for (std::size_t i = 0;; ++i) {
      const std::uint64_t at = in.position();
      const std::size_t got = in.read(record);
      if (got == 0 && i > 0) break;
      if (got < record.size())
        in.fail(at + got, fmt::format("record {} of {} bytes", i, record.size()), "the end of the file");
      if (record[0] >= out.classes)
        in.fail(at, fmt::format("a label from 0 to {}", out.classes - 1), fmt::to_string(record[0]));
      out.labels.push_back(record[0]);
      out.pixels.insert(out.pixels.end(), record.begin() + 1, record.end());
    }
  }
  out.count = out.labels.size();
  return out;
}

}  // namespace dsgd
