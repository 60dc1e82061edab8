// SPDX-License-Identifier: Apache-2.0
// Messages of compressed gradients: codes, compressors beside their plain twins, what stays behind. No
// message travels here.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <set>

#include "checkpoint.h"
#include "parts/compressed.h"
#include "parts/low_rank.h"
#include "parts/sparse.h"
#include "twins.h"

namespace dsgd::test {
namespace {

using namespace std::string_literals;
using Optimization = OptimizerSettings::Rule;
using Given = std::map<std::string, Value>;
Value integer(int n) { return std::int64_t(n); }

TEST(Bits, ReadAsTheyWereWritten) {
  std::mt19937 random(1);
  for (const int count : {0, 1, 7, 8, 9, 1000}) {
    std::vector<std::pair<std::uint32_t, int>> words;
    BitWriter out;
    std::size_t bits = 0;
    for (int i = 0; i < count; ++i) {
      const int width = int(random() % 33);
      words.emplace_back(width ? std::uint32_t(random()) >> (32 - width) : 0, width);
      out.put(words.back().first, width);
      bits += std::size_t(width);
    }
    const Bytes message = out.take();
    EXPECT_EQ(message.size(), bytes_of(bits));
    BitReader in(message);
    for (const auto& [value, width] : words) EXPECT_EQ(in.get(width), value);
  }
}

TEST(Bits, NumbersKeepTheirBits) {
  for (const float x : {0.0f, -0.0f, 1.5f, -3e38f, 1e-45f, INFINITY, NAN}) {
    BitWriter out;
    out.put(1, 3);
    out.put(x);
    const Bytes message = out.take();
    BitReader in(message);
    in.get(3);
    EXPECT_EQ(in.get(32), std::bit_cast<std::uint32_t>(x));
  }
}

// Golomb-Rice: a gap x takes (x >> b) + 1 + b bits.
TEST(Sparse, DecodesWhatItEncodedInTheBytesOfItsFormula) {
  std::mt19937 random(2);
  for (const std::size_t n : {1u, 2u, 13u, 1000u, 100'000u})
    for (const double share : {0.0, 1e-4, 0.01, 0.3, 0.5, 0.9, 1.0, -1.0}) {  // negative: the last one alone
      std::vector<std::uint32_t> indices;
      for (std::uint32_t i = 0; i < n; ++i)
        if (share < 0 ? i + 1 == n : random() < share * 4294967296.0) indices.push_back(i);
      const std::size_t k = indices.size();
      const Bytes message = Sparse::encode(
          n, indices, [](BitWriter& out, std::uint32_t i) { out.put(i * 2654435761u >> 27, 5); });
      int b = 0;
      while (k && std::size_t(2) << b <= n / k) ++b;
      std::size_t bits = 32;
      for (std::size_t i = 0; i < k; ++i)
        bits += ((indices[i] - (i ? indices[i - 1] + 1 : 0)) >> b) + 1 + std::size_t(b) + 5;
      EXPECT_EQ(message.size(), (bits + 7) / 8) << n << ", " << share;
      EXPECT_LE(message.size(), Sparse::at_most(n, k, 5)) << n << ", " << share;
      EXPECT_LE(message.size(), bytes_of(32 + 2 * n + 5 * k - k)) << n << ", " << share;
      std::vector<std::uint32_t> decoded;
      std::size_t wrong = 0;
      Sparse::decode(n, message, [&](BitReader& in, std::uint32_t i) {
        decoded.push_back(i);
        wrong += in.get(5) != i * 2654435761u >> 27;
      });
      EXPECT_EQ(decoded, indices) << n << ", " << share;
      EXPECT_EQ(wrong, 0u);
    }
}

// A strategy's compressor, outside of any group.
struct Made {
  Made(const std::string& strategy, const Given& given, Context c)
      : entry(*find_strategy(strategy)), settings(entry.parameters, given), context(std::move(c)) {
    context.space = &host_space();
    made = entry.make(settings, context);
  }
  Compressor* operator->() { return &dynamic_cast<Compressed&>(*made).compressor(); }
  double cost() const { return entry.cost(settings, context, 1).bytes_sent; }
  Doubles decoded(const Bytes& message) {
    Vector y(host_space(), context.parameters);
    (*this)->add(message, y);
    return {y.data(), y.data() + y.size()};
  }
  const StrategyEntry& entry;
  Settings settings;
  Context context;
  std::unique_ptr<Strategy> made;
};

Doubles random_vector(std::size_t n, std::uint32_t seed) {  // integers from -1000 to 1000, over 64
  std::mt19937 random(seed);
  Doubles v(n);
  for (double& x : v) x = (double(random() % 2001) - 1000) / 64;
  return v;
}
Vector floats(const Doubles& v) {
  Vector x(host_space(), v.size());
  for (std::size_t i = 0; i < v.size(); ++i) x.data()[i] = float(v[i]);
  return x;
}

using Plain = std::function<Doubles(const Doubles& p)>;

struct Case {
  std::string name;
  Given given;
  Context context;
  Plain twin;
  double tolerance = 0;
};
std::vector<Case> deterministic(std::size_t n) {
  const std::size_t half = n / 2;
  Context one{.parameters = n, .workers = 2}, two = one;
  two.optimizer.layers = {{.first = 0, .count = half}, {.first = half, .count = n - half}};
  return {
      {"threshold", {{"tau", 2.0}}, one, [](const Doubles& p) { return plain_threshold(p, 2); }},
      {"threshold", {{"tau", 1.0 / 64}}, one, [](const Doubles& p) { return plain_threshold(p, 1.0 / 64); }},
      {"threshold", {{"tau", 100.0}}, one, [](const Doubles& p) { return plain_threshold(p, 100); }},
      {"topk", {{"density", 1e-9}}, one, [](const Doubles& p) { return plain_topk(p, 1); }},
      {"topk",
       {{"density", 0.25}},
       one,
       [n](const Doubles& p) { return plain_topk(p, std::max(1l, std::lround(0.25 * double(n)))); }},
      {"topk", {{"density", 1.0}}, one, [](const Doubles& p) { return p; }},
      {"signsgd", {}, one, plain_sign},
      {"ef_signsgd", {}, one, [n](const Doubles& p) { return plain_scaled_sign(p, {n}); }, 1e-6},
      {"ef_signsgd",
       {},
       two,
       [=](const Doubles& p) {
         return plain_scaled_sign(p, {half, n});
       },
       1e-6},
      {"onebit", {{"bucket", integer(7)}}, one, [](const Doubles& p) { return plain_onebit(p, 7); }, 1e-6},
      {"onebit", {}, one, [](const Doubles& p) { return plain_onebit(p, 512); }, 1e-6}};
}

TEST(Compressor, SendsWhatItsEquationsSay) {
  for (const std::size_t n : {2u, 13u, 1500u})
    for (const Case& c : deterministic(n))
      for (std::uint32_t seed = 0; seed < 5; ++seed) {
        Made made(c.name, c.given, c.context);
        const Doubles p = random_vector(n, seed), expected = c.twin(p);
        const Doubles sent = made.decoded(made->encode(floats(p)));
        for (std::size_t i = 0; i < n; ++i)
          ASSERT_NEAR(sent[i], expected[i], c.tolerance * 16) << c.name << ", element " << i << " of " << n;
      }
}

// sent + residual = accumulated gradient, after every step: to the last bit where the numbers are exact.
TEST(Compressor, ConservesTheGradient) {
  for (const std::size_t n : {2u, 13u, 1500u})
    for (const Case& c : deterministic(n)) {
      if (c.name == "signsgd") continue;  // keeps no residual
      Made made(c.name, c.given, c.context);
      Doubles gradients(n), sent(n);
      Vector e(host_space(), n);
      for (std::uint32_t t = 0; t < 30; ++t) {
        const Doubles g = random_vector(n, t);
        gradients += g;
        made->accumulate(floats(g), e);
        const Bytes message = made->encode(e);
        made->settle(message, e);
        sent += made.decoded(message);
        for (std::size_t i = 0; i < n; ++i)
          ASSERT_NEAR(sent[i] + e.data()[i], gradients[i], c.tolerance * 200)
              << c.name << ", step " << t << ", element " << i << " of " << n;
      }
    }
}

// P = 2: a message goes to one other worker.
TEST(Compressor, TakesTheBytesOfItsFormula) {
  for (const std::size_t n : {2u, 14u, 1500u}) {
    std::vector<Case> cases = deterministic(n);
    for (const int bits : {2, 4, 8, 16})
      for (const int bucket : {1, 5, 512})
        cases.push_back({"qsgd",
                         {{"bits", integer(bits)}, {"bucket", integer(bucket)}},
                         {.parameters = n, .workers = 2},
                         nullptr});
    for (const Case& c : cases) {
      Made made(c.name, c.given, c.context);
      const bool twice = made.entry.collectives == 2;
      const Doubles p = random_vector(twice ? n / 2 : n, 1);  // a slice
      const double bytes = double(made->encode(floats(p)).size()) * (twice ? 2 : 1);
      if (made.entry.cost_is_bound)
        EXPECT_LE(bytes, made.cost()) << c.name << ", " << n;
      else
        EXPECT_EQ(bytes, made.cost()) << c.name << ", " << n;
    }
  }
}

// A 6 x 10 matrix and three biases: P is 6 x 2 with the biases, Q 10 x 2.
TEST(Compressor, PowerSgdSumsItsTwoFactors) {
  Context c{.parameters = 63, .workers = 2};
  c.optimizer.layers = {{.shape = {6, 10}, .first = 0, .count = 60}, {.shape = {3}, .first = 60, .count = 3}};
  const StrategyEntry& powersgd = *find_strategy("powersgd");
  const Settings settings(powersgd.parameters, {{"rank", integer(2)}});
  EXPECT_EQ(powersgd.cost(settings, c, 1).bytes_sent, 4 * (15 + 20));
}

// Errors of draws that all workers share would not shrink in the mean.
TEST(Compressor, WorkersDrawNumbersOfTheirOwn) {
  const Vector p = floats(random_vector(100, 1));
  std::set<Doubles> messages;
  for (const int rank : {0, 1, 2, 0}) {
    Made made("qsgd", {}, {.parameters = 100, .workers = 3, .rank = rank});
    messages.insert(made.decoded(made->encode(p)));
  }
  EXPECT_EQ(messages.size(), 3u);
}

TEST(Compressor, QsgdKeepsNoError) {
  Made made("qsgd", {}, {.parameters = 100, .workers = 2});
  Vector p = floats(random_vector(100, 1));
  made->settle(made->encode(p), p);
  EXPECT_EQ(dot(p.view(), p.view()), 0);
}

TEST(Compressor, SendsZerosAsAMessage) {
  for (const Case& c : deterministic(100)) {
    Made made(c.name, c.given, c.context);
    const Bytes message = made->encode(floats(Doubles(100)));
    EXPECT_FALSE(message.empty()) << c.name;
    EXPECT_EQ(made.decoded(message), c.name == "signsgd" ? Doubles(100, 1) : Doubles(100)) << c.name;
  }
}

// A run that diverges has to show it.
TEST(Compressor, ShowsWhatIsNotANumber) {
  for (const auto& [name, given] : std::map<std::string, Given>{
           {"topk", {{"density", 0.1}}}, {"qsgd", {}}, {"ef_signsgd", {}}, {"onebit", {}}, {"threshold", {}}})
    for (const double broken : {double(NAN), double(INFINITY), -double(INFINITY)}) {
      Made made(name, given, {.parameters = 20});
      Doubles p = random_vector(20, 1);
      p[7] = broken;
      EXPECT_FALSE(std::isfinite(made.decoded(made->encode(floats(p)))[7])) << name << ", " << broken;
    }
}

// A vote has no room for what is not a number: it counts as zero, as - and + in turn.
TEST(Compressor, SignsgdAbstainsWhereTheGradientIsNotANumber) {
  Made made("signsgd", {}, {.parameters = 20});
  Vector m(host_space(), 20);
  Doubles g(20);
  g[7] = NAN;
  double votes = 0;
  for (int t = 0; t < 4; ++t) {
    made->accumulate(floats(g), m);
    const Doubles signs = made.decoded(made->encode(m));
    EXPECT_EQ(signs[7], signs[6]) << "step " << t << ", beside a zero";
    votes += signs[7];
  }
  EXPECT_EQ(votes, 0);
}

Doubles qsgd_of(const Doubles& p, const Given& given, std::uint64_t seed) {
  Made made("qsgd", given, {.parameters = p.size(), .seed = seed});
  return made.decoded(made->encode(floats(p)));
}

// Every element becomes one of the two levels beside it.
TEST(Qsgd, RoundsToANeighbour) {
  const std::size_t n = 200, bucket = 16;
  for (const auto& norm : {"max"s, "l2"s})
    for (const int bits : {2, 4, 8}) {
      const Doubles p = random_vector(n, 3),
                    q = qsgd_of(p, {{"bits", integer(bits)}, {"bucket", integer(16)}, {"norm", norm}}, 1);
      for (std::size_t i = 0; i < n; ++i) {
        double most = 0, squares = 0;
        for (std::size_t j = i / bucket * bucket; j < std::min(n, i / bucket * bucket + bucket); ++j)
          most = std::max(most, std::abs(p[j])), squares += p[j] * p[j];
        const double unit = (norm == "max" ? most : std::sqrt(squares)) / ((1 << (bits - 1)) - 1);
        EXPECT_LT(std::abs(q[i] - p[i]), unit * 1.00001);
        EXPECT_NEAR(q[i] / unit, std::round(q[i] / unit), 1e-4);
        EXPECT_GE(q[i] * p[i], 0);
      }
    }
}

// The deviation of a draw is at most half a level, that of the mean of 400 seeds a fortieth; five of these.
TEST(Qsgd, IsUnbiased) {
  const std::size_t n = 64;
  for (const int bits : {2, 4}) {
    const Doubles p = random_vector(n, 4);
    Doubles sum(n);
    for (std::uint64_t seed = 1; seed <= 400; ++seed)
      sum += qsgd_of(p, {{"bits", integer(bits)}, {"bucket", integer(64)}}, seed);
    const double unit =
        std::abs(*std::max_element(p.begin(), p.end(),
                                   [](double a, double b) { return std::abs(a) < std::abs(b); })) /
        ((1 << (bits - 1)) - 1);
    for (std::size_t i = 0; i < n; ++i) EXPECT_NEAR(sum[i] / 400, p[i], 5 * unit / 40) << "element " << i;
  }
}

TEST(Qsgd, DrawsBySeedAndStep) {
  const Doubles p = random_vector(100, 5);
  EXPECT_EQ(qsgd_of(p, {}, 1), qsgd_of(p, {}, 1));
  EXPECT_NE(qsgd_of(p, {}, 1), qsgd_of(p, {}, 2));
  Made made("qsgd", {}, {.parameters = 100});
  const Bytes first = made->encode(floats(p));
  EXPECT_NE(made->encode(floats(p)), first);
}

TEST(Qsgd, LeavesLevelsAlone) {
  Doubles p{7, -7, 6, -5, 4, 3, -2, 1, 0};
  for (std::uint64_t seed = 1; seed <= 50; ++seed) EXPECT_EQ(qsgd_of(p, {}, seed), p);
}

// Lin et al. 2018, beside the equations: what is sent in each of six steps.
TEST(TopK, CorrectsMomentumClipsAndWarmsUp) {
  const std::size_t n = 1024;
  for (const auto rule : {Optimization::sgd, Optimization::momentum, Optimization::nesterov})
    for (const bool correction : {true, false})
      for (const bool masking : {true, false})
        for (const double clip : {0.0, 1.0}) {
          Context c{.parameters = n, .workers = 4};
          c.optimizer = {.rule = rule, .momentum = 0.5};
          Made made("topk",
                    {{"density", 1.0 / 512},
                     {"momentum_correction", correction},
                     {"masking", masking},
                     {"clip", clip},
                     {"warmup_steps", integer(4)}},
                    c);
          Vector e(host_space(), n);
          Doubles u(n), v(n);
          const std::size_t sent_elements[] = {256, 64, 16, 4, 2, 2};
          for (int t = 0; t < 6; ++t) {
            Doubles g = random_vector(n, std::uint32_t(t));
            for (std::size_t i = 0; i < n && clip > 0; ++i) g[i] *= 1 + 0.001 * double(i);  // no near ties
            made->accumulate(floats(g), e);
            const Bytes message = made->encode(e);
            made->settle(message, e);
            const double length = PlainOptimizer::norm(g, 0, n);
            if (clip > 0) g = std::min(1.0, clip / 2 / length) * g;  // sqrt(4) = 2
            if (correction && rule == Optimization::momentum) {
              u = 0.5 * u + g;
              v += u;
            } else if (correction && rule == Optimization::nesterov) {
              u = 0.5 * (u + g);
              v = v + u + g;
            } else {
              v += g;
            }
            const Doubles sent = plain_topk(v, sent_elements[t]);
            for (std::size_t i = 0; i < n; ++i)
              if (sent[i] != 0) {
                v[i] = 0;
                if (masking) u[i] = 0;
              }
            const Doubles decoded = made.decoded(message);
            for (std::size_t i = 0; i < n; ++i)
              ASSERT_NEAR(decoded[i], sent[i], clip > 0 ? 1e-6 : 0)
                  << "rule " << int(rule) << ", step " << t << ", element " << i;
          }
        }
}

// A residual that is carried into a new compressor goes on to the same messages.
// What orthogonalisation leaves of a column that lies in the span of those before it is rounding.
TEST(LowRank, DropsColumnsThatAreNothingButRounding) {
  LowRank low_rank({{.shape = {7, 5}, .first = 0, .count = 35}}, 35, 2);
  Vector p(host_space(), 14);
  for (std::size_t i = 0; i < 7; ++i) {
    p.data()[2 * i] = 0.1f + 0.37f * float(i);
    p.data()[2 * i + 1] = 0.3f * p.data()[2 * i];
  }
  low_rank.orthonormalise(p);
  double length = 0;
  for (std::size_t i = 0; i < 7; ++i) {
    length += std::pow(double(p.data()[2 * i]), 2);
    EXPECT_EQ(p.data()[2 * i + 1], 0) << i;
  }
  EXPECT_NEAR(length, 1, 1e-6);
}

TEST(Compressor, ContinuesFromACheckpoint) {
  for (const auto& name : {"topk"s, "qsgd"s, "threshold"s, "signsgd"s, "ef_signsgd"s, "onebit"s}) {
    Context c{.parameters = 100};
    c.optimizer.rule = Optimization::momentum;
    Made first(name, find_strategy(name)->tests.conformance, c),
        second(name, find_strategy(name)->tests.conformance, c);
    Vector e(host_space(), 100);
    for (std::uint32_t t = 0; t < 6; ++t) {
      first->accumulate(floats(random_vector(100, t)), e);
      first->settle(first->encode(e), e);
    }
    Vector copied(host_space(), 100);
    copy(e, copied);
    carry_over(*first.made, *second.made);
    for (std::uint32_t t = 6; t < 9; ++t) {
      first->accumulate(floats(random_vector(100, t)), e);
      second->accumulate(floats(random_vector(100, t)), copied);
      const Bytes a = first->encode(e), b = second->encode(copied);
      EXPECT_EQ(a, b) << name << ", step " << t;
      first->settle(a, e);
      second->settle(b, copied);
    }
  }
}

}  // namespace
}  // namespace dsgd::test
