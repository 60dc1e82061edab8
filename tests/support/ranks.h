// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tests that run on all ranks of a world. In files that include this one, TEST and RANKS_TEST_P do so, in
// every world that `fits` takes, a function of the file or the fixture: under mpirun in the one that is
// there, in simulated_test in many, one after the other. Assertions may differ between ranks, verbs may not.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "communicator.h"

namespace dsgd::test {

constexpr int world_minibatch = 4;

World& world();             // of the rank that asks
extern int ranks_per_host;  // 0: all share memory

struct Shape {
  int workers, servers;
};
std::vector<Shape> shapes();  // of the worlds that there are
using Fits = std::function<bool(const Shape&)>;
inline bool fits_any(const Fits& fits) {
  const std::vector<Shape> all = shapes();
  return std::any_of(all.begin(), all.end(), fits);
}
void on_ranks(const Fits& fits, const std::function<void()>& body);

}  // namespace dsgd::test

#undef TEST
#define TEST(suite, name)                                                                 \
  static void suite##_##name##_on_a_rank();                                               \
  GTEST_TEST(suite, name) {                                                               \
    on_ranks([](const Shape& shape) { return fits(shape); }, suite##_##name##_on_a_rank); \
  }                                                                                       \
  static void suite##_##name##_on_a_rank()

#define RANKS_TEST_P(suite, name)                                   \
  struct suite##_##name##_on_a_rank : suite {                       \
    void TestBody() override;                                       \
  };                                                                \
  TEST_P(suite, name) {                                             \
    on_ranks([](const Shape& shape) { return suite::fits(shape); }, \
             [] { suite##_##name##_on_a_rank().TestBody(); });      \
  }                                                                 \
  void suite##_##name##_on_a_rank::TestBody()
