#include "models/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace dsgd {
namespace {

using Rule = OptimizerSettings::Rule;

// One weight and a gradient: enough for closed forms. Odd sizes come at the end.
struct Scalar {
  explicit Scalar(const OptimizerSettings& settings, float start = 0)
      : optimizer(settings, host_space(), 1), w(host_space(), 1), g(host_space(), 1) {
    w.data()[0] = start;
  }
  float step(float gradient, double scale = 1, std::int64_t used = 0) {
    g.data()[0] = gradient;
    optimizer.step(w, g, scale, used);
    return w.data()[0];
  }
  Optimizer optimizer;
  Vector w, g;
};

OptimizerSettings settings(Rule rule, double rate) {
  OptimizerSettings s;
  s.rule = rule;
  s.learning_rate = rate;
  return s;
}

TEST(Sgd, TakesRateTimesMeanGradient) {
  Scalar s(settings(Rule::sgd, 0.5), 1);
  EXPECT_EQ(s.step(8, 0.25), 1 - 0.5f * 2);
  EXPECT_EQ(s.step(-4, 0.25), 0.5f);
  EXPECT_EQ(s.optimizer.state().size, 0u);
}

TEST(Sgd, DecaysByL2) {
  auto with = settings(Rule::sgd, 0.5);
  with.l2 = 0.25;
  Scalar s(with, 1);
  // Without gradient w shrinks by 1 - rate*l2 = 7/8 a step.
  for (int t = 1; t <= 5; ++t) EXPECT_FLOAT_EQ(s.step(0), float(std::pow(0.875, t)));
  // It is not scaled with the gradient, and both count at once.
  Scalar both(with, 2);
  EXPECT_EQ(both.step(4, 0.5), 2 - 0.5f * (2 + 0.25f * 2));
}

TEST(Momentum, WithConstantGradientHasItsClosedForm) {
  auto with = settings(Rule::momentum, 0.125);
  with.momentum = 0.5;
  Scalar s(with);
  // v_t = (1 - mu^t)/(1 - mu); w_t = -rate * sum of v. All exact in binary.
  double w = 0;
  for (int t = 1; t <= 12; ++t) {
    const double v = (1 - std::pow(0.5, t)) / 0.5;
    w -= 0.125 * v;
    EXPECT_EQ(s.step(2, 0.5), w);
    EXPECT_EQ(s.optimizer.state().data[0], v);
  }
}

TEST(Nesterov, LooksOneStepAhead) {
  auto with = settings(Rule::nesterov, 0.125);
  with.momentum = 0.5;
  Scalar s(with);
  // d + mu*v_t is momentum's v_{t+1} for a constant gradient.
  double w = 0;
  for (int t = 1; t <= 12; ++t) {
    w -= 0.125 * (1 - std::pow(0.5, t + 1)) / 0.5;
    EXPECT_EQ(s.step(1), w);
  }
}

TEST(Momentum, WithoutMomentumIsSgd) {
  for (const Rule rule : {Rule::momentum, Rule::nesterov}) {
    auto with = settings(rule, 0.1);
    with.momentum = 0;
    with.l2 = 0.01;
    auto plain = with;
    plain.rule = Rule::sgd;
    Scalar a(with, 1), b(plain, 1);
    for (int t = 0; t < 10; ++t) EXPECT_EQ(a.step(float(t) / 7, 0.3), b.step(float(t) / 7, 0.3));
  }
}

TEST(Adagrad, DividesByTheRootOfTheSumOfSquares) {
  auto with = settings(Rule::adagrad, 0.5);
  with.initial_accumulator = 0;
  with.epsilon = 0;
  // Constant gradient d: steps of rate*d/(|d|*sqrt(t)), whatever its size.
  for (const float d : {4.0f, 0.5f}) {
    Scalar s(with);
    double w = 0;
    for (int t = 1; t <= 10; ++t) {
      w -= 0.5 / std::sqrt(double(t));
      EXPECT_NEAR(s.step(d), w, 1e-6);
      EXPECT_EQ(s.optimizer.state().data[0], d * d * float(t));
    }
  }
  // The first value of the sum and epsilon: s = 9 + 16, 3/(5 + 1).
  with.initial_accumulator = 9;
  with.epsilon = 1;
  Scalar s(with, 10);
  EXPECT_FLOAT_EQ(s.step(4), float(10 - 0.5 * 4 / 6));
  EXPECT_EQ(s.optimizer.state().data[0], 25);
}

TEST(Schedule, FollowsItsFormulas) {
  Schedule s;
  EXPECT_EQ(s.at(0), 1);
  EXPECT_EQ(s.at(1'000'000'000), 1);

  s = {Schedule::Kind::step, 100, 0.5};
  EXPECT_EQ(s.at(0), 1);
  EXPECT_EQ(s.at(99), 1);
  EXPECT_EQ(s.at(100), 0.5);
  EXPECT_EQ(s.at(399), 0.125);

  s = {Schedule::Kind::warmup, 100, 0.25};
  EXPECT_EQ(s.at(0), 0.25);
  EXPECT_EQ(s.at(50), 0.625);
  EXPECT_EQ(s.at(100), 1);
  EXPECT_EQ(s.at(101), 1);

  s = {Schedule::Kind::step, 0, 0.5};  // without a length nothing changes
  EXPECT_EQ(s.at(50), 1);
}

TEST(Schedule, ScalesTheRateBySamplesUsed) {
  auto with = settings(Rule::sgd, 2);
  with.schedule = {Schedule::Kind::step, 10, 0.5};
  Scalar s(with);
  EXPECT_EQ(s.step(1, 1, 9), -2);
  EXPECT_EQ(s.step(1, 1, 10), -3);
  EXPECT_EQ(s.step(1, 1, 25), -3.5);
  EXPECT_EQ(s.optimizer.rate(25), 0.5);
}

TEST(Optimizer, ResetBringsBackTheFirstStep) {
  for (const Rule rule : {Rule::sgd, Rule::momentum, Rule::nesterov, Rule::adagrad}) {
    Scalar s(settings(rule, 0.1));
    const float first = s.step(3);
    s.step(2);
    s.optimizer.reset();
    s.w.data()[0] = 0;
    EXPECT_EQ(s.step(3), first);
  }
}

TEST(Optimizer, TreatsEveryElementAlike) {
  for (const Rule rule : {Rule::sgd, Rule::momentum, Rule::nesterov, Rule::adagrad}) {
    auto with = settings(rule, 0.1);
    with.l2 = 0.01;
    for (const std::size_t n : {0, 1, 3, 16, 37, 1001}) {
      Optimizer whole(with, host_space(), n);
      Vector w(host_space(), n), g(host_space(), n);
      for (std::size_t i = 0; i < n; ++i) w.data()[i] = float(i % 7) / 3;
      for (int t = 0; t < 3; ++t) {
        for (std::size_t i = 0; i < n; ++i) g.data()[i] = float((i + t) % 5) - 2;
        whole.step(w, g, 0.5, 0);
      }
      for (std::size_t i = 0; i < n; ++i) {
        Scalar one(with, float(i % 7) / 3);
        for (int t = 0; t < 3; ++t) one.step(float((i + t) % 5) - 2, 0.5);
        ASSERT_EQ(w.data()[i], one.w.data()[0]) << "element " << i << " of " << n;
      }
    }
  }
}

TEST(OptimizerRule, IsFoundByName) {
  EXPECT_EQ(optimizer_rule("sgd"), Rule::sgd);
  EXPECT_EQ(optimizer_rule("momentum"), Rule::momentum);
  EXPECT_EQ(optimizer_rule("nesterov"), Rule::nesterov);
  EXPECT_EQ(optimizer_rule("adagrad"), Rule::adagrad);
  try {
    optimizer_rule("adam");
    FAIL() << "no exception";
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "unknown optimizer adam (allowed: sgd, momentum, nesterov, adagrad)");
  }
}

TEST(Vec, DoesArithmeticInPlace) {
  for (const std::size_t n : {0, 1, 17, 100}) {
    Vector x(host_space(), n), y(host_space(), n);
    EXPECT_EQ(dot(x, x), 0);  // zero at birth
    for (std::size_t i = 0; i < n; ++i) x.data()[i] = float(i + 1);
    fill(2, y);
    axpy(3, x, y);
    scale(0.5f, y);
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(y.data()[i], 1 + 1.5f * float(i + 1));
    EXPECT_EQ(dot(x, x), double(n) * double(n + 1) * double(2 * n + 1) / 6);
    copy(x, y);
    EXPECT_EQ(dot(x, y), dot(x, x));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.data()) % 64, 0u);
  }
}

TEST(Vec, MovesAndCutsWithoutCopying) {
  Vector a(host_space(), 10);
  float* data = a.data();
  Vector b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(a.size(), 0u);
  fill(1, b.view().part(2, 3));
  EXPECT_EQ(dot(b, b), 3);
  EXPECT_EQ(b.data()[4], 1);
  EXPECT_EQ(b.data()[5], 0);
}

}  // namespace
}  // namespace dsgd
