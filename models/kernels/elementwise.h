// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace dsgd {

// What the processor's device does between its layers, in the widest vectors that the processor has
// (chwn_vectors.h).

enum class Activation { relu, sigmoid, tanh };

// y <- a(y), n floats. y is 64-byte aligned and whole cache lines long: numbers up to the next multiple of 16
// change as well. NaN propagates. Sigmoid and tanh are within 3e-7 of the true value, relative to it.
void activate(Activation a, float* y, std::size_t n);
// dy <- dy * a'(x), where y = a(x). As above.
void differentiate(Activation a, const float* y, float* dy, std::size_t n);

// to (columns x rows) <- from (rows x columns), transposed.
void transpose(const float* from, std::size_t rows, std::size_t columns, float* to);

}  // namespace dsgd
