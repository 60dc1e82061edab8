// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace dsgd {

// Convolution with kernels of 3x3, stride 1 and padding 1, in the layout of ChwnConv (chwn.h), by minimal
// filtering (Winograd; Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks"): 36 products
// for each 4x4 outputs instead of 144. Images without padding, w and dw OIHW. Deterministic.
struct WinogradConv {
  int channels, height, width;
  int filters;
  int lanes;
  bool relu = false;  // after the convolution

  bool faster() const;          // than ChwnConv, all directions together; measured with AVX-512
  std::size_t scratch() const;  // floats that every verb wants to work in
  void forward(const float* x, const float* w, const float* b, float* y, float* scratch) const;  // b: or null
  // Gradients dw and db (or null) from dy, the gradient at the output before ReLU.
  void weights(const float* x, const float* dy, float* dw, float* db, float* scratch) const;
  void data(const float* w, const float* dy, float* dx, float* scratch) const;
};

}  // namespace dsgd
