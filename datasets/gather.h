#pragma once

#include <cstdint>
#include <span>

#include "datasets/dataset.h"

namespace dsgd {

// Sets the channels of both parts so that each channel of the training set has mean 0 and standard deviation
// 1. A channel that is constant is only shifted.
void normalise(Dataset& set);

// One row a sample: x[i] <- pixels of sample ids[i], scaled as `from.channels` says; labels[i] <- its label.
// Allocates nothing.
void gather(const Samples& from, std::span<const std::uint32_t> ids, float* x, std::uint8_t* labels);

}  // namespace dsgd
