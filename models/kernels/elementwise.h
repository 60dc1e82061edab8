// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace dsgd {

// Operations of the device `cpu` between its layers, in the widest vectors that the processor has
// (chwn_vectors.h).

enum class Activation { relu, sigmoid, tanh };

// y <- a(y), n floats. y is 64-byte aligned and padded to whole cache lines; elements up to the next multiple
// of 16 change too. NaN propagates. Sigmoid and tanh have a relative error of at most 3e-7.
void activate(Activation a, float* y, std::size_t n);
// dy <- dy * a'(x), where y = a(x). Same conditions.
void differentiate(Activation a, const float* y, float* dy, std::size_t n);

// to (columns x rows) <- the transpose of from (rows x columns).
void transpose(const float* from, std::size_t rows, std::size_t columns, float* to);

}  // namespace dsgd
