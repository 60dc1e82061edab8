// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "strategy.h"

namespace dsgd {

// L-BFGS (Nocedal 1980) with backtracking: a step is halved until it satisfies the Armijo condition. Its
// vectors may be one server's part of the whole vectors. Dot products are summed over all servers, so that
// all take the same decisions; functions marked "collective" are called by all servers together. For each w
// at which the function is evaluated, f is reported first, and the gradient only if w is accepted:
//   rejects(w, f)  ||  (g <- gradient, accept(w, f))  &&  ...  search(w)
class Lbfgs {
 public:
  // Keeps `most` pairs of differences. shards: null if vectors are whole.
  Lbfgs(const Space& space, std::size_t n, std::int64_t most, Shards* shards);

  bool searching() const { return searching_; }
  // Whether f violates the Armijo condition, f > f_0 + c1 * a * d.g_0, or is NaN. Then a is halved and w <- x
  // + a * d. When a has become too small, w <- x, and the next f is accepted whatever it is: it is a sum in
  // another order than f_0. Never rejects outside a search.
  bool rejects(Vec w, double f);
  // x <- w. Returns the vector to which the caller writes the gradient at x, before learn().
  Vec accept(ConstVec w, double f);
  // Collective; call it when the gradient is there. If a search was under way, ends it, keeps its pair (s, y)
  // if s.y > 0, and returns true.
  bool learn();
  // Collective. d <- -H g, where H is `rate` as long as no pair is known; then w <- x + d.
  void search(Vec w, double rate);

  Vec x(Vec w) const { return begun_ ? x_.view() : w; }  // the last accepted w
  double sum(double x) const { return shards_ ? shards_->sum(x) : x; }
  double product(ConstVec x, ConstVec y) const { return sum(dot(x, y)); }
  void visit(State& state);

 private:
  struct Pair {
    Vector s, y;
  };
  // The i-th newest. pair(-1) is the room for a new one, in place of the oldest.
  Pair& pair(std::int64_t i) { return pairs_[std::size_t(kept_ - 1 - i) % pairs_.size()]; }
  void look(Vec w) const;
  void direct(double rate);

  Shards* shards_;
  Vector x_, g_, d_;
  std::vector<Pair> pairs_;  // a ring
  std::int64_t kept_ = 0, begun_ = 0, searching_ = 0;
  double f_ = 0, slope_ = 0, a_ = 0;
};

}  // namespace dsgd
