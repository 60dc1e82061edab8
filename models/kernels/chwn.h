// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataset.h"

namespace dsgd {

// Kernels for images in CHWN layout: the minibatch is innermost, so the lanes of a vector are samples. No
// lane is wasted whatever the number of channels, and a convolution needs no rearranged copy of its input.
// Kernels work on vectors of 16 floats; `lanes`, the padded minibatch, is a multiple of 16. Pointers are
// 64-byte aligned. Callers own all memory.

// Convolution, then optionally ReLU, or max-pool with windows that do not overlap, or both (their order does
// not matter).
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
  std::size_t scratch() const;      // floats of scratch memory for weights()

  // to <- x in the middle of a padded input. The margin of `to` must be zero. Only needed if pad > 0.
  void padded(const float* x, float* to) const;
  // x: padded. w: OIHW. winners <- for each output, the position of its maximum in the window, or `none`
  // where ReLU is inactive; written only if there is a max-pool.
  void forward(const float* x, const float* w, const float* b, float* y, std::uint8_t* winners) const;
  static constexpr int none = 255;
  // dw (OIHW) and db from dy, the gradient at the output; before ReLU if there is no max-pool.
  void weights(const float* x, const float* dy, const std::uint8_t* winners, float* dw, float* db,
               float* scratch) const;
  // d <- the gradient before the max-pool. Pixels that lie in no window are not written.
  void spread(const float* dy, const std::uint8_t* winners, float* d) const;
  // w: {kernel row, kernel column, filter, channel}. d: from spread(). dx: without padding.
  void data(const float* w, const float* d, float* dx) const;
};

// Max- or average-pool over any windows. Windows that stick out at the far edges are cut off there.
struct ChwnPool {
  int channels, height, width;
  int size, stride, rows, columns;  // size and stride of the windows; rows and columns of the output
  int lanes;
  using Place = std::uint16_t;         // position in a window, row by row
  static constexpr int largest = 255;  // window of a max-pool
  // winners <- for each output, the position of its maximum in the window.
  void max_forward(const float* x, float* y, Place* winners) const;
  void max_backward(const float* dy, const Place* winners, float* dx) const;
  void mean_forward(const float* x, float* y) const;
  void mean_backward(const float* dy, float* dx) const;
};

// Batch norm over the first n samples, then optionally the addition of another image, then optionally ReLU.
struct ChwnNorm {
  int channels, pixels;
  int lanes;
  double epsilon;
  bool relu = false;
  // Mean, variance and parameters, one element per channel.
  struct Channels {
    double *mean, *variance;
    const float *scale, *shift;
  };
  // Computes mean and variance unless they are `given`. Lanes from n on get finite numbers. added: null for
  // none.
  void forward(const float* x, int n, bool given, const Channels& c, const float* added, float* y) const;
  // The gradient of batch norm and ReLU, without `added`. dy: at the output after ReLU; its lanes from n on
  // are ignored, and those of dx become zero. dx may be dy.
  void backward(const float* x, const float* dy, int n, const Channels& c, float* dx, float* dscale,
                float* dshift) const;
};

// Adds every stride-th pixel of an earlier image to the first channels of another one, then optionally ReLU.
struct ChwnShortcut {
  Shape from, to;
  int stride;
  int lanes;
  bool relu = false;
  void forward(const float* x, const float* earlier, float* y) const;
  // dearlier <- dearlier + its part of dy, the gradient at the output before ReLU.
  void backward(const float* dy, float* dearlier) const;
};

const char* chwn_instructions();  // instruction set of the kernels: avx512, avx2 or generic

}  // namespace dsgd
