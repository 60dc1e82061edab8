// SPDX-License-Identifier: Apache-2.0
#include "results/statistics.h"

#include <boost/math/distributions/students_t.hpp>
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
  if (df < 1) return std::numeric_limits<double>::quiet_NaN();
  return boost::math::quantile(boost::math::students_t(df), 0.975);
}

}  // namespace dsgd
