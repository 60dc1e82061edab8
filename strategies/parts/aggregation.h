// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "strategy.h"

namespace dsgd {

// How a strategy adds up the workers' vectors; it has the parameters `aggregation` and `depth`. All functions
// but cost() and with() are collective.
//   allreduce   an all-reduce
//   tree        Spark's treeAggregate: a tree of `depth` levels (Group::tree_sum) whose fan F is the smallest
//               with F^depth >= P. Its root is worker 0, the driver, and the sum goes back along it.
//   star        driver-side averaging: a tree of one level
class Aggregation {
 public:
  Aggregation(const Settings& s, const Context& c) : group_(*c.group), fan_(fan(s, c)) {}
  explicit Aggregation(const Context& c) : group_(*c.group) {}
  void sum(Vec v) const { fan_ ? group_.tree_sum(fan_, v) : group_.sum(v); }
  OnReady begin_sum(Vec v, std::size_t bucket) const {
    return fan_ ? OnReady{} : group_.begin_sum(v, bucket);
  }
  ConstVec end_sum(Vec v) const {
    if (!fan_) return group_.end_sum(v);
    group_.tree_sum(fan_, v);
    return v;
  }
  void mean(Vec v) const {
    if (!fan_) return group_.mean(v);
    group_.tree_sum(fan_, v);
    scale(1.0f / float(group_.size()), v);
  }

  // The strategy's other parameters and these two.
  static std::vector<Parameter> with(std::vector<Parameter> others = {}) {
    others.push_back(Parameter::choice("aggregation", "allreduce", {"allreduce", "tree", "star"},
                                       "how vectors are added up: by all, along a tree, or by worker 0"));
    others.push_back(Parameter::integer("depth", 2, "levels of the tree", 1, 30));
    return others;
  }
  // What worker c.rank sends: one vector to its parent, and the sum to each of its children.
  static Cost cost(const Settings& s, const Context& c, int vectors = 1) {
    const int f = fan(s, c);
    if (f == 0 || c.workers == 1) return all_reduce_cost(c, vectors);
    int sent = c.rank > 0;
    for (int stride = 1; stride < c.workers && c.rank % (stride * f) == 0; stride *= f)
      for (int i = 1; i < f; ++i) sent += c.rank + i * stride < c.workers;
    return {4 * double(c.parameters) * vectors * sent, double(sent)};
  }

 private:
  static int fan(const Settings& s, const Context& c) {  // 0: no tree
    if (s.text("aggregation") == "allreduce") return 0;
    const std::int64_t depth = s.text("aggregation") == "star" ? 1 : s.integer("depth");
    const auto reaches = [&](std::int64_t f) {
      std::int64_t workers = 1;
      for (std::int64_t level = 0; level < depth && workers < c.workers; ++level) workers *= f;
      return workers >= c.workers;
    };
    int f = 2;
    while (!reaches(f)) ++f;
    return f;
  }

  Group& group_;
  int fan_ = 0;
};

}  // namespace dsgd
