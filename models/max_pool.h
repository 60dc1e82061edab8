#pragma once

#include <cstddef>
#include <cstdint>

namespace dsgd {

// Max-pool with windows that do not overlap, optionally followed by ReLU, for images whose channels lie
// together. oneDNN's takes several times as long as the memory traffic for small windows; here channels run
// in vectors.
struct MaxPoolKernel {
  int images, channels, rows, columns;  // of the output, which is NHWC
  int size, stride;                     // size <= stride, size < 16
  bool relu;
  // The input: channels in blocks (all in one for NHWC, 16 in nChw16c), distances in elements.
  int block;
  std::ptrdiff_t image, next_block, row, column;

  // winners: for each output its place in the window, or none where ReLU cuts it off.
  void forward(const float* x, float* y, std::uint8_t* winners) const;
  // Writes what lies in a window; all else in dx must be zero already.
  void backward(const float* dy, const std::uint8_t* winners, float* dx) const;
};

}  // namespace dsgd
