#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/vec.h"

namespace dsgd {

// The history of L-BFGS (Nocedal 1980): the last `most` pairs of steps s and changes of the gradient y, and
// the direction that they make of a gradient. product(x, y) is the dot product of whole vectors; what is here
// may be a server's part of them.
class LBfgsHistory {
 public:
  struct Pair {
    Vector s, y;
  };
  LBfgsHistory(const Space& space, std::size_t n, std::int64_t most) {
    for (std::int64_t i = 0; i < most; ++i) pairs_.push_back({Vector(space, n), Vector(space, n)});
  }
  // Room for a new pair, in place of the oldest; it counts after keep().
  Pair& fresh() { return pairs_[std::size_t(kept_) % pairs_.size()]; }
  void keep() { ++kept_; }
  void forget() { kept_ = 0; }
  bool empty() const { return kept_ == 0; }

  // d <- -H g, two loops over the history; without one H is `rate`.
  template <typename Product>
  void direction(ConstVec g, double rate, Vec d, Product product) {
    const std::size_t n = std::min(std::size_t(kept_), pairs_.size());
    const auto back = [&](std::size_t i) -> Pair& {
      return pairs_[(std::size_t(kept_) - 1 - i) % pairs_.size()];
    };
    std::vector<double> alpha(n), curvature(n);
    copy(g, d);
    scale(-1, d);
    for (std::size_t i = 0; i < n; ++i) {
      curvature[i] = product(back(i).s, back(i).y);
      alpha[i] = product(back(i).s, d) / curvature[i];
      axpy(float(-alpha[i]), back(i).y, d);
    }
    scale(float(n ? curvature[0] / product(back(0).y, back(0).y) : rate), d);
    for (std::size_t i = n; i-- > 0;)
      axpy(float(alpha[i] - product(back(i).y, d) / curvature[i]), back(i).s, d);
  }
  template <typename State>
  void visit(State& state) {
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      state.vector("s " + std::to_string(i), pairs_[i].s);
      state.vector("y " + std::to_string(i), pairs_[i].y);
    }
    state.number("pairs", kept_);
  }

 private:
  std::vector<Pair> pairs_;  // a ring
  std::int64_t kept_ = 0;
};

}  // namespace dsgd
