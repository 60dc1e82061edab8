// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>

#include "optimizer.h"

// Every allocation while `counting`, by who asked for it: oneDNN keeps small lists of its own during a call,
// and what CUDA's libraries and driver keep is theirs.
namespace {

std::atomic<bool> counting = false;
std::atomic<long> ours = 0, onednns = 0, onednn_bytes = 0;

[[maybe_unused]] void count(std::size_t size, const void* caller) {
  if (!counting.exchange(false)) return;  // and not what is asked for in here
  Dl_info info{};
  const std::string_view who = dladdr(caller, &info) && info.dli_fname ? info.dli_fname : "";
  const auto in = [&](const char* library) { return who.find(library) != std::string_view::npos; };
  if (in("/libdnnl")) {
    ++onednns;
    onednn_bytes += long(size);
  } else if (!in("/libcu") && !in("/libnvidia")) {
    ++ours;
  }
  counting = true;
}

}  // namespace

#if !defined(__SANITIZE_ADDRESS__)
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t size) {
  count(size, __builtin_return_address(0));
  return __libc_malloc(size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  count(size, __builtin_return_address(0));
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** to, std::size_t alignment, std::size_t size) {
  count(size, __builtin_return_address(0));
  *to = __libc_memalign(alignment, size);
  return *to ? 0 : 12;
}
}
[[gnu::noinline]] void* operator new(std::size_t size) {
  count(size, __builtin_return_address(0));
  if (void* p = __libc_malloc(size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  count(size, __builtin_return_address(0));
  if (void* p = __libc_memalign(std::size_t(alignment), size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace dsgd {
namespace {

// A task that can be learned: the image of class k has a bright square at a place of its own, over noise.
Samples squares(const Shape& shape, std::size_t count, std::uint32_t seed = 1) {
  Samples s{shape, 10, count, std::vector<std::uint8_t>(count * shape.size()),
            std::vector<std::uint8_t>(count)};
  std::uint32_t state = seed;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 24; };
  for (auto& p : s.pixels) p = std::uint8_t(next() / 2);
  for (std::size_t i = 0; i < count; ++i) {
    const int label = int(i * 7 % 10), top = label / 5 * (shape.height / 2),
              left = label % 5 * (shape.width / 5);
    s.labels[i] = std::uint8_t(label);
    for (int c = 0; c < shape.channels; ++c)
      for (int r = top; r < top + 5; ++r)
        for (int k = left; k < left + 5; ++k)
          s.pixels[((i * shape.channels + c) * shape.height + r) * shape.width + k] = 255;
  }
  return s;
}

std::vector<std::uint32_t> numbers(std::uint32_t first, std::size_t count) {
  std::vector<std::uint32_t> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

double distance(ConstVec a, ConstVec b) {
  double difference = 0;
  for (std::size_t i = 0; i < a.size; ++i) difference += std::pow(double(a.data[i]) - b.data[i], 2);
  return std::sqrt(difference / dot(b, b));
}

Vector initial(const Network& net, std::uint64_t seed) {
  Vector w(host_space(), parameters(net));
  initialise(net, seed, w);
  return w;
}

class OnDevice : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const DeviceEntry* entry = find_device(GetParam());
    ASSERT_NE(entry, nullptr);
    if (const auto reason = entry->unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    device_ = entry->make();
  }
  std::unique_ptr<Device> device_;
};

TEST(Zoo, HasTheModelsAsPublished) {
  struct Expected {
    std::string name;
    std::size_t layers, parameters;
    Shape input = {1, 28, 28};
  };
  const std::vector<Expected> expected{{"softmax", 1, 7850},
                                       {"mlp", 5, 1863690},
                                       {"dnn", 7, 1665010},
                                       {"lenet", 9, 67780},
                                       {"cifar_quick", 11, 145578, {3, 32, 32}},
                                       {"resnet20", 68, 269722, {3, 32, 32}}};
  for (const auto& [name, layers, size, input] : expected) {
    const ModelEntry* entry = find_model(name);
    ASSERT_NE(entry, nullptr) << name;
    const Network net = entry->make(input, 10);
    EXPECT_EQ(net.name, name);
    EXPECT_EQ(net.layers.size(), layers) << name;
    EXPECT_EQ(parameters(net), size) << name;
    EXPECT_EQ(place(net).back().out, (Shape{10, 1, 1}));
    EXPECT_EQ(entry->batch_norm, normalised_channels(net) > 0) << name;
  }
  EXPECT_EQ(all_models().size(), expected.size());
  EXPECT_EQ(find_model("alexnet"), nullptr);
  EXPECT_EQ(flops_per_sample(find_model("lenet")->make({1, 28, 28}, 10)),
            2.0 * (2 * 288000 + 3 * (400000 + 40000 + 2000)));
  // Multiplications of stride 1 by stage, then the two convolutions that lead to the next, then the classes.
  EXPECT_EQ(flops_per_sample(find_model("resnet20")->make({3, 32, 32}, 10)),
            2.0 * (2 * 442368 + 3 * (6 * 2359296 + 5 * 2359296 + 5 * 2359296 + 2 * 1179648 + 640)));
}

TEST(Zoo, SaysWhyAModelDoesNotFitTheData) {
  try {
    find_model("lenet")->make({1, 8, 8}, 10);
    FAIL() << "no exception";
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(),
                 "lenet does not fit: layer 4, conv 5x5x50 stride 2, cannot take 20x2x2 (the network's input "
                 "is 1x8x8)");
  }
  EXPECT_THROW(find_model("mlp")->make({1, 28, 28}, 0), std::invalid_argument);
  EXPECT_THROW(find_model("resnet20")->make({3, 32, 28}, 10), std::invalid_argument);
}

TEST(Initialise, IsTheSameForTheSameSeed) {
  const Network net = find_model("lenet")->make({1, 28, 28}, 10);
  const Vector a = initial(net, 7), b = initial(net, 7), c = initial(net, 8);
  EXPECT_TRUE(std::equal(a.data(), a.data() + a.size(), b.data()));
  EXPECT_FALSE(std::equal(a.data(), a.data() + 25, c.data()));
  // Also on other hosts, today and tomorrow.
  const float golden[] = {-0.060027882f, 0.08981555f, -0.053219121f, 0.05416837f};
  for (int i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(a.data()[i], golden[i]);
  Vector small(host_space(), 3);
  EXPECT_THROW(initialise(net, 7, small), std::invalid_argument);
}

TEST(Initialise, HasXaviersMoments) {
  const Network net = find_model("lenet")->make({1, 28, 28}, 10);
  // fan_in + fan_out; the second convolution's fan_out is 50*25 outputs of each input, less by the stride
  // squared.
  const double fans[] = {25 + 500, 500 + 312.5, 200 + 200, 200 + 10};
  const Vector w = initial(net, 1);
  int layer = 0;
  for (const auto& e : extents(net)) {
    const float* v = w.data() + e.first;
    if (e.name == "bias") {
      EXPECT_TRUE(std::all_of(v, v + e.count, [](float x) { return x == 0; }));
      continue;
    }
    const double variance = 2 / fans[layer++], n = double(e.count);
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < e.count; ++i) {
      sum += v[i];
      squares += double(v[i]) * v[i];
    }
    // Within four standard errors of a normal distribution's.
    EXPECT_LT(std::abs(sum / n), 4 * std::sqrt(variance / n)) << "layer " << e.layer;
    EXPECT_LT(std::abs(squares / n / variance - 1), 4 * std::sqrt(2 / n)) << "layer " << e.layer;
  }
  EXPECT_EQ(layer, 4);
}

TEST(Initialise, LetsBatchNormBegin) {
  const Network net = find_model("resnet20")->make({3, 8, 8}, 10);
  const Vector w = initial(net, 1);
  for (const auto& e : extents(net)) {
    const float* v = w.data() + e.first;
    if (e.name == "weights") continue;
    const bool begun = std::all_of(v, v + e.count, [&](float x) { return x == (e.name == "scale"); });
    EXPECT_TRUE(begun) << e.name << " of layer " << e.layer;
  }
}

TEST_P(OnDevice, FollowsTheGoldenTrajectory) {
  const double golden[] = {2.34123893, 2.31694709, 2.30292694, 2.25698217, 2.24976129,
                           2.18783572, 1.96563128, 1.90704956, 1.88938536, 1.47665858};
  // Sums in another order differ by about 1e-7, and training lets them drift apart.
  const double tolerance = GetParam() == "reference" ? 1e-6 : 1e-5;
  const Samples data = squares({1, 28, 28}, 80);
  const Network net = find_model("lenet")->make(data.shape, data.classes);
  Model model(net, *device_, 8);
  Vector w = initial(net, 1), g(host_space(), w.size());
  OptimizerSettings settings;
  settings.learning_rate = 0.5;
  Optimizer sgd(settings, host_space(), w.size());
  for (int t = 0; t < 10; ++t) {
    const Loss loss = model.gradient(w, data, numbers(std::uint32_t(t * 8), 8), g);
    EXPECT_NEAR(loss.sum / 8 / golden[t], 1, tolerance) << "step " << t;
    sgd.step(w, g, 1.0 / 8, t * 8);
  }
}

TEST_P(OnDevice, AddsUpSampleByHowManyThereAre) {
  const Samples data = squares({1, 20, 20}, 75);
  const Network net = find_model("lenet")->make(data.shape, data.classes);
  const Vector w = initial(net, 1);
  Vector one(host_space(), w.size()), sum(host_space(), w.size()), all(host_space(), w.size());
  Model single(net, *device_, 1), model(net, *device_, 75);
  Loss expected;
  for (std::uint32_t id : numbers(0, 75)) {
    expected += single.gradient(w, data, {&id, 1}, one);
    axpy(1, one, sum);
  }
  fill(NAN, all);
  const Loss loss = model.gradient(w, data, numbers(0, 75), all);
  EXPECT_NEAR(loss.sum / expected.sum, 1, 1e-6);
  EXPECT_EQ(loss.correct, expected.correct);
  EXPECT_LT(distance(all, sum), 1e-5);

  const Loss score = model.score(w, data, 0, 75), parts = [&] {
    Loss l = model.score(w, data, 0, 1);
    l += model.score(w, data, 1, 70);
    return l += model.score(w, data, 70, 75);
  }();
  EXPECT_NEAR(score.sum / expected.sum, 1, 1e-6);
  EXPECT_EQ(score.correct, expected.correct);
  EXPECT_NEAR(parts.sum / expected.sum, 1, 1e-6);
  EXPECT_EQ(parts.correct, expected.correct);
  EXPECT_EQ(model.score(w, data, 5, 5).sum, 0);
}

TEST_P(OnDevice, AugmentsWhatItTrainsOnNotWhatItScores) {
  const Samples data = squares({1, 20, 20}, 75);
  const Network net = find_model("lenet")->make(data.shape, data.classes);
  const Vector w = initial(net, 1);
  Vector g(host_space(), w.size());
  Model single(net, *device_, 1), model(net, *device_, 75);
  const Augmentation how{true, 1, 3};
  const Loss plain = model.gradient(w, data, numbers(0, 75), g);
  const Loss loss = model.gradient(w, data, numbers(0, 75), g, how), score = model.score(w, data, 0, 75);
  Loss expected;
  for (std::uint32_t id : numbers(0, 75)) expected += single.gradient(w, data, {&id, 1}, g, how);
  EXPECT_NEAR(loss.sum / expected.sum, 1, 1e-6);
  EXPECT_GT(std::abs(loss.sum / plain.sum - 1), 1e-4);
  EXPECT_NEAR(score.sum / plain.sum, 1, 1e-6);
  EXPECT_EQ(score.correct, plain.correct);
}

Network normalised(const Shape& shape) {
  return {"normalised",
          shape,
          {Conv2d{6, 3, 2, 1, false}, BatchNorm{}, Relu{}, Conv2d{6, 3, 1, 1, false}, BatchNorm{},
           Shortcut{2}, Relu{}, Dense{10}}};
}

TEST_P(OnDevice, NormalisesWithTheWholeMinibatch) {
  const Samples data = squares({2, 14, 14}, 75);
  const Network net = normalised(data.shape);
  const Vector w = initial(net, 1);
  Vector is(host_space(), w.size()), should(host_space(), w.size());
  const auto reference = find_device("reference")->make();
  Model model(net, *device_, 75), truth(net, *reference, 75);
  for (const int n : {75, 33, 2}) {
    const Loss loss = model.gradient(w, data, numbers(0, n), is),
               expected = truth.gradient(w, data, numbers(0, n), should);
    EXPECT_NEAR(loss.sum / expected.sum, 1, 1e-6) << n;
    EXPECT_LT(distance(is, should), 1e-4) << n;
  }
}

TEST_P(OnDevice, ScoresWithTheStatisticsOfExactlyTheseWeights) {
  const Samples data = squares({2, 14, 14}, 40);
  const Network net = normalised(data.shape);
  const Vector w = initial(net, 1);
  Vector g(host_space(), w.size());
  Model model(net, *device_, 40);
  EXPECT_THROW(model.score(w, data, 0, 40), std::invalid_argument);
  EXPECT_THROW(model.score(w, data, 0, 40, model.statistics()), std::invalid_argument);
  // One minibatch knows its own moments.
  Statistics known = model.statistics();
  model.observe(w, data, numbers(0, 40), known);
  const Loss trained = model.gradient(w, data, numbers(0, 40), g), score = model.score(w, data, 0, 40, known);
  EXPECT_NEAR(score.sum / trained.sum, 1, 1e-6);
  EXPECT_EQ(score.correct, trained.correct);
  // How the scored samples are cut changes nothing.
  for (const int batch : {1, 7, 16}) {
    Model other(net, *device_, batch);
    const Loss loss = other.score(w, data, 0, 40, known);
    EXPECT_NEAR(loss.sum / trained.sum, 1, 1e-6) << batch;
    EXPECT_EQ(loss.correct, trained.correct) << batch;
  }
  // Other weights have other statistics.
  Vector moved(host_space(), w.size());
  copy(w, moved);
  scale(3, moved.view().part(0, 108));  // the first convolution, which batch norm undoes
  Statistics of_moved = model.statistics();
  model.observe(moved, data, numbers(0, 40), of_moved);
  EXPECT_NEAR(model.score(moved, data, 0, 40, of_moved).sum / trained.sum, 1, 1e-4);
  EXPECT_GT(std::abs(model.score(moved, data, 0, 40, known).sum / trained.sum - 1), 1e-2);
}

// What reaches the first batch norm does not depend on how it is cut; the short minibatch counts by its size.
TEST_P(OnDevice, AddsUpStatisticsOverMinibatches) {
  const Samples data = squares({2, 14, 14}, 40);
  const Network net{"first", data.shape, {Conv2d{5, 3}, BatchNorm{}, Sigmoid{}, Dense{10}}};
  const Vector w = initial(net, 1);
  Vector g(host_space(), w.size());
  Model small(net, *device_, 12), whole(net, *device_, 40);
  Statistics known = small.statistics();
  for (std::uint32_t first = 0; first < 40; first += 12)
    small.observe(w, data, numbers(first, std::min(12u, 40 - first)), known);
  EXPECT_EQ(known[0], 40);
  const Loss expected = whole.gradient(w, data, numbers(0, 40), g);
  EXPECT_NEAR(small.score(w, data, 0, 40, known).sum / expected.sum, 1, 1e-6);
}

TEST_P(OnDevice, LearnsWithBatchNorm) {
  const Samples data = squares({3, 14, 14}, 160), others = squares({3, 14, 14}, 80, 2);
  const Network net = normalised(data.shape);
  Model model(net, *device_, 20);
  Vector w = initial(net, 1), g(host_space(), w.size());
  OptimizerSettings settings;
  settings.rule = OptimizerSettings::Rule::momentum;
  settings.learning_rate = 0.05;
  Optimizer optimizer(settings, host_space(), w.size());
  for (int t = 0; t < 64; ++t) {
    model.gradient(w, data, numbers(std::uint32_t(t % 8 * 20), 20), g);
    optimizer.step(w, g, 1.0 / 20, t * 20);
  }
  Statistics known = model.statistics();
  for (std::uint32_t first = 0; first < 160; first += 20) model.observe(w, data, numbers(first, 20), known);
  EXPECT_GT(model.score(w, others, 0, 80, known).correct, 60);
}

TEST_P(OnDevice, GivesZeroForNoSamples) {
  const Samples data = squares({1, 10, 10}, 2);
  const Network net = find_model("softmax")->make(data.shape, data.classes);
  Model model(net, *device_, 2);
  Vector w = initial(net, 1), g(host_space(), w.size());
  fill(NAN, g);
  const Loss loss = model.gradient(w, data, {}, g);
  EXPECT_EQ(loss.sum, 0);
  EXPECT_EQ(loss.correct, 0);
  EXPECT_EQ(dot(g, g), 0);
}

// The step comes after the whole gradient, in however many pieces that is made; of no samples, too.
TEST_P(OnDevice, DescendsByTheWholeGradient) {
  const Samples data = squares({1, 20, 20}, 75);
  const Network net = find_model("lenet")->make(data.shape, data.classes);
  Model model(net, *device_, 75);
  OptimizerSettings settings;
  settings.rule = OptimizerSettings::Rule::momentum;
  Vector should = initial(net, 1), is = initial(net, 1), g(host_space(), is.size()),
         h(host_space(), is.size());
  Optimizer step(settings, host_space(), is.size()), next(settings, host_space(), is.size());
  for (const std::uint32_t count : {75, 9, 0, 75}) {
    const auto ids = numbers(0, count);
    const double scale = 1.0 / std::max(count, 1u);
    const Loss expected = model.gradient(should, data, ids, g);
    step.step(should, g, scale, 0);
    EXPECT_EQ(model.begin_descent(is, data, ids, h, {}, *next.next(is, scale, 0)).get().sum, expected.sum);
    EXPECT_TRUE(std::equal(is.data(), is.data() + is.size(), should.data())) << count << " samples";
    EXPECT_TRUE(std::equal(h.data(), h.data() + h.size(), g.data())) << count << " samples";
  }
}

TEST_P(OnDevice, RefusesWhatItWasNotMadeFor) {
  const Samples data = squares({1, 10, 10}, 4), other = squares({1, 10, 12}, 4);
  const Network net = find_model("softmax")->make(data.shape, data.classes);
  Model model(net, *device_, 2);
  Vector w = initial(net, 1), g(host_space(), w.size());
  EXPECT_THROW(model.gradient(w, data, numbers(0, 3), g), std::invalid_argument);
  EXPECT_THROW(model.gradient(w, other, numbers(0, 2), g), std::invalid_argument);
  EXPECT_THROW(model.score(w, other, 0, 2), std::invalid_argument);
}

// A diverged model must show in the loss.
TEST_P(OnDevice, PassesOnWhatIsNotANumber) {
  const Samples data = squares({1, 20, 20}, 2);
  const Network net = find_model("lenet")->make(data.shape, data.classes);
  Model model(net, *device_, 2);
  Vector w = initial(net, 1), g(host_space(), w.size());
  fill(NAN, w);
  EXPECT_TRUE(std::isnan(model.gradient(w, data, numbers(0, 2), g).sum));
  EXPECT_EQ(model.score(w, data, 0, 2).correct, 0);
}

// With our own kernels: the input and the logits' gradient come as rows, the logits leave so; a dense layer's
// weights want its inputs as rows; a direct convolution hands back through kernels that are turned. A
// convolution of oneDNN's has layouts of its own for its three operands and their gradients.
TEST(Cpu, CopiesIntoAnotherLayoutOnlyWhatItMust) {
  const DeviceEntry* entry = find_device("cpu");
  if (const auto reason = entry->unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  for (const ModelEntry& model : all_models()) {
    const Network net = model.make({3, 32, 32}, 10);
    const auto plan = entry->make()->plan(net, 32);
    const auto lines = plan->implementations();
    if (lines.back().find("own kernel avx512") == std::string::npos) GTEST_SKIP() << "no AVX-512 here";
    int expected = 3, foreign = 0;
    for (std::size_t k = 1; k < lines.size(); ++k) {
      expected += lines[k].starts_with("dense");
      if (!lines[k].starts_with("conv") || lines[k].find("winograd") != std::string::npos) continue;
      const bool own = lines[k].find("own kernel") != std::string::npos;
      expected += own ? 1 : 7;
      foreign += !own;
    }
    EXPECT_LE(plan->reorders(), expected) << net.name;
    EXPECT_TRUE(foreign || plan->reorders() == expected) << net.name;
  }
}

TEST_P(OnDevice, StepAllocatesNothing) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the address sanitizer has its own allocator";
#else
  const Samples data = squares({1, 28, 28}, 80);
  for (const Network& net : {find_model("lenet")->make(data.shape, data.classes),
                             find_model("dnn")->make(data.shape, data.classes), normalised(data.shape)}) {
    SCOPED_TRACE(net.name);
    Model model(net, *device_, 40);
    Vector w = initial(net, 1), g(host_space(), w.size());
    OptimizerSettings settings;
    settings.rule = OptimizerSettings::Rule::momentum;
    Optimizer optimizer(settings, host_space(), w.size());
    const auto ids = numbers(0, 40);
    // Two pieces where the device cuts, the last of them short; a short minibatch; an evaluation.
    Statistics known = model.statistics();
    const auto step = [&] {
      model.observe(w, data, ids, known);
      model.gradient(w, data, ids, g);
      optimizer.step(w, g, 1.0 / 40, 0);
      model.gradient(w, data, {ids.data(), 3}, g);
      model.score(w, data, 0, 41, known);
    };
    for (int times = 0; times < 2; ++times)
      step();  // oneDNN finishes some things at the first call, cudnn at the second
    ours = onednns = onednn_bytes = 0;
    counting = true;
    step();
    counting = false;
    EXPECT_EQ(ours, 0);
    // oneDNN's lists of arguments are small. Its gemm, the choice without AVX-512, packs matrices into memory
    // of its own.
    const auto lines = model.plan().implementations();
    const auto gemm = [](const std::string& line) { return line.find("gemm:") != std::string::npos; };
    if (std::none_of(lines.begin(), lines.end(), gemm)) {
      EXPECT_LE(onednn_bytes, 1024 * onednns);
    }
    RecordProperty(net.name + "_bytes_within_onednn", int(onednn_bytes));
    void* volatile probe = nullptr;
    counting = true;
    probe = ::operator new(8);
    counting = false;
    ::operator delete(probe);
    EXPECT_EQ(ours, 1) << "the counter does not count";
  }
#endif
}

std::vector<std::string> device_names() {
  std::vector<std::string> names;
  for (const auto& d : all_devices()) names.push_back(d.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Model, OnDevice, testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

TEST(Subnormals, CountAsZeroInAThreadAndThoseItStarts) {
  const auto half_of_the_least = [] {
    volatile float least = std::numeric_limits<float>::min();
    return least * 0.5f;
  };
  float here = -1, there = -1;
  bool flushes = false;
  std::thread([&] {
    flushes = flush_subnormals();
    here = half_of_the_least();
    std::thread([&] { there = half_of_the_least(); }).join();
  }).join();
  EXPECT_EQ(here == 0, flushes);
  EXPECT_EQ(there == 0, flushes);
  EXPECT_GT(half_of_the_least(), 0) << "others go on as they were";
}

}  // namespace
}  // namespace dsgd
