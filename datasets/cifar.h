// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>

#include "dataset.h"

namespace dsgd {

// Reads labelled images from CIFAR-10's binary batches, plain or gzip, one after the other. Each record is a
// label byte (0 to 9) and 3 x 32 x 32 pixels. Throws std::runtime_error that names file, byte and
// expectation.
Samples read_cifar10(std::span<const std::filesystem::path> batches);

}  // namespace dsgd
