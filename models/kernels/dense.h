// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace dsgd {

// The three products of a dense layer in the layout of ChwnConv (chwn.h): x is {inputs, lanes}, y {units,
// lanes}, w and dw {units, inputs}. No operand is rearranged, and w is read from memory once.
struct DenseProducts {
  int inputs, units;
  int lanes;          // a multiple of 16
  bool relu = false;  // after y = w x + b

  bool faster() const;  // than oneDNN's matrix product, as measured with AVX-512 and AVX2
  void forward(const float* x, const float* w, const float* b, float* y) const;
  // rows: x as {lanes, inputs}. dy: gradient at the output before ReLU.
  void weights(const float* rows, const float* dy, float* dw, float* db) const;
  void data(const float* w, const float* dy, float* dx) const;
};

}  // namespace dsgd
