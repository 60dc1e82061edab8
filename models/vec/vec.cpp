// SPDX-License-Identifier: Apache-2.0
#include "vec.h"

#include <sys/mman.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "vec_formulas.h"

namespace dsgd {
namespace {

DSGD_CLONES void fill_loop(float a, float* __restrict y, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] = a;
}
DSGD_CLONES void scale_loop(float a, float* __restrict y, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] *= a;
}
DSGD_CLONES void axpy_loop(float a, const float* __restrict x, float* __restrict y, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] += a * x[i];
}
DSGD_CLONES void copy_scaled_loop(float a, const float* __restrict x, float* __restrict y, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] = a * x[i];
}
DSGD_CLONES void copy_sum_loop(const float* __restrict x, float a, const float* __restrict g,
                               float* __restrict y, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] = x[i] + a * g[i];
}
DSGD_CLONES void sgd_loop(Space::Update u, float* __restrict w, const float* __restrict g, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) formula::sgd(u, w[i], g[i]);
}
DSGD_CLONES void momentum_loop(Space::Update u, float* __restrict w, const float* __restrict g,
                               float* __restrict v, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) formula::momentum(u, w[i], g[i], v[i]);
}
DSGD_CLONES void nesterov_loop(Space::Update u, float* __restrict w, const float* __restrict g,
                               float* __restrict v, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) formula::nesterov(u, w[i], g[i], v[i]);
}
DSGD_CLONES void adagrad_loop(Space::Update u, float* __restrict w, const float* __restrict g,
                              float* __restrict s, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) formula::adagrad(u, w[i], g[i], s[i]);
}
DSGD_CLONES void adam_loop(Space::Adam u, float* __restrict w, const float* __restrict g, float* __restrict m,
                           float* __restrict v, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) formula::adam(u, w[i], g[i], m[i], v[i]);
}
// Sums side by side, in an order that no width of vectors changes.
DSGD_CLONES double dot_loop(const float* __restrict x, const float* __restrict y, std::size_t n) {
  constexpr std::size_t lanes = 32;
  double sums[lanes] = {}, sum = 0;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t k = 0; k < lanes; ++k) sums[k] += double(x[i + k]) * double(y[i + k]);
  for (; i < n; ++i) sum += double(x[i]) * double(y[i]);
  for (const double one : sums) sum += one;
  return sum;
}
DSGD_CLONES void compensate_loop(float lambda, const float* __restrict g, const float* __restrict w,
                                 const float* __restrict old, float* __restrict d, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) d[i] = formula::compensate(lambda, g[i], w[i], old[i]);
}
DSGD_CLONES void compensate_loop(Space::Compensation c, const float* __restrict g, const float* __restrict w,
                                 const float* __restrict old, float* __restrict s, float* __restrict d,
                                 std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) d[i] = formula::compensate(c, g[i], w[i], old[i], s[i]);
}
DSGD_CLONES void deviation_loop(Space::Deviation u, const float* __restrict g, float* __restrict m,
                                float* __restrict b, float* __restrict v, float* __restrict d,
                                std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) d[i] = formula::divide_by_deviation(u, g[i], m[i], b[i], v[i]);
}
DSGD_CLONES void magnitude_loop(float gamma, float epsilon, const float* __restrict g, float* __restrict m,
                                float* __restrict d, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) d[i] = formula::divide_by_magnitude(gamma, epsilon, g[i], m[i]);
}

// Every step walks through all vectors: in huge pages it looks up a few addresses instead of thousands.
constexpr std::size_t line = 64, huge_page = 2 << 20;  // bytes

class HostSpace final : public Space {
 public:
  float* allocate(std::size_t n) const override {
    const std::size_t bytes = std::max<std::size_t>(n * sizeof(float), 1);
    const std::size_t unit = bytes < huge_page ? line : huge_page, rounded = (bytes + unit - 1) / unit * unit;
    void* data = std::aligned_alloc(unit, rounded);
    if (!data) throw std::bad_alloc();
    if (unit == huge_page) madvise(data, rounded, MADV_HUGEPAGE);  // a wish
    std::memset(data, 0, rounded);
    return static_cast<float*>(data);
  }
  void release(float* data) const override { std::free(data); }
  bool host() const override { return true; }
  void through_host(float* x, std::size_t n, Way, const Portion& f) const override {
    if (n) f(0, x, n);
  }
  void fill(float a, float* y, std::size_t n) const override { fill_loop(a, y, n); }
  void copy(const float* x, float* y, std::size_t n) const override {
    if (n) std::memcpy(y, x, n * sizeof(float));
  }
  void scale(float a, float* y, std::size_t n) const override { scale_loop(a, y, n); }
  void axpy(float a, const float* x, float* y, std::size_t n) const override { axpy_loop(a, x, y, n); }
  double dot(const float* x, const float* y, std::size_t n) const override { return dot_loop(x, y, n); }
  void sgd(const Update& u, float* w, const float* g, std::size_t n) const override { sgd_loop(u, w, g, n); }
  void momentum(const Update& u, float* w, const float* g, float* v, std::size_t n) const override {
    momentum_loop(u, w, g, v, n);
  }
  void nesterov(const Update& u, float* w, const float* g, float* v, std::size_t n) const override {
    nesterov_loop(u, w, g, v, n);
  }
  void adagrad(const Update& u, float* w, const float* g, float* s, std::size_t n) const override {
    adagrad_loop(u, w, g, s, n);
  }
  void adam(const Adam& u, float* w, const float* g, float* m, float* v, std::size_t n) const override {
    adam_loop(u, w, g, m, v, n);
  }
  void compensate(const Compensation& c, const float* g, const float* w, const float* old, float* s, float* d,
                  std::size_t n) const override {
    if (s)
      compensate_loop(c, g, w, old, s, d, n);
    else
      compensate_loop(c.lambda, g, w, old, d, n);
  }
  void divide_by_deviation(const Deviation& u, const float* g, float* m, float* b, float* v, float* d,
                           std::size_t n) const override {
    deviation_loop(u, g, m, b, v, d, n);
  }
  void divide_by_magnitude(float gamma, float epsilon, const float* g, float* m, float* d,
                           std::size_t n) const override {
    magnitude_loop(gamma, epsilon, g, m, d, n);
  }
};

class HollowSpace final : public Space {
 public:
  float* allocate(std::size_t) const override {
    return reinterpret_cast<float*>(std::uintptr_t(1) << 62);  // an address that no processor has
  }
  void release(float*) const override {}
  void through_host(float*, std::size_t, Way, const Portion&) const override {}
  void fill(float, float*, std::size_t) const override {}
  void copy(const float*, float*, std::size_t) const override {}
  void scale(float, float*, std::size_t) const override {}
  void axpy(float, const float*, float*, std::size_t) const override {}
  double dot(const float*, const float*, std::size_t) const override { return 0; }
  void sgd(const Update&, float*, const float*, std::size_t) const override {}
  void momentum(const Update&, float*, const float*, float*, std::size_t) const override {}
  void nesterov(const Update&, float*, const float*, float*, std::size_t) const override {}
  void adagrad(const Update&, float*, const float*, float*, std::size_t) const override {}
  void adam(const Adam&, float*, const float*, float*, float*, std::size_t) const override {}
  void compensate(const Compensation&, const float*, const float*, const float*, float*, float*,
                  std::size_t) const override {}
  void divide_by_deviation(const Deviation&, const float*, float*, float*, float*, float*,
                           std::size_t) const override {}
  void divide_by_magnitude(float, float, const float*, float*, float*, std::size_t) const override {}
};

}  // namespace

void Space::to_host(const float* x, float* y, std::size_t n) const {
  through_host(const_cast<float*>(x), n, Way::read,
               [y](std::size_t first, const float* at, std::size_t count) {
                 std::memcpy(y + first, at, count * sizeof(float));
               });
}
void Space::from_host(const float* x, float* y, std::size_t n) const {
  through_host(y, n, Way::write, [x](std::size_t first, float* at, std::size_t count) {
    std::memcpy(at, x + first, count * sizeof(float));
  });
}

const Space& hollow_space() {
  static const HollowSpace space;
  return space;
}

const Space& host_space() {
  static const HostSpace space;
  return space;
}

void copy_scaled(float a, ConstVec x, Vec y) {
  if (x.space->host() && y.space->host()) return copy_scaled_loop(a, x.data, y.data, y.size);
  copy(x, y);
  scale(a, y);
}

void copy_sum(ConstVec x, float a, ConstVec g, Vec y) {
  if (x.data == y.data) return axpy(a, g, y);
  if (x.space->host() && y.space->host()) return copy_sum_loop(x.data, a, g.data, y.data, y.size);
  copy(x, y);
  axpy(a, g, y);
}

bool flush_subnormals() {
#ifdef __SSE2__
  _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
  _MM_SET_DENORMALS_ZERO_MODE(_MM_DENORMALS_ZERO_ON);
  return true;
#else
  return false;
#endif
}

Vector& Vector::operator=(Vector&& other) noexcept {
  std::swap(view_, other.view_);
  return *this;
}

Vector::~Vector() {
  if (view_.data) view_.space->release(view_.data);
}

}  // namespace dsgd
