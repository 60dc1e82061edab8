// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "vec.h"

namespace dsgd::test {

// Memory that nobody but its space can reach, as a GPU's: addresses that no processor has. Whoever looks at
// an element ends the program.
class FarSpace final : public Space {
 public:
  float* allocate(std::size_t n) const override { return other(here_.allocate(n)); }
  void release(float* data) const override { here_.release(other(data)); }
  void through_host(float* x, std::size_t n, Way way, const Portion& f) const override {
    const std::size_t portion = n / 3 + 1;  // there are several of any vector
    std::vector<float> here(std::min(n, portion));
    for (std::size_t first = 0; first < n; first += portion) {
      const std::size_t count = std::min(portion, n - first);
      if (way == Way::write)
        std::fill(here.begin(), here.end(), std::numeric_limits<float>::quiet_NaN());
      else
        here_.copy(other(x) + first, here.data(), count);
      f(first, here.data(), count);
      if (way != Way::read) here_.copy(here.data(), other(x) + first, count);
    }
  }
  void fill(float a, float* y, std::size_t n) const override { here_.fill(a, other(y), n); }
  void copy(const float* x, float* y, std::size_t n) const override { here_.copy(other(x), other(y), n); }
  void scale(float a, float* y, std::size_t n) const override { here_.scale(a, other(y), n); }
  void axpy(float a, const float* x, float* y, std::size_t n) const override {
    here_.axpy(a, other(x), other(y), n);
  }
  double dot(const float* x, const float* y, std::size_t n) const override {
    return here_.dot(other(x), other(y), n);
  }
  void sgd(const Update& u, float* w, const float* g, std::size_t n) const override {
    here_.sgd(u, other(w), other(g), n);
  }
  void momentum(const Update& u, float* w, const float* g, float* v, std::size_t n) const override {
    here_.momentum(u, other(w), other(g), other(v), n);
  }
  void nesterov(const Update& u, float* w, const float* g, float* v, std::size_t n) const override {
    here_.nesterov(u, other(w), other(g), other(v), n);
  }
  void adagrad(const Update& u, float* w, const float* g, float* s, std::size_t n) const override {
    here_.adagrad(u, other(w), other(g), other(s), n);
  }
  void adam(const Adam& u, float* w, const float* g, float* m, float* v, std::size_t n) const override {
    here_.adam(u, other(w), other(g), other(m), other(v), n);
  }
  void compensate(const Compensation& c, const float* g, const float* w, const float* old, float* s, float* d,
                  std::size_t n) const override {
    here_.compensate(c, other(g), other(w), other(old), other(s), other(d), n);
  }
  void divide_by_deviation(const Deviation& u, const float* g, float* m, float* b, float* v, float* d,
                           std::size_t n) const override {
    here_.divide_by_deviation(u, other(g), other(m), other(b), other(v), other(d), n);
  }
  void divide_by_magnitude(float gamma, float epsilon, const float* g, float* m, float* d,
                           std::size_t n) const override {
    here_.divide_by_magnitude(gamma, epsilon, other(g), other(m), other(d), n);
  }

 private:
  // From here to there and back.
  template <class T>
  static T* other(T* p) {
    return p ? reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(p) ^ (std::uintptr_t(1) << 62))
             : nullptr;
  }
  const Space& here_ = host_space();
};

inline const Space& far_space() {
  static const FarSpace space;
  return space;
}

}  // namespace dsgd::test
