// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace dsgd {

// 3x3 convolution with stride 1 and padding 1, in the layout of ChwnConv (chwn.h), by Winograd's minimal
// filtering (Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks"): 36 multiplications per
// 4x4 outputs instead of 144. Images are without padding; w and dw are OIHW. Deterministic.
struct WinogradConv {
  int channels, height, width;
  int filters;
  int lanes;
  bool relu = false;  // after the convolution

  bool faster() const;          // than ChwnConv, all directions together, as measured with AVX-512
  std::size_t scratch() const;  // floats of scratch memory for each function
  // b may be null.
  void forward(const float* x, const float* w, const float* b, float* y, float* scratch) const;
  // dw and db (unless null) from dy, the gradient at the output before ReLU.
  void weights(const float* x, const float* dy, float* dw, float* db, float* scratch) const;
  void data(const float* w, const float* dy, float* dx, float* scratch) const;
};

}  // namespace dsgd
