// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "strategy.h"

namespace dsgd {

// L-BFGS (Nocedal 1980) with a step that is halved until it gains enough (Armijo). Vectors may be a server's
// part of whole ones: decisions are made of sums of dot products over all parts, so that all servers take the
// same. Of a function, evaluated at w, f is told first, then the gradient, where w is accepted:
//   rejects(w, f)  ||  (g <- gradient, accept(w, f))  &&  ...  search(w)
class Lbfgs {
 public:
  // Keeps `most` pairs of differences. shards: null where vectors are whole.
  Lbfgs(const Space& space, std::size_t n, std::int64_t most, Shards* shards);

  bool searching() const { return searching_; }
  // f > f_0 + c1 * a * d.g_0 while searching, also where f is not a number: then w <- x + a/2 * d, or x
  // itself after a search in vain, where nothing is rejected: f is a sum in another order than f_0.
  bool rejects(Vec w, double f);
  // x <- w; returns where g at x is to be put next.
  Vec accept(ConstVec w, double f);
  // The gradient is there: what was searched for becomes a pair, where s.y > 0. Ends the search; returns
  // whether there was one.
  bool learn();
  // d <- -H g, H being `rate` where nothing is known; w <- x + d.
  void search(Vec w, double rate);

  Vec x(Vec w) const { return begun_ ? x_.view() : w; }  // the last accepted w
  double sum(double x) const { return shards_ ? shards_->sum(x) : x; }
  double product(ConstVec x, ConstVec y) const { return sum(dot(x, y)); }
  void visit(State& state);

 private:
  struct Pair {
    Vector s, y;
  };
  // The i-th newest; -1: room for a new one, in place of the oldest.
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
