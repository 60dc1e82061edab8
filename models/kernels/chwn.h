// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataset.h"

namespace dsgd {

// Kernels for images whose minibatch lies innermost, CHWN: a vector's lanes are samples, so that no lane is
// wasted whatever the number of channels, and a convolution needs no rearranged copy of its input. Written
// for vectors of 16 floats; `lanes`, the padded minibatch, is a multiple of 16. Pointers are 64-byte aligned.

// Convolution, then optionally ReLU or max-pool with windows that do not overlap, or both (which commute).
struct ChwnConv {
  int channels, height, width;  // of the input, without padding
  int filters, kernel, stride, pad;
  int lanes;
  int pool = 1;  // size and stride of the max-pool; 1: none
  bool relu = false;

  int rows() const { return (height + 2 * pad - kernel) / stride + 1; }  // before the max-pool
  int columns() const { return (width + 2 * pad - kernel) / stride + 1; }
  std::ptrdiff_t taps() const { return std::ptrdiff_t(channels) * kernel * kernel; }
  std::size_t padded_size() const;  // floats of a padded input
  std::size_t scratch() const;      // floats that `weights` wants to work in

  // x -> its place in the middle of a padded input that is zero elsewhere. Only needed when pad > 0.
  void padded(const float* x, float* to) const;
  // x: padded. w: OIHW. winners: place in its window of each output, or `none` where ReLU cuts it off;
  // written when there is a max-pool.
  void forward(const float* x, const float* w, const float* b, float* y, std::uint8_t* winners) const;
  static constexpr int none = 255;
  // Gradients dw (OIHW) and db from dy, the gradient at the output before ReLU where there is no max-pool.
  void weights(const float* x, const float* dy, const std::uint8_t* winners, float* dw, float* db,
               float* scratch) const;
  // dy before the max-pool; pixels that lie in no window are left as they are.
  void spread(const float* dy, const std::uint8_t* winners, float* d) const;
  // w: {kernel row, kernel column, filter, channel}; d: as `spread` writes it; dx: without padding.
  void data(const float* w, const float* d, float* dx) const;
};

// Max- or average-pool over any windows; those at the far edges may stick out and are cut off there.
struct ChwnPool {
  int channels, height, width;
  int size, stride, rows, columns;  // of the windows, of the output
  int lanes;
  using Place = std::uint16_t;         // in its window, row by row
  static constexpr int largest = 255;  // window of a max-pool
  // winners: place of each output
  void max_forward(const float* x, float* y, Place* winners) const;
  void max_backward(const float* dy, const Place* winners, float* dx) const;
  void mean_forward(const float* x, float* y) const;
  void mean_backward(const float* dy, float* dx) const;
};

// Batch norm over the first n samples, then optionally another image added, then optionally ReLU.
struct ChwnNorm {
  int channels, pixels;
  int lanes;
  double epsilon;
  bool relu = false;
  // What it normalises with, and its parameters: an element a channel.
  struct Channels {
    double *mean, *variance;
    const float *scale, *shift;
  };
  // Finds mean and variance unless they are given. Lanes from n on get finite numbers. added: null for none.
  void forward(const float* x, int n, bool given, const Channels& c, const float* added, float* y) const;
  // Of batch norm and ReLU, with nothing added. dy at the output after ReLU; its lanes from n on do not
  // matter, those of dx are zero. dx may be dy.
  void backward(const float* x, const float* dy, int n, const Channels& c, float* dx, float* dscale,
                float* dshift) const;
};

// Adds every stride-th pixel of an earlier image to some of the channels of another, then optionally ReLU.
struct ChwnShortcut {
  Shape from, to;
  int stride;
  int lanes;
  bool relu = false;
  void forward(const float* x, const float* earlier, float* y) const;
  // dy: at the output before ReLU. Adds to the earlier image's gradient.
  void backward(const float* dy, float* dearlier) const;
};

const char* chwn_instructions();  // what the kernels use: avx512, avx2 or generic

}  // namespace dsgd
