// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "strategy.h"

namespace dsgd::test {

// Holds in memory what visit() names, or writes it back.
class Checkpoint final : public State {
 public:
  void vector(const std::string& name, Vec v) override {
    if (!restoring_) {
      expect_new(name);
      vectors_[name].assign(v.data, v.data + v.size);
      return;
    }
    const auto& saved = vectors_.at(name);
    ASSERT_EQ(saved.size(), v.size) << name;
    copy({saved.data(), v.size, v.space}, v);
  }
  void number(const std::string& name, std::int64_t& n) override {
    if (!restoring_) {
      expect_new(name);
      numbers_[name] = n;
      return;
    }
    n = numbers_.at(name);
  }
  void number(const std::string& name, double& x) override {
    if (!restoring_) {
      expect_new(name);
      reals_[name] = x;
      return;
    }
    x = reals_.at(name);
  }
  void restore() { restoring_ = true; }
  const std::vector<float>& saved(const std::string& name) const { return vectors_.at(name); }

 private:
  void expect_new(const std::string& name) {
    EXPECT_TRUE(names_.insert(name).second) << name << " is saved twice";
  }
  bool restoring_ = false;
  std::map<std::string, std::vector<float>> vectors_;
  std::map<std::string, std::int64_t> numbers_;
  std::map<std::string, double> reals_;
  std::set<std::string> names_;
};

// `to`, a strategy or rule as it is made, goes on where `from` stands.
template <typename Visited>
void carry_over(Visited& from, Visited& to) {
  Checkpoint checkpoint;
  from.visit(checkpoint);
  checkpoint.restore();
  to.visit(checkpoint);
}

}  // namespace dsgd::test
