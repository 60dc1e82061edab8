// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "dataset.h"

namespace dsgd {

// SHA-256 of the decompressed content of each file of a set, as `sha256sum` prints them: lines "SUM  NAME\n"
// in the table's order. Sums of large files are cached for the user, by host, path, size and times of change.
// Throws std::runtime_error if a file cannot be read or its gzip data is damaged.
std::string dataset_sums(const DatasetEntry& entry, const std::filesystem::path& folder);

// The part of a run's id that stands for the data: the SHA-256 of those lines; empty for the published
// content.
std::string content_id(const DatasetEntry& entry, const std::string& sums);

}  // namespace dsgd
