// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "dataset.h"

namespace dsgd {

// Sets the channels of both parts so that each channel of the training set has mean 0 and standard
// deviation 1. A constant channel is only shifted.
void normalise(Dataset& set);

// Random changes of training images, a function of seed, epoch and sample alone: they do not depend on the
// worker or the minibatch. crop_flip pads an image with crop_margin black pixels, cuts it back to its size at
// one of 9 x 9 positions, and mirrors it left to right with probability 1/2.
struct Augmentation {
  bool crop_flip = false;
  std::uint64_t seed = 1;
  std::int64_t epoch = 0;
};
constexpr int crop_margin = 4;
struct Crop {
  int down = 0, right = 0;  // position of the cut relative to the centre: -crop_margin to crop_margin
  bool flip = false;        // applied after the cut
};
Crop draw_crop(const Augmentation& how, std::uint32_t id);

// x[i] <- the pixels of sample ids[i], augmented by `how`, then scaled by `from.channels`; labels[i] <- its
// label. x: one row per id; both are in host memory. Allocates nothing.
void gather(const Samples& from, std::span<const std::uint32_t> ids, float* x, std::uint8_t* labels,
            const Augmentation& how = {});

}  // namespace dsgd
