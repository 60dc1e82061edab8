// SPDX-License-Identifier: Apache-2.0
#include "parts/lbfgs.h"

#include <algorithm>
#include <string>

namespace dsgd {
namespace {

constexpr double c1 = 1e-4, shortest = 1e-6;

}  // namespace

Lbfgs::Lbfgs(const Space& space, std::size_t n, std::int64_t most, Shards* shards)
    : shards_(shards), x_(space, n), g_(space, n), d_(space, n) {
  for (std::int64_t i = 0; i < most; ++i) pairs_.push_back({Vector(space, n), Vector(space, n)});
}

bool Lbfgs::rejects(Vec w, double f) {
  if (!searching_ || a_ == 0 || f <= f_ + c1 * a_ * slope_) return false;
  a_ /= 2;
  if (a_ < shortest) {  // back to x
    a_ = 0;
    kept_ = 0;
  }
  look(w);
  return true;
}

Vec Lbfgs::accept(ConstVec w, double f) {
  if (searching_) {
    Pair& fresh = pair(-1);
    copy(w, fresh.s);
    axpy(-1, x_, fresh.s);
    copy(g_, fresh.y);
    scale(-1, fresh.y);
  }
  copy(w, x_);
  f_ = f;
  begun_ = 1;
  return g_;
}

bool Lbfgs::learn() {
  if (!searching_) return false;
  Pair& fresh = pair(-1);
  axpy(1, g_, fresh.y);
  if (product(fresh.s, fresh.y) > 0) ++kept_;
  searching_ = 0;
  return true;
}

void Lbfgs::search(Vec w, double rate) {
  direct(rate);
  a_ = searching_ = 1;
  look(w);
}

void Lbfgs::look(Vec w) const {  // w <- x + a * d
  copy(x_.view(), w);
  if (a_ != 0) axpy(float(a_), d_.view(), w);  // d may be infinite
}

// d <- -H g, two loops over the pairs.
void Lbfgs::direct(double rate) {
  const std::int64_t n = std::min(kept_, std::int64_t(pairs_.size()));
  std::vector<double> alpha(n), curvature(n);
  copy(g_, d_);
  scale(-1, d_);
  for (std::int64_t i = 0; i < n; ++i) {
    curvature[i] = product(pair(i).s, pair(i).y);
    alpha[i] = product(pair(i).s, d_) / curvature[i];
    axpy(float(-alpha[i]), pair(i).y, d_);
  }
  scale(float(n ? curvature[0] / product(pair(0).y, pair(0).y) : rate), d_);
  for (std::int64_t i = n; i-- > 0;)
    axpy(float(alpha[i] - product(pair(i).y, d_) / curvature[i]), pair(i).s, d_);
  slope_ = product(g_, d_);
  if (slope_ <= 0 || kept_ == 0) return;
  kept_ = 0;  // rounding has got the better of it
  direct(rate);
}

void Lbfgs::visit(State& state) {
  state.vector("x", x_);
  state.vector("g", g_);
  state.vector("d", d_);
  for (std::size_t i = 0; i < pairs_.size(); ++i) {
    state.vector("s " + std::to_string(i), pairs_[i].s);
    state.vector("y " + std::to_string(i), pairs_[i].y);
  }
  state.number("pairs", kept_);
  state.number("begun", begun_);
  state.number("searching", searching_);
  state.number("f", f_);
  state.number("slope", slope_);
  state.number("a", a_);
}

}  // namespace dsgd
