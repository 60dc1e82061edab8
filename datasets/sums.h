// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "dataset.h"

namespace dsgd {

// SHA-256 of the content of each file of a set, a line each, as `sha256sum` prints them of unpacked files:
// "SUM  NAME\n", in the table's order. Sums of large files are kept in the user's cache, by host, path, size
// and times of change. Throws std::runtime_error where a file cannot be read or its gzip data is damaged.
std::string dataset_sums(const DatasetEntry& entry, const std::filesystem::path& folder);

// What of it is part of a run's identity: the SHA-256 of those lines; nothing for the published content.
std::string content_id(const DatasetEntry& entry, const std::string& sums);

}  // namespace dsgd
