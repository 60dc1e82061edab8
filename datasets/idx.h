// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "dataset.h"

namespace dsgd {

// Reads labelled images from a pair of IDX files, plain or gzip, and checks them against shape and classes.
// Throws std::runtime_error that names file, byte and expectation.
Samples read_idx(const std::filesystem::path& images, const std::filesystem::path& labels, const Shape& shape,
                 int classes);

}  // namespace dsgd
