// SPDX-License-Identifier: Apache-2.0
#include "results/statistics.h"

#include <cmath>
#include <limits>
#include <numeric>

namespace dsgd {

double mean(std::span<const double> x) { return std::accumulate(x.begin(), x.end(), 0.0) / double(x.size()); }

double interval(std::span<const double> x) {
  const auto n = double(x.size());
  if (x.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const double m = mean(x);
  double squares = 0;
  for (const double v : x) squares += (v - m) * (v - m);
  return t_quantile_975(int(x.size()) - 1) * std::sqrt(squares / (n - 1) / n);
}

double t_quantile_975(int df) {
  constexpr double table[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646,
                              2.3060,  2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
                              2.1314,  2.1199, 2.1098, 2.1009, 2.0930, 2.0860};
  if (df < 1) return std::numeric_limits<double>::quiet_NaN();
  if (df <= 20) return table[df - 1];
  // Expansion around the normal quantile (Abramowitz & Stegun 26.7.5): exact to four digits from here on.
  const double z = 1.959963985, z2 = z * z, v = df;
  return z * (1 + (z2 + 1) / (4 * v) + ((5 * z2 + 16) * z2 + 3) / (96 * v * v) +
              (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * v * v * v));
}

}  // namespace dsgd
