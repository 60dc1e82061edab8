// SPDX-License-Identifier: Apache-2.0
// What only a GPU has: its memory, graphs of steps, samples that stay there, losses that come late. Its
// layers and models are tested with those of all devices (layers_test, model_test).

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <random>

#include "model.h"
#include "optimizer.h"

// What a host has given to streams so far, where a twin counts it.
extern "C" [[gnu::weak]] std::size_t cuda_twin_launches();

namespace dsgd {
namespace {

std::vector<float> uniform(std::size_t n, unsigned seed, float low = -1, float high = 1) {
  std::mt19937 bits(seed);
  std::vector<float> v(n);
  for (auto& x : v) x = low + (high - low) * float(bits()) / 4294967296.0f;
  return v;
}

Vector vector(const Space& space, const std::vector<float>& from) {
  Vector v(space, from.size());
  space.from_host(from.data(), v.data(), from.size());
  return v;
}

std::vector<float> values(ConstVec v) {
  std::vector<float> all(v.size);
  v.space->to_host(v.data, all.data(), v.size);
  return all;
}

// Not a number equals itself here.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double(a[i]) - b[i], 2);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    const DeviceEntry* entry = find_device("cudnn");
    ASSERT_NE(entry, nullptr);
    if (const auto reason = entry->unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    device = entry->make();
  }
  const Space& space() const { return device->space(); }
  std::unique_ptr<Device> device;
};

constexpr std::size_t sizes[] = {0, 1, 3, 255, 256, 257, 1000, 65537, 1000003};

TEST_F(Gpu, BringsVectorsThereAndBack) {
  for (const std::size_t n : sizes) {
    const auto x = uniform(n, 1);
    const Vector there = vector(space(), x);
    Vector copied(space(), n), here(host_space(), n);
    EXPECT_TRUE(same_bits(values(copied), std::vector<float>(n))) << "born as zeros";
    copy(there, copied);
    copy(copied, here);
    EXPECT_TRUE(same_bits(values(here), x)) << n;
  }
}

TEST_F(Gpu, SaysWhatHasNoRoom) {
  try {
    const Vector too_long(space(), std::size_t(1) << 39);  // 2 TiB
    ADD_FAILURE() << "there was room";
  } catch (const std::runtime_error& e) {
    EXPECT_EQ(std::string(e.what()).rfind("the GPU has no room for 2097152 MB more (", 0), 0u) << e.what();
  }
  Vector v(space(), 1);  // and goes on
  fill(1, v.view());
  EXPECT_EQ(values(v)[0], 1);
}

TEST_F(Gpu, GivesTheHostsBits) {
  using Operation = void (*)(const Space&, std::vector<Vec>&);
  const std::pair<const char*, Operation> operations[] = {
      {"fill", [](auto& s, auto& v) { s.fill(0.3f, v[0].data, v[0].size); }},
      {"scale", [](auto& s, auto& v) { s.scale(0.3f, v[0].data, v[0].size); }},
      {"axpy", [](auto& s, auto& v) { s.axpy(0.3f, v[1].data, v[0].data, v[0].size); }},
      {"compensate",
       [](auto& s, auto& v) {
         s.compensate({0.3f, 0.9f, 1e-7f}, v[1].data, v[2].data, v[3].data, nullptr, v[0].data, v[0].size);
       }},
      {"compensate adaptively",
       [](auto& s, auto& v) {
         s.compensate({0.3f, 0.9f, 1e-7f}, v[1].data, v[2].data, v[3].data, v[4].data, v[0].data, v[0].size);
       }},
      {"divide by the deviation",
       [](auto& s, auto& v) {
         s.divide_by_deviation({0.9f, 0.8f, 1e-4f, false}, v[1].data, v[4].data, v[3].data, v[5].data,
                               v[0].data, v[0].size);
       }},
      {"divide by its inverse",
       [](auto& s, auto& v) {
         s.divide_by_deviation({0.9f, 0.8f, 1e-4f, true}, v[1].data, v[4].data, v[3].data, v[5].data,
                               v[0].data, v[0].size);
       }},
      {"divide by the magnitude",
       [](auto& s, auto& v) {
         s.divide_by_magnitude(0.9f, 1e-8f, v[1].data, v[4].data, v[0].data, v[0].size);
       }},
  };
  for (const auto& [name, operation] : operations)
    for (const std::size_t n : sizes) {
      std::vector<Vector> here, there;
      std::vector<Vec> h, t;
      for (unsigned k = 0; k < 6; ++k) {  // the last two are positive
        const auto x = uniform(n, 10 + k, k < 4 ? -1 : 0.1f);
        here.push_back(vector(host_space(), x));
        there.push_back(vector(space(), x));
        h.push_back(here.back());
        t.push_back(there.back());
      }
      for (int times = 0; times < 2; ++times) {
        operation(host_space(), h);
        operation(space(), t);
      }
      for (std::size_t k = 0; k < h.size(); ++k)
        EXPECT_TRUE(same_bits(values(h[k]), values(t[k]))) << name << ", " << n << " elements, vector " << k;
    }
}

TEST_F(Gpu, UpdatesWithTheHostsBits) {
  for (const std::string& rule : optimizer_rules()) {
    if (rule == "lars") continue;  // its norms are sums in another order
    for (const std::size_t n : sizes) {
      OptimizerSettings settings;
      settings.rule = optimizer_rule(rule);
      settings.l2 = 1e-3;
      Optimizer here(settings, host_space(), n), there(settings, space(), n);
      const Vector a = vector(host_space(), uniform(n, 1)), b = vector(space(), uniform(n, 1));
      for (unsigned t = 0; t < 5; ++t) {
        const auto g = uniform(n, 2 + t);
        here.step(a.view(), vector(host_space(), g), 0.125, 0);
        there.step(b.view(), vector(space(), g), 0.125, 0);
      }
      EXPECT_TRUE(same_bits(values(a), values(b))) << rule << ", " << n << " elements";
      EXPECT_TRUE(same_bits(values(here.state()), values(there.state()))) << rule << ", " << n << " elements";
    }
  }
}

TEST_F(Gpu, AddsProductsInDoublePrecision) {
  for (const std::size_t n : sizes) {
    const auto x = uniform(n, 1), y = uniform(n, 2);
    const Vector a = vector(space(), x), b = vector(space(), y), c = vector(host_space(), x),
                 d = vector(host_space(), y);
    const double there = dot(a, b);
    EXPECT_NEAR(there, dot(c, d), 1e-13 * double(n)) << n;
    for (int times = 0; times < 3; ++times) EXPECT_EQ(dot(a, b), there) << n;
  }
}

// Images with noise, so that all gradients are there.
Samples noise(const Shape& shape, std::size_t count, bool normalised = false) {
  Samples s{.shape = shape, .classes = 10, .count = count};
  std::mt19937 bits(3);
  for (std::size_t i = 0; i < count * shape.size(); ++i) s.pixels.push_back(std::uint8_t(bits()));
  for (std::size_t i = 0; i < count; ++i) s.labels.push_back(std::uint8_t(bits() % 10));
  for (int c = 0; normalised && c < shape.channels; ++c) s.channels.push_back({0.01f, -0.5f - float(c)});
  return s;
}

std::vector<std::uint32_t> some(std::size_t count, std::size_t of, unsigned seed) {
  std::mt19937 bits(seed);
  std::vector<std::uint32_t> ids(count);
  for (auto& id : ids) id = std::uint32_t(bits() % of);
  return ids;
}

Vector initial(const Space& space, const Network& net) {
  Vector here(host_space(), parameters(net)), there(space, parameters(net));
  initialise(net, 1, here);
  copy(here, there);
  return there;
}

// The first gradient with some vectors is computed step by step, the second is captured, the third replayed.
TEST_F(Gpu, ReplaysWhatItWouldCompute) {
  const Samples data = noise({3, 20, 20}, 500);
  for (const char* model : {"lenet", "cifar_quick", "resnet20", "dnn"}) {
    SCOPED_TRACE(model);
    const Network net = find_model(model)->make(data.shape, 10);
    Model eager(net, *device, 13), replayed(net, *device, 13);
    const Vector w = initial(space(), net);
    std::vector<Vector> others;
    Vector g(space(), w.size());
    for (unsigned t = 0; t < 6; ++t) {
      const auto ids = some(t == 4 ? 5 : 13, 500, t);
      others.emplace_back(space(), w.size());  // seen for the first time
      fill(NAN, others.back());
      fill(NAN, g);
      const Loss expected = eager.gradient(w, data, ids, others.back()),
                 loss = replayed.gradient(w, data, ids, g);
      EXPECT_EQ(loss.sum, expected.sum);
      EXPECT_EQ(loss.correct, expected.correct);
      EXPECT_TRUE(same_bits(values(g), values(others.back()))) << "step " << t;
    }
  }
}

// Gradient and step of the optimizer in one graph, against a gradient that is not captured and the step
// behind it: rates that change, minibatches of several sizes, changed samples, a gradient at w or elsewhere.
// One model and one w serve all rules, and each rule twice, with another state.
TEST_F(Gpu, DescendsByGradientAndStep) {
  const Samples data = noise({3, 12, 9}, 200);
  const Network net{"small", data.shape, {Conv2d{5, 3}, BatchNorm{}, Relu{}, MaxPool{2, 2}, Dense{10}}};
  struct Way {
    Precision precision;
    Schedule schedule;
    bool elsewhere;
  };
  const Way ways[] = {
      {Precision::fp32, {.kind = Schedule::Kind::step, .samples = 20, .factor = 0.5}, false},
      {Precision::bf16, {.kind = Schedule::Kind::warmup, .samples = 60, .factor = 0.1}, true}};
  const auto& rules = optimizer_rules();
  for (const auto& [precision, schedule, elsewhere] : ways) {
    const auto gpu = find_device("cudnn")->make(precision);
    Model eager(net, *gpu, 13), replayed(net, *gpu, 13);
    const Vector start = initial(space(), net);
    const std::size_t n = start.size();
    Vector should(space(), n), is(space(), n), g(space(), n);
    std::deque<Vector> others;
    std::deque<Optimizer> optimizers;  // all of them stay: addresses do not come back
    for (std::size_t k = 0; k < 2 * rules.size(); ++k) {
      const std::string& rule = rules[k % rules.size()];
      SCOPED_TRACE(testing::Message() << rule << (elsewhere ? ", elsewhere in bf16" : ""));
      OptimizerSettings settings{.rule = optimizer_rule(rule), .learning_rate = 0.05, .l2 = 1e-3};
      settings.schedule = schedule;
      Optimizer& step = optimizers.emplace_back(settings, space(), n);
      Optimizer& next = optimizers.emplace_back(settings, space(), n);
      copy(start, should);
      copy(start, is);
      std::int64_t used = 0;
      unsigned t = 0;
      for (const std::size_t count : {13, 13, 13, 5, 13, 1, 0, 13, 2}) {
        const auto ids = some(count, 200, ++t);
        const Augmentation how{.crop_flip = t % 3 == 0, .seed = 5, .epoch = 2};
        const double scale = 1.0 / double(std::max<std::size_t>(count, 1));
        const Vec other = others.emplace_back(space(), n);  // seen for the first time
        const Loss expected = eager.gradient(elsewhere ? start : should, data, ids, other, how);
        step.step(should, other, scale, used);
        const auto descent = next.next(is, scale, used);
        ASSERT_EQ(descent.has_value(), rule != "lars");
        if (!descent) break;
        fill(NAN, g);
        const std::size_t before = cuda_twin_launches ? cuda_twin_launches() : 0;
        PendingLoss loss = replayed.begin_descent(elsewhere ? start : is, data, ids, g, how, *descent);
        if (cuda_twin_launches && t > 1 && count > 0) {
          EXPECT_EQ(cuda_twin_launches() - before, 2u) << "a copy and a graph";
        }
        EXPECT_EQ(loss.get().sum, expected.sum);
        EXPECT_TRUE(same_bits(values(g), values(other))) << "gradient of step " << t;
        EXPECT_TRUE(same_bits(values(is), values(should))) << "weights after step " << t;
        EXPECT_TRUE(same_bits(values(next.state()), values(step.state()))) << "state after step " << t;
        EXPECT_EQ(next.updates(), step.updates());
        used += std::int64_t(count);
      }
    }
  }
}

// Two models that share a state, now by one rule and now by another: nothing of a graph serves the others.
TEST_F(Gpu, DescendsAsItIsAskedTo) {
  const Samples data = noise({1, 5, 5}, 50);
  const Network net{"dense", data.shape, {Dense{10}}};
  Model eager(net, *device, 8), replayed(net, *device, 8);
  const Vector at = initial(space(), net);
  const std::size_t n = at.size();
  const Vector is[] = {initial(space(), net), initial(space(), net)},
               should[] = {initial(space(), net), initial(space(), net)};
  OptimizerSettings settings{.rule = OptimizerSettings::Rule::momentum};
  Optimizer one(settings, space(), n), other(settings, space(), n);
  Vector g(space(), n), h(space(), n);
  for (unsigned t = 0; t < 16; ++t) {
    const auto ids = some(8, 50, t);
    Descent a = *one.next(is[t % 2].view(), 0.125, 0), b = *other.next(should[t % 2].view(), 0.125, 0);
    a.rule = b.rule = t / 2 % 2 ? OptimizerSettings::Rule::nesterov : OptimizerSettings::Rule::momentum;
    replayed.begin_descent(at, data, ids, g, {}, a);
    eager.gradient(at, data, ids, h);
    b.make(h);
    for (int k : {0, 1}) EXPECT_TRUE(same_bits(values(is[k]), values(should[k]))) << k << ", step " << t;
  }
}

// Whose weights, gradients and states take turns with one model, as simulated workers' do: each has its own
// graph. Vectors in the host's memory, and those that are not aligned, are updated, too.
TEST_F(Gpu, DescendsInTurns) {
  const Samples data = noise({1, 28, 28}, 100);
  const Network net = find_model("lenet")->make(data.shape, 10);
  const std::size_t n = parameters(net);
  Model model(net, *device, 4), eager(net, *device, 4);
  struct Learner {
    Learner(const Space& s, const OptimizerSettings& settings, std::size_t count, std::size_t shift)
        : optimizer(settings, s, count), w(s, count + shift), g(s, count + shift), at(shift), size(count) {}
    Vec weights() const { return w.view().part(at, size); }
    Optimizer optimizer;
    Vector w, g;
    std::size_t at, size;
  };
  std::vector<Learner> learners, twins;
  for (const char* rule : {"momentum", "nesterov", "adam", "sgd"})
    for (const std::size_t shift : {0, 1}) {
      OptimizerSettings settings{.rule = optimizer_rule(rule), .learning_rate = 0.01};
      const Space& where = rule == std::string("sgd") ? host_space() : space();
      for (auto* all : {&learners, &twins}) {
        all->emplace_back(where, settings, n, shift);
        copy(vector(where, values(initial(space(), net))), all->back().weights());
      }
    }
  for (unsigned t = 0; t < 4; ++t)
    for (std::size_t k = 0; k < learners.size(); ++k) {
      Learner &one = learners[k], &other = twins[k];
      const auto ids = some(t == 2 ? 3 : 4, 100, 10 * t + unsigned(k));
      const double scale = 1.0 / double(ids.size());
      const Vec g = one.g.view().part(one.at, n), h = other.g.view().part(other.at, n);
      model.begin_descent(one.weights(), data, ids, g, {}, *one.optimizer.next(one.weights(), scale, 0));
      eager.gradient(other.weights(), data, ids, h);
      other.optimizer.step(other.weights(), h, scale, 0);
      EXPECT_TRUE(same_bits(values(one.weights()), values(other.weights())))
          << "learner " << k << ", step " << t;
    }
}

// Samples that stay on the GPU against those that the host gathers, changed and scaled in the same ways.
TEST_F(Gpu, GathersAsTheHostDoes) {
  for (const bool normalised : {false, true}) {
    const Samples data = noise({3, 12, 9}, 200, normalised);
    const Network net{"dense", data.shape, {Dense{10}}};
    Model model(net, *device, 33);
    const auto plan = device->plan(net, 33);
    const Vector w = initial(space(), net);
    Vector is(space(), w.size()), should(space(), w.size());
    for (const bool changed : {false, true}) {
      const Augmentation how{.crop_flip = changed, .seed = 5, .epoch = 2};
      for (const int n : {33, 7}) {
        const auto ids = some(std::size_t(n), 200, unsigned(n));
        std::vector<float> x(std::size_t(n) * data.shape.size());
        std::vector<std::uint8_t> labels(ids.size());
        gather(data, ids, x.data(), labels.data(), how);
        const Loss loss = model.gradient(w, data, ids, is, how),
                   expected = plan->gradient(w, x.data(), labels.data(), n, should);
        EXPECT_NEAR(loss.sum / expected.sum, 1, 1e-12);
        EXPECT_EQ(loss.correct, expected.correct);
        EXPECT_LT(distance(values(is), values(should)), 1e-6) << normalised << changed << n;
      }
    }
  }
}

TEST_F(Gpu, TellsLossesLate) {
  const Samples data = noise({1, 28, 28}, 300);
  const Network net = find_model("lenet")->make(data.shape, 10);
  Model model(net, *device, 16);
  const Vector w = initial(space(), net);
  Vector g(space(), w.size());
  std::vector<Loss> expected;
  std::vector<PendingLoss> late;
  for (unsigned t = 0; t < 40; ++t) expected.push_back(model.gradient(w, data, some(16, 300, t), g));
  for (unsigned t = 0; t < 40; ++t) late.push_back(model.begin_gradient(w, data, some(16, 300, t), g));
  for (const unsigned t : {39u, 0u, 20u, 38u}) EXPECT_EQ(late[t].get().sum, expected[t].sum) << t;
}

TEST_F(Gpu, TakesVectorsOfTheHost) {
  const Samples data = noise({1, 28, 28}, 100);
  const Network net = find_model("lenet")->make(data.shape, 10);
  Model model(net, *device, 16);
  const Vector w = initial(space(), net), here = vector(host_space(), values(w));
  Vector g(space(), w.size()), back(host_space(), w.size()), unaligned(space(), w.size() + 1);
  for (int times = 0; times < 3; ++times) {
    const auto ids = some(16, 100, unsigned(times));
    model.gradient(w, data, ids, g);
    model.gradient(here, data, ids, back);
    EXPECT_TRUE(same_bits(values(g), values(back)));
    model.gradient(w, data, ids, unaligned.view().part(1, w.size()));
    EXPECT_TRUE(same_bits(values(g), values(unaligned.view().part(1, w.size()))));
  }
}

// Two sets of samples, of which one ends: what the GPU keeps of it must not serve another.
TEST_F(Gpu, KeepsSetsApart) {
  const Network net{"dense", {1, 5, 5}, {Dense{10}}};
  Model model(net, *device, 8);
  const Vector w = initial(space(), net);
  Vector g(space(), w.size());
  const auto ids = some(8, 20, 1);
  for (int times = 0; times < 4; ++times) {
    Samples data = noise({1, 5, 5}, 20, times % 2);
    if (times > 1)
      for (auto& p : data.pixels) p = std::uint8_t(255 - p);
    const Loss loss = model.gradient(w, data, ids, g);
    const auto reference = find_device("reference")->make();
    Model truth(net, *reference, 8);
    Vector should(host_space(), w.size());
    const Vector here = vector(host_space(), values(w));
    EXPECT_NEAR(loss.sum / truth.gradient(here, data, ids, should).sum, 1, 1e-5) << times;
    EXPECT_LT(distance(values(g), values(should)), 1e-5) << times;
  }
}

// A training of a few steps against the reference's.
TEST_F(Gpu, LearnsInEveryPrecision) {
  const Samples data = noise({1, 28, 28}, 64);
  const Network net = find_model("lenet")->make(data.shape, 10);
  const auto reference = find_device("reference")->make();
  const std::tuple<Precision, double> precisions[] = {
      {Precision::fp32, 1e-5}, {Precision::tf32, 3e-3}, {Precision::bf16, 2e-2}};
  OptimizerSettings settings;
  settings.rule = OptimizerSettings::Rule::momentum;
  settings.learning_rate = 0.01;
  const auto losses = [&](Device& on) {
    Model model(net, on, 16);
    const Vector w = initial(on.space(), net);
    Vector g(on.space(), w.size());
    Optimizer optimizer(settings, on.space(), w.size());
    std::vector<double> all;
    for (unsigned t = 0; t < 8; ++t) {
      all.push_back(model.gradient(w, data, some(16, 64, t), g).sum);
      optimizer.step(w.view(), g, 1.0 / 16, 0);
    }
    return all;
  };
  const auto expected = losses(*reference);
  for (const auto& [precision, tolerance] : precisions) {
    const auto gpu = find_device("cudnn")->make(precision);
    const auto is = losses(*gpu);
    for (std::size_t t = 0; t < is.size(); ++t) EXPECT_NEAR(is[t] / expected[t], 1, tolerance) << t;
  }
}

TEST(Precisions, Tf32IsRefusedByHosts) {
  for (const char* name : {"reference", "cpu"})
    EXPECT_FALSE(find_device(name)->unavailable(Precision::tf32).empty()) << name;
}

}  // namespace
}  // namespace dsgd
