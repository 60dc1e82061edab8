// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "dataset.h"

namespace dsgd {

// Sets the channels of both parts so that each channel of the training set has mean 0 and standard deviation
// 1. A channel that is constant is only shifted.
void normalise(Dataset& set);

// Random changes of training images. A function of seed, epoch and sample alone: the same whoever reads the
// sample, and beside whichever others. Crop and flip: the image in a frame of crop_margin black pixels is cut
// back to its size at one of 9 x 9 places, and mirrored left to right in half of all cases.
struct Augmentation {
  bool crop_flip = false;
  std::uint64_t seed = 1;
  std::int64_t epoch = 0;
};
constexpr int crop_margin = 4;
struct Crop {
  int down = 0, right = 0;  // where the cut is, from the middle: -crop_margin to crop_margin
  bool flip = false;        // after the cut
};
Crop draw_crop(const Augmentation& how, std::uint32_t id);

// One row a sample: x[i] <- pixels of sample ids[i], changed as `how` says, then scaled as `from.channels`
// says; labels[i] <- its label. Allocates nothing.
void gather(const Samples& from, std::span<const std::uint32_t> ids, float* x, std::uint8_t* labels,
            const Augmentation& how = {});

}  // namespace dsgd
