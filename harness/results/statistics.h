// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

namespace dsgd {

double mean(std::span<const double> x);
// Half the width of the 95 % confidence interval of the mean, t(0.975, n-1) * s / sqrt(n); NaN for n < 2.
double interval(std::span<const double> x);
double t_quantile_975(int degrees_of_freedom);  // of Student's t distribution

}  // namespace dsgd
