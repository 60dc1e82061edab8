// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "vec.h"

// The operations of a Space on one element. Hosts and GPUs compile this same source with IEEE arithmetic that
// is not contracted, so they compute the same bits. GPUs flush subnormals; hosts do so in a run
// (flush_subnormals).
#ifdef __CUDACC__
#define DSGD_FORMULA __host__ __device__ __forceinline__
#else
#define DSGD_FORMULA inline __attribute__((always_inline))
#endif

namespace dsgd::formula {

DSGD_FORMULA float gradient(const Space::Update& u, float w, float g) { return u.scale * g + u.l2 * w; }

DSGD_FORMULA void sgd(const Space::Update& u, float& w, float g) { w -= u.rate * gradient(u, w, g); }

DSGD_FORMULA void momentum(const Space::Update& u, float& w, float g, float& v) {
  v = u.momentum * v + gradient(u, w, g);
  w -= u.rate * v;
}

DSGD_FORMULA void nesterov(const Space::Update& u, float& w, float g, float& v) {
  const float d = gradient(u, w, g);
  v = u.momentum * v + d;
  w -= u.rate * (d + u.momentum * v);
}

DSGD_FORMULA void adagrad(const Space::Update& u, float& w, float g, float& s) {
  const float d = gradient(u, w, g);
  s += d * d;
  w -= u.rate * d / (std::sqrt(s) + u.epsilon);
}

DSGD_FORMULA void adam(const Space::Adam& u, float& w, float g, float& m, float& v) {
  const float d = u.scale * g + u.l2 * w;
  m = u.beta1 * m + u.fresh1 * d;
  v = u.beta2 * v + u.fresh2 * (d * d);
  w -= u.shrink * w + u.rate * m / (u.root * std::sqrt(v) + u.epsilon);
}

DSGD_FORMULA float compensate(float lambda, float g, float w, float old) {
  return g + lambda * (g * g) * (w - old);
}
DSGD_FORMULA float compensate(const Space::Compensation& c, float g, float w, float old, float& s) {
  s = c.decay * s + (1 - c.decay) * (g * g);
  return g + c.lambda / std::sqrt(s + c.epsilon) * (g * g) * (w - old);
}

DSGD_FORMULA float divide_by_deviation(const Space::Deviation& u, float g, float& m, float& b, float& v) {
  m = u.gamma * m + (1 - u.gamma) * (g * g);
  b = u.gamma * b + (1 - u.gamma) * g;
  const float variance = m - b * b;  // rounding can make it negative
  const float s = std::sqrt((variance > 0 ? variance : 0) + u.epsilon);
  v = u.beta * v + (1 - u.beta) * (u.inverse ? 1 / s : s);
  return g / v;
}

DSGD_FORMULA float divide_by_magnitude(float gamma, float epsilon, float g, float& m) {
  m = gamma * m + (1 - gamma) * std::abs(g);
  return g / (m + epsilon);
}

}  // namespace dsgd::formula
