// SPDX-License-Identifier: Apache-2.0
#include "optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <stdexcept>
#include <tuple>

#include "twins.h"

namespace dsgd {
namespace {

using Rule = OptimizerSettings::Rule;
using test::operator*;

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

// A constant gradient d: the corrected moments are d and d^2 at every step.
TEST(Adam, StepsByTheRateWhateverTheGradientsSize) {
  for (const Rule rule : {Rule::adam, Rule::adamw})
    for (const float d : {4.0f, -0.5f}) {
      auto with = settings(rule, 0.125);
      with.epsilon = 0;
      Scalar s(with);
      for (int t = 1; t <= 20; ++t) EXPECT_NEAR(s.step(d), (d > 0 ? -0.125 : 0.125) * t, 1e-5);
      EXPECT_EQ(s.optimizer.updates(), 20);
    }
}

// beta1 = 1/2, beta2 = 3/4, gradients 4 and then 0: m = 2, 1; v = 4, 3.
TEST(Adam, KeepsCorrectedMoments) {
  auto with = settings(Rule::adam, 1);
  with.momentum = 0.5;
  with.beta2 = 0.75;
  with.epsilon = 1;
  Scalar s(with);
  EXPECT_FLOAT_EQ(s.step(8, 0.5), -4.0f / (4 + 1));
  EXPECT_EQ(s.optimizer.state().data[0], 2);
  EXPECT_EQ(s.optimizer.state().data[1], 4);
  EXPECT_FLOAT_EQ(s.step(0), -0.8f - float(1 / 0.75 / (std::sqrt(3 / (1 - 0.75 * 0.75)) + 1)));
  EXPECT_EQ(s.optimizer.state().data[0], 1);
  EXPECT_EQ(s.optimizer.state().data[1], 3);
}

// Without a gradient adam's decay is a gradient like any other, adamw's shrinks w by 1 - rate*l2.
TEST(Adamw, DecaysBesideTheGradient) {
  auto with = settings(Rule::adamw, 0.5);
  with.l2 = 0.25;
  Scalar apart(with, 1);
  for (int t = 1; t <= 5; ++t) EXPECT_FLOAT_EQ(apart.step(0), float(std::pow(0.875, t)));
  with.rule = Rule::adam;
  with.epsilon = 0;
  Scalar inside(with, 1);
  EXPECT_FLOAT_EQ(inside.step(0), 1 - 0.5f);
}

// |w| = 5, |g| = 10, l2 = 1/2: lambda = trust * 5 / (10 + 2.5).
TEST(Lars, StepsByAShareOfTheLayersNorm) {
  auto with = settings(Rule::lars, 0.5);
  with.momentum = 0;
  with.l2 = 0.5;
  with.trust = 0.25;
  with.layers = {{.shape = {2, 1}, .first = 0, .count = 2}, {.shape = {1}, .first = 2, .count = 1}};
  Optimizer optimizer(with, host_space(), 3);
  Vector w(host_space(), 3), g(host_space(), 3);
  const float weights[] = {3, 4, 2}, gradients[] = {12, -16, 8};
  std::copy(weights, weights + 3, w.data());
  std::copy(gradients, gradients + 3, g.data());
  optimizer.step(w, g, 0.5, 0);
  const float lambda = 0.25f * 5 / (10 + 2.5f);
  EXPECT_FLOAT_EQ(w.data()[0], 3 - 0.5f * lambda * (6 + 1.5f));
  EXPECT_FLOAT_EQ(w.data()[1], 4 - 0.5f * lambda * (-8 + 2));
  EXPECT_FLOAT_EQ(w.data()[2], 2 - 0.5f * (4 + 1));  // a bias: momentum alone
}

TEST(Lars, IsMomentumWhereANormIsZero) {
  auto with = settings(Rule::lars, 0.5);
  auto plain = with;
  plain.rule = Rule::momentum;
  Scalar a(with, 0), b(plain, 0);
  EXPECT_EQ(a.step(3), b.step(3));
}

// The rate is inside the velocity, so that a new rate does not rescale the old steps.
TEST(Lars, KeepsTheRateInItsVelocity) {
  auto with = settings(Rule::lars, 1);
  with.momentum = 0.5;
  with.schedule = {Schedule::Kind::step, 10, 0.5};
  with.layers = {{.shape = {1}, .first = 0, .count = 1}};
  Scalar s(with);
  EXPECT_EQ(s.step(4, 1, 0), -4);
  EXPECT_EQ(s.step(4, 1, 10), -4 - (0.5f * 4 + 0.5f * 4));
}

TEST(Clip, CutsLongGradientsOnly) {
  for (const Rule rule : {Rule::sgd, Rule::momentum, Rule::nesterov, Rule::adagrad, Rule::adam, Rule::lars}) {
    auto with = settings(rule, 0.5);
    with.l2 = 0.25;  // is not clipped
    auto free = with;
    with.clip = 5;
    for (const auto& [x, y, factor] :
         {std::tuple{6.0f, 8.0f, 1.0f}, {12.0f, 16.0f, 0.5f}, {0.0f, 0.0f, 1.0f}}) {
      Optimizer clipped(with, host_space(), 2), whole(free, host_space(), 2);
      Vector a(host_space(), 2), b(host_space(), 2), g(host_space(), 2), cut(host_space(), 2);
      fill(1, a);
      fill(1, b);
      g.data()[0] = x, g.data()[1] = y;
      copy(g, cut);
      scale(factor, cut);
      clipped.step(a, g, 0.5, 0);  // norms 5, 10 and 0
      whole.step(b, cut, 0.5, 0);
      EXPECT_EQ(a.data()[0], b.data()[0]);
      EXPECT_EQ(a.data()[1], b.data()[1]);
    }
  }
}

// Every rule beside its slow twin, with random gradients.
TEST(Optimizer, IsItsSlowTwin) {
  const std::size_t n = 61;
  for (const std::string& name : optimizer_rules())
    for (const double clip : {0.0, 0.5}) {
      OptimizerSettings with = settings(optimizer_rule(name), 0.1);
      with.l2 = 0.01;
      with.clip = clip;
      with.trust = 0.1;
      with.schedule = {Schedule::Kind::step, 40, 0.5};
      with.layers = {{.shape = {5, 8}, .first = 0, .count = 40},
                     {.shape = {8}, .first = 40, .count = 8},
                     {.shape = {13, 1}, .first = 48, .count = 13}};
      Optimizer optimizer(with, host_space(), n);
      test::PlainOptimizer twin(with, n);
      Vector w(host_space(), n), g(host_space(), n);
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      for (std::size_t i = 0; i < n; ++i) w.data()[i] = normal(random);
      test::Doubles plain(w.data(), w.data() + n);
      for (int t = 0; t < 20; ++t) {
        for (std::size_t i = 0; i < n; ++i) g.data()[i] = normal(random);
        optimizer.step(w, g, 0.25, 4 * t);
        twin.step(plain, 0.25 * test::Doubles(g.data(), g.data() + n), 4 * t);
      }
      EXPECT_LE(test::difference(plain, w.data()), 1e-5) << name << ", clip " << clip;
    }
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
  for (const std::string& name : optimizer_rules()) {
    Scalar s(settings(optimizer_rule(name), 0.1));
    const float first = s.step(3);
    s.step(2);
    s.optimizer.reset();
    s.w.data()[0] = 0;
    EXPECT_EQ(s.step(3), first);
  }
}

TEST(Optimizer, TreatsEveryElementAlike) {
  for (const Rule rule :
       {Rule::sgd, Rule::momentum, Rule::nesterov, Rule::adagrad, Rule::adam, Rule::adamw}) {
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

// What makes the step later, or elsewhere, has it as data; norms are not known before the gradient.
TEST(Optimizer, SaysItsNextStep) {
  for (const std::string& rule : optimizer_rules())
    for (const double clip : {0.0, 1.0}) {
      auto with = settings(optimizer_rule(rule), 0.1);
      with.l2 = 0.01;
      with.clip = clip;
      with.schedule = {.kind = Schedule::Kind::step, .samples = 10, .factor = 0.5};
      Scalar made(with, 1), said(with, 1);
      for (int t = 0; t < 4; ++t) {
        const float g = 1.0f / float(t + 3);
        const auto descent = said.optimizer.next(said.w, 0.5, 7 * t);
        ASSERT_EQ(descent.has_value(), clip == 0 && rule != "lars");
        made.step(g, 0.5, 7 * t);
        EXPECT_EQ(said.optimizer.updates(), descent ? made.optimizer.updates() : 0);
        if (!descent) continue;
        said.g.data()[0] = g;
        descent->make(said.g);
        EXPECT_EQ(said.w.data()[0], made.w.data()[0]) << rule << ", step " << t;
      }
    }
}

TEST(OptimizerRule, IsFoundByName) {
  const std::map<std::string, Rule> rules{{"sgd", Rule::sgd},           {"momentum", Rule::momentum},
                                          {"nesterov", Rule::nesterov}, {"adagrad", Rule::adagrad},
                                          {"adam", Rule::adam},         {"adamw", Rule::adamw},
                                          {"lars", Rule::lars}};
  EXPECT_EQ(optimizer_rules().size(), rules.size());
  for (const auto& [name, rule] : rules) {
    EXPECT_EQ(optimizer_rule(name), rule);
    EXPECT_EQ(Optimizer(settings(rule, 1), host_space(), 3).state().size, 3u * state_vectors(rule));
  }
  try {
    optimizer_rule("lamb");
    FAIL() << "no exception";
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(),
                 "unknown optimizer lamb (allowed: sgd, momentum, nesterov, adagrad, adam, adamw, lars)");
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

// Two operations in one pass: the bits of one after the other.
TEST(Vec, CopiesScaledAndSums) {
  for (const std::size_t n : {0, 1, 17, 1003}) {
    Vector x(host_space(), n), g(host_space(), n), is(host_space(), n), should(host_space(), n);
    for (std::size_t i = 0; i < n; ++i) x.data()[i] = 1 / float(3 + i), g.data()[i] = 1 / float(7 + 3 * i);
    const auto expect = [&] {
      EXPECT_TRUE(std::equal(is.data(), is.data() + n, should.data())) << n << " elements";
    };
    copy(x, should), scale(0.3f, should);
    copy_scaled(0.3f, x, is);
    expect();
    copy(x, should), axpy(0.3f, g, should);
    copy_sum(x, 0.3f, g, is);
    expect();
    copy(x, is);
    copy_sum(is, 0.3f, g, is);
    expect();
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

// A constant gradient has no deviation, and rounding would leave less than none of it.
TEST(Vectors, DivideByTheDeviationOfEqualGradients) {
  const std::size_t n = 100;
  Vector g(host_space(), n), m(host_space(), n), b(host_space(), n), v(host_space(), n), d(host_space(), n);
  for (std::size_t i = 0; i < n; ++i) g.data()[i] = 1000 + 0.37f * float(i);
  for (int step = 0; step < 200; ++step) divide_by_deviation({0.9f, 0.9f, 1e-12f, false}, g, m, b, v, d);
  for (std::size_t i = 0; i < n; ++i) {
    EXPECT_GT(v.data()[i], 0) << i;
    EXPECT_TRUE(std::isfinite(d.data()[i])) << i;
  }
}

}  // namespace
}  // namespace dsgd
