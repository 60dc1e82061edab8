// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>

#include "device.h"
#include "kernels/elementwise.h"

namespace dsgd {
namespace {

std::vector<float> uniform(std::size_t n, unsigned seed, float scale = 1) {
  std::mt19937 bits(seed);
  std::vector<float> v(n);
  for (auto& x : v) x = scale * (float(bits()) / 2147483648.0f - 1);
  return v;
}

Vector vector(const std::vector<float>& from) {
  Vector v(host_space(), from.size());
  std::copy(from.begin(), from.end(), v.data());
  return v;
}

// |a - b| / |b|, or |a| where b is zero; not a number where any element is none.
double distance(std::size_t n, const float* a, const float* b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < n; ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(difference) / (norm > 0 ? std::sqrt(norm) : 1);
}

// Parameters of the size that training sees.
Vector parameters_for(const Network& net, unsigned seed) {
  Vector w(host_space(), parameters(net));
  initialise(net, seed, w);
  for (const auto& e : extents(net)) {
    if (e.name == "weights") continue;
    const auto b = uniform(e.count, seed + 1, 0.5f);
    for (std::size_t i = 0; i < e.count; ++i) w.data()[e.first + i] += b[i];
  }
  return w;
}

struct Result {
  std::vector<float> logits, dx, g;
};

Result compute(Plan& plan, const Network& net, ConstVec w, const std::vector<float>& x,
               const std::vector<float>& dlogits, int n) {
  const std::size_t row = net.input.size(), classes = place(net).back().out.size();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Result r{{}, std::vector<float>(n * row, nan), std::vector<float>(w.size, nan)};
  const Vector g = vector(r.g);
  const float* logits = plan.forward(w, x.data(), n);
  r.logits.assign(logits, logits + n * classes);
  plan.backward(w, dlogits.data(), n, g.view(), r.dx.data());
  std::copy_n(g.data(), w.size, r.g.begin());
  return r;
}

struct Case {
  std::string name;
  Shape input;
  std::vector<LayerSpec> layers;
  int batch = 3, n = 3;
  double tolerance = 1e-5, logits_tolerance = 1e-5;  // norm of the error over norm
  Network net() const { return {name, input, layers}; }
  Vector parameters() const { return parameters_for(net(), 1); }
  std::vector<float> x(int samples) const { return uniform(samples * input.size(), 2 + samples); }
  std::vector<float> dlogits(int samples) const {
    return uniform(samples * place(net()).back().out.size(), 1);
  }
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Without kinks, and where one sample has a small variance, that does not blow up rounding.
Network smooth_resnet20() {
  Network net = find_model("resnet20")->make({3, 4, 4}, 10);
  for (auto& layer : net.layers) {
    if (std::get_if<Relu>(&layer)) layer = Tanh{};
    if (std::get_if<BatchNorm>(&layer)) layer = BatchNorm{0.1};
  }
  return net;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"dense", {7, 1, 1}, {Dense{5}}},
      {"dense_batch1", {1, 1, 1}, {Dense{1}}, 1, 1},
      {"dense_image", {3, 5, 7}, {Dense{33}}, 4, 4},
      {"dense_short", {19, 1, 1}, {Dense{17}, Relu{}, Dense{3}}, 8, 5},
      {"dense_wide", {130, 1, 1}, {Dense{257}, Dense{10}}, 32, 31},
      {"conv", {1, 9, 9}, {Conv2d{4, 3}}},
      {"conv_1x1_image", {5, 1, 1}, {Conv2d{6, 1}}, 2, 2},
      {"conv_1x1_kernel", {16, 4, 4}, {Conv2d{32, 1}}, 2, 2},
      {"conv_pad_on_1x1", {2, 1, 1}, {Conv2d{3, 3, 1, 1}}, 1, 1},
      {"conv_whole_image", {3, 5, 5}, {Conv2d{8, 5}}, 5, 2},
      {"conv_colour", {3, 11, 8}, {Conv2d{20, 5}}, 4, 3},
      {"conv_stride_remainder", {3, 10, 12}, {Conv2d{7, 3, 4}}, 3, 1},
      {"conv_stride_pad", {2, 7, 10}, {Conv2d{9, 3, 2, 1}}, 2, 2},
      {"conv_deep", {20, 12, 12}, {Conv2d{50, 5, 2}}, 3, 2},
      {"conv_conv", {1, 12, 12}, {Conv2d{20, 3}, Conv2d{17, 3, 1, 1}, Conv2d{32, 2, 2}}, 3, 3},
      {"conv_batch1", {16, 6, 6}, {Conv2d{16, 3, 1, 1}}, 1, 1},
      {"max_pool", {1, 4, 4}, {MaxPool{2, 2}}},
      {"max_pool_remainder", {3, 7, 5}, {MaxPool{2, 2}}, 3, 2},
      {"max_pool_overlap", {16, 7, 9}, {MaxPool{3, 2}}, 2, 2},
      {"max_pool_overlap_3", {3, 6, 6}, {MaxPool{3, 1}}, 2, 2},
      {"max_pool_gaps", {20, 8, 8}, {MaxPool{2, 3}}, 2, 2},
      {"max_pool_whole", {50, 3, 3}, {MaxPool{3, 3}}, 2, 1},
      {"max_pool_1x1", {4, 1, 1}, {MaxPool{1, 1}}, 2, 2},
      {"max_pool_large", {2, 39, 41}, {Conv2d{3, 2}, MaxPool{18, 7}}, 3, 3},
      {"max_pool_ceil", {3, 8, 7}, {MaxPool{3, 2, true}}, 2, 2},
      {"max_pool_ceil_apart", {3, 6, 9}, {MaxPool{2, 4, true}}, 2, 2},
      {"avg_pool_ceil", {5, 8, 6}, {AvgPool{3, 2, true}}, 3, 2},
      {"avg_pool_ceil_exact", {5, 7, 7}, {AvgPool{3, 2, true}}, 3, 2},
      {"conv_pool_ceil", {3, 8, 8}, {Conv2d{9, 5, 1, 2}, MaxPool{3, 3, true}, Relu{}}, 3, 2},
      {"cifar_quick", {3, 16, 16}, find_model("cifar_quick")->make({3, 16, 16}, 10).layers, 2, 2},
      {"avg_pool", {1, 4, 4}, {AvgPool{2, 2}}},
      {"avg_pool_remainder", {3, 7, 5}, {AvgPool{2, 2}}, 3, 2},
      {"avg_pool_overlap", {20, 7, 9}, {AvgPool{3, 2}}, 2, 2},
      {"relu", {3, 5, 5}, {Relu{}}, 3, 2},
      {"sigmoid", {3, 5, 5}, {Sigmoid{}}, 3, 2},
      {"tanh", {1, 1, 1}, {Tanh{}}, 1, 1},
      {"activations_in_a_row", {1, 3, 3}, {Tanh{}, Dense{9}, Sigmoid{}, Tanh{}, Relu{}}, 2, 2},
      {"conv_relu_pool", {1, 14, 14}, {Conv2d{20, 5}, Relu{}, MaxPool{2, 2}}, 4, 3},
      {"conv_pool_relu", {3, 14, 14}, {Conv2d{16, 3}, MaxPool{2, 2}, Relu{}}, 4, 3},
      {"conv_sigmoid_pool", {1, 9, 9}, {Conv2d{5, 2}, Sigmoid{}, MaxPool{2, 2}, Tanh{}}, 2, 2},
      {"conv_relu_relu_pool", {1, 9, 9}, {Conv2d{5, 2}, Relu{}, Relu{}, MaxPool{2, 2}, Relu{}}, 2, 2},
      {"conv_pool_remainder", {1, 9, 12}, {Conv2d{21, 2}, MaxPool{3, 3}, Tanh{}}, 3, 2},
      {"conv_pool_gaps", {16, 9, 10}, {Conv2d{39, 2}, MaxPool{2, 3}, Conv2d{5, 2}}, 3, 2},
      {"conv_avg_conv", {3, 13, 13}, {Conv2d{24, 3}, AvgPool{3, 2}, Tanh{}, Conv2d{17, 3}, Relu{}}, 3, 3},
      {"pool_first", {3, 8, 8}, {MaxPool{2, 2}, Relu{}, Conv2d{6, 3}, Dense{5}}, 3, 2},
      {"dense_then_conv", {4, 1, 1}, {Dense{18}, Sigmoid{}, Conv2d{7, 1}, Dense{5}}, 3, 3},
      {"lenet", {1, 28, 28}, find_model("lenet")->make({1, 28, 28}, 10).layers, 5, 4},
      {"lenet_colour", {3, 33, 30}, find_model("lenet")->make({3, 33, 30}, 7).layers, 2, 2},
      {"conv_no_bias", {3, 9, 7}, {Conv2d{8, 3, 1, 1, false}, Relu{}, Conv2d{5, 3, 2, 0, false}}, 3, 2},
      {"norm", {3, 5, 7}, {BatchNorm{}}, 5, 3},
      {"norm_large_epsilon", {2, 4, 4}, {BatchNorm{0.5}}, 40, 17},
      {"norm_relu", {7, 9, 9}, {Conv2d{5, 3, 1, 1, false}, BatchNorm{}, Relu{}, Conv2d{3, 3}}, 18, 18},
      {"norm_tanh", {3, 8, 8}, {Conv2d{17, 3, 1, 1, false}, BatchNorm{}, Tanh{}}, 4, 3},
      {"norm_pool",
       {3, 8, 9},
       {Conv2d{6, 3, 1, 0, false}, BatchNorm{}, Relu{}, MaxPool{2, 2}, Conv2d{4, 2, 1, 0, false},
        BatchNorm{}},
       4,
       3,
       2e-5},
      {"norm_avg_pool_ceil", {5, 8, 6}, {BatchNorm{}, AvgPool{3, 2, true}}, 4, 3},
      {"norm_many_pixels", {2, 41, 37}, {Conv2d{3, 1, 1, 0, false}, BatchNorm{}, Relu{}}, 3, 2},
      {"shortcut", {3, 6, 7}, {Conv2d{3, 3, 1, 1}, Shortcut{1}}, 4, 3},
      {"shortcut_relu", {4, 6, 6}, {Relu{}, Conv2d{4, 3, 1, 1}, Shortcut{1}, Relu{}, Conv2d{2, 3}}, 4, 3},
      {"shortcut_stride", {3, 7, 9}, {Conv2d{8, 3, 2, 1}, Sigmoid{}, Shortcut{2}, Tanh{}}, 17, 16},
      {"shortcut_dense", {9, 1, 1}, {Dense{9}, Relu{}, Dense{9}, Shortcut{2}, Dense{11}, Shortcut{1}}, 4, 3},
      {"shortcut_from_pool",
       {3, 9, 9},
       {Conv2d{8, 2}, Relu{}, MaxPool{2, 2}, Conv2d{8, 1}, Shortcut{2}},
       4,
       3},
      {"shortcut_after_pool", {3, 8, 8}, {Conv2d{8, 3, 1, 1}, MaxPool{2, 2}, Relu{}, Shortcut{2}}, 4, 3},
      {"norm_shortcut", {4, 6, 5}, {Conv2d{4, 3, 1, 1, false}, BatchNorm{}, Shortcut{1}, Tanh{}}, 4, 3},
      {"norm_shortcut_relu",
       {4, 6, 5},
       {Conv2d{4, 3, 1, 1, false}, BatchNorm{}, Shortcut{2}, Relu{}, Conv2d{3, 3}},
       18,
       17},
      {"norm_shortcut_between",
       {4, 6, 5},
       {Conv2d{4, 3, 1, 1, false}, BatchNorm{}, Shortcut{2}, Conv2d{4, 3, 1, 1}, Shortcut{2}, Relu{}},
       4,
       3},
      {"shortcuts_together",
       {4, 6, 6},
       {Conv2d{4, 3, 1, 1}, Relu{}, Conv2d{4, 3, 1, 1}, Relu{}, Shortcut{2}, Relu{}, Shortcut{4}, Shortcut{2},
        Relu{}, Conv2d{3, 3}},
       4,
       3},
      // Rounding adds up over its layers.
      {"resnet20_smooth", {3, 4, 4}, smooth_resnet20().layers, 4, 3, 3e-5},
      // Rounding moves some of its many activations across the kink.
      {"resnet20", {3, 8, 8}, find_model("resnet20")->make({3, 8, 8}, 10).layers, 4, 3, 2e-2},
      {"softmax", {1, 28, 28}, find_model("softmax")->make({1, 28, 28}, 10).layers, 2, 1},
      {"dnn", {1, 6, 6}, find_model("dnn")->make({1, 6, 6}, 3).layers, 2, 2},
      {"mlp", {1, 6, 6}, find_model("mlp")->make({1, 6, 6}, 3).layers, 2, 2},
  };
  return all;
}

template <class Layer>
bool has(const std::vector<LayerSpec>& layers) {
  return std::any_of(layers.begin(), layers.end(),
                     [](const LayerSpec& l) { return std::get_if<Layer>(&l) != nullptr; });
}

// Device or device_precision, case, size of the minibatch (0: the case's own).
class OnDevice : public testing::TestWithParam<std::tuple<std::string, Case, int>> {
 protected:
  void SetUp() override {
    const std::string& name = std::get<0>(GetParam());
    const DeviceEntry* entry = find_device(name.substr(0, name.find('_')));
    ASSERT_NE(entry, nullptr);
    const auto p = name.ends_with("_bf16")   ? Precision::bf16
                   : name.ends_with("_tf32") ? Precision::tf32
                                             : Precision::fp32;
    if (const auto reason = entry->unavailable(p); !reason.empty()) GTEST_SKIP() << reason;
    device_ = entry->make(p);
    case_ = std::get<1>(GetParam());
    if (const int batch = std::get<2>(GetParam())) case_.n = (case_.batch = batch) - 1;
    if (p == Precision::fp32) return;
    const bool kinks = has<Relu>(case_.layers) || has<MaxPool>(case_.layers);
    case_.logits_tolerance = p == Precision::bf16 ? 2e-2 : 3e-3;
    case_.tolerance = kinks ? 0.2 : case_.logits_tolerance;
  }
  std::unique_ptr<Device> device_;
  Case case_;
};

// What the reference says for n samples. Double precision is slow: each is computed once, for all devices
// and sizes of minibatches.
const Result& truth(const Case& c, int n) {
  static std::map<std::pair<std::string, int>, Result> known;
  const auto [it, fresh] = known.try_emplace({c.name, n});
  if (fresh) {
    const auto plan = find_device("reference")->make()->plan(c.net(), n);
    it->second = compute(*plan, c.net(), c.parameters().view(), c.x(n), c.dlogits(n), n);
  }
  return it->second;
}

TEST_P(OnDevice, AgreesWithTheReference) {
  const Case& c = case_;
  const Network net = c.net();
  const std::size_t row = net.input.size(), classes = place(net).back().out.size();
  const auto plan = device_->plan(net, c.batch);
  const Vector w = c.parameters();

  // Whatever an earlier call left behind must not show: fill everything with numbers that are none.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Vector poison = vector(std::vector<float>(w.size(), nan));
  compute(*plan, net, poison.view(), std::vector<float>(c.batch * row, nan),
          std::vector<float>(c.batch * classes, nan), c.batch);

  for (int n : {c.n, c.batch, 1}) {
    SCOPED_TRACE("n = " + std::to_string(n));
    const Result is = compute(*plan, net, w.view(), c.x(n), c.dlogits(n), n);
    const Result& should = truth(c, n);
    EXPECT_LT(distance(is.logits.size(), is.logits.data(), should.logits.data()), c.logits_tolerance);
    EXPECT_LT(distance(is.dx.size(), is.dx.data(), should.dx.data()), c.tolerance);
    for (const auto& e : extents(net)) {
      EXPECT_LT(distance(e.count, is.g.data() + e.first, should.g.data() + e.first), c.tolerance)
          << "gradient of the " << e.name << " of layer " << e.layer + 1;
    }
  }
}

TEST_P(OnDevice, RepeatsBitForBit) {
  const Case& c = case_;
  const Network net = c.net();
  const auto plan = device_->plan(net, c.batch), again = device_->plan(net, c.batch);
  const Vector w = c.parameters();
  const auto x = c.x(c.n), dlogits = c.dlogits(c.n);
  const Result first = compute(*plan, net, w.view(), x, dlogits, c.n);
  for (Plan* p : {plan.get(), again.get()}) {
    const Result other = compute(*p, net, w.view(), x, dlogits, c.n);
    EXPECT_EQ(first.logits, other.logits);
    EXPECT_EQ(first.dx, other.dx);
    EXPECT_EQ(first.g, other.g);
  }
}

TEST_P(OnDevice, NamesAnImplementationPerLayerAndNoneIsOneDnnsReference) {
  const Case& c = case_;
  const auto lines = device_->plan(c.net(), c.batch)->implementations();
  EXPECT_FALSE(lines.empty());
  EXPECT_LE(lines.size(), c.layers.size());
  for (const auto& line : lines) EXPECT_EQ(line.find("ref:"), std::string::npos) << line;
}

std::vector<std::string> fast_devices() {
  std::vector<std::string> names;
  for (const auto& d : all_devices())
    if (d.name != "reference") names.push_back(d.name);
  return names;
}

std::vector<std::string> bfloat16_devices() {
  std::vector<std::string> names;
  for (const auto& d : all_devices())
    if (d.name != "cudnn" && d.unavailable(Precision::bf16).empty()) names.push_back(d.name + "_bf16");
  return names;
}

// Every kind of layer; rounding adds up over many, and hides which of 324 numbers is the largest.
std::vector<Case> short_cases() {
  std::vector<Case> few;
  for (const Case& c : cases())
    if (c.layers.size() <= 3 && c.name != "max_pool_large") few.push_back(c);
  return few;
}

TEST(Bfloat16, IsUsedHere) {
  const std::string reason = find_device("cpu")->unavailable(Precision::bf16);
  if (!reason.empty()) GTEST_SKIP() << reason;
  const Network net{"dense", {64, 1, 1}, {Dense{10}}};
  const auto lines = find_device("cpu")->make(Precision::bf16)->plan(net, 32)->implementations();
  // oneDNN 2 names the format, oneDNN 3 the instructions that know no float32.
  EXPECT_TRUE(lines[0].find("bf16") != std::string::npos || lines[0].find("amx") != std::string::npos)
      << lines[0];
}

std::vector<Case> dense_cases() {
  std::vector<Case> dense;
  for (const Case& c : cases())
    if (has<Dense>(c.layers)) dense.push_back(c);
  return dense;
}

std::string name_of(const testing::TestParamInfo<OnDevice::ParamType>& test) {
  const auto& [device, c, batch] = test.param;
  return device + "_" + c.name + (batch ? "_" + std::to_string(batch) : "");
}

// The reference has no kernels that depend on the size of the minibatch.
INSTANTIATE_TEST_SUITE_P(Reference, OnDevice,
                         testing::Combine(testing::Values("reference"), testing::ValuesIn(cases()),
                                          testing::Values(0)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Layers, OnDevice,
                         testing::Combine(testing::ValuesIn(fast_devices()), testing::ValuesIn(cases()),
                                          testing::Values(0, 12, 32)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(DenseInBfloat16, OnDevice,
                         testing::Combine(testing::ValuesIn(bfloat16_devices()),
                                          testing::ValuesIn(dense_cases()), testing::Values(0, 12, 32)),
                         name_of);

INSTANTIATE_TEST_SUITE_P(OnGpu, OnDevice,
                         testing::Combine(testing::Values("cudnn_tf32", "cudnn_bf16"),
                                          testing::ValuesIn(short_cases()), testing::Values(0, 32)),
                         name_of);

// The first maximum of a window in row order gets the whole gradient, on every device, be it the first layer
// or after a convolution (here the identity), which may leave images in another layout.
TEST(MaxPool, GivesTiesToTheFirst) {
  // The windows: all equal; the last two equal; the first and the last; the second and the third.
  const std::vector<float> image{1, 1, 0, 0,  //
                                 1, 1, 2, 2,  //
                                 3, 0, 0, 4,  //
                                 0, 3, 4, 0};
  const std::vector<float> expected{1, 0, 0, 0,  //
                                    0, 0, 2, 0,  //
                                    3, 0, 0, 4,  //
                                    0, 0, 0, 0};
  for (const auto& entry : all_devices()) {
    if (!entry.unavailable().empty()) continue;
    const auto device = entry.make();
    for (const int channels : {1, 3, 16, 20, 37}) {
      SCOPED_TRACE(entry.name + ", " + std::to_string(channels) + " channels");
      std::vector<float> x, dlogits;
      for (int c = 0; c < channels; ++c) {
        x.insert(x.end(), image.begin(), image.end());
        dlogits.insert(dlogits.end(), {1, 2, 3, 4});
      }
      const Shape shape{channels, 4, 4};
      for (const Network& net :
           {Network{"pool", shape, {MaxPool{2, 2}}},
            Network{"conv_pool", shape, {Conv2d{channels, 1}, MaxPool{2, 2}}},
            Network{"conv_relu_pool", shape, {Conv2d{channels, 1}, Relu{}, MaxPool{2, 2}}}}) {
        SCOPED_TRACE(net.name);
        Vector w(host_space(), parameters(net)), g(host_space(), w.size());
        if (w.size() > 0) {
          for (int c = 0; c < channels; ++c) w.data()[c * channels + c] = 1;
        }
        for (const int batch : {1, 16}) {  // own kernels take whole vectors of samples
          std::vector<float> dx(x.size());
          const auto plan = device->plan(net, batch);
          plan->forward(w, x.data(), 1);
          plan->backward(w, dlogits.data(), 1, g, dx.data());
          for (int c = 0; c < channels; ++c)
            EXPECT_EQ(std::vector<float>(dx.begin() + c * 16, dx.begin() + (c + 1) * 16), expected) << batch;
        }
      }
    }
  }
}

// ReLU, then max-pool, where a device may swap them: the gradient must not reach windows without positive
// values.
TEST(MaxPool, PassesNothingThroughReluWithoutPositiveValues) {
  const Network net{"dead", {1, 2, 4}, {Relu{}, MaxPool{2, 2}}};
  const std::vector<float> x{-1, -2, 5, 5, 0, -4, 5, -1}, dlogits{7, 8};
  for (const auto& entry : all_devices()) {
    if (!entry.unavailable().empty()) continue;
    SCOPED_TRACE(entry.name);
    const auto device = entry.make();
    const auto plan = device->plan(net, 1);
    Vector none(host_space(), 0);
    const float* y = plan->forward(none, x.data(), 1);
    EXPECT_EQ(y[0], 0);
    EXPECT_EQ(y[1], 5);
    std::vector<float> dx(8, 99);
    plan->backward(none, dlogits.data(), 1, none, dx.data());
    EXPECT_EQ(dx, (std::vector<float>{0, 0, 8, 0, 0, 0, 0, 0}));
  }
}

// The reference against differences of f = sum(c * logits) for random c. The logits are rounded to float,
// about 6e-8, so with step h the quotients are good to 6e-8/h + O(h^4) (four-point formula); h = 1/32 where f
// is smooth, 1/512 where a larger step would cross kinks.
TEST(Reference, AgreesWithFiniteDifferences) {
  struct Example {
    Case net;
    double h;
  };
  const double smooth = 1.0 / 32, kinks = 1.0 / 512;
  const std::vector<Example> examples{
      {{"dense", {5, 1, 1}, {Dense{4}}}, smooth},
      {{"dense_sigmoid", {5, 1, 1}, {Dense{4}, Sigmoid{}, Dense{3}}}, smooth},
      {{"dense_tanh", {5, 1, 1}, {Dense{4}, Tanh{}, Dense{3}}}, smooth},
      {{"dense_relu", {5, 1, 1}, {Dense{6}, Relu{}, Dense{3}}}, kinks},
      {{"conv", {2, 5, 6}, {Conv2d{3, 3}}}, smooth},
      {{"conv_stride", {2, 6, 7}, {Conv2d{3, 3, 2}, Tanh{}, Dense{2}}}, smooth},
      {{"conv_pad", {2, 4, 5}, {Conv2d{3, 3, 2, 1}, Sigmoid{}}}, smooth},
      {{"max_pool", {2, 5, 5}, {Conv2d{3, 2}, MaxPool{2, 2}, Dense{2}}}, kinks},
      {{"max_pool_overlap", {1, 6, 6}, {MaxPool{3, 1}, Dense{2}}}, kinks},
      {{"avg_pool", {2, 6, 7}, {Conv2d{3, 2}, AvgPool{3, 2}, Tanh{}}}, smooth},
      {{"norm", {3, 3, 4}, {BatchNorm{}}}, smooth},
      {{"norm_dense", {5, 1, 1}, {BatchNorm{0.25}, Dense{4}}}, smooth},
      {{"norm_conv", {2, 5, 5}, {Conv2d{3, 3, 1, 0, false}, BatchNorm{0.01}, Tanh{}, Dense{2}}}, smooth},
      {{"shortcut", {2, 5, 6}, {Tanh{}, Conv2d{3, 3, 2, 1}, Shortcut{1}, Tanh{}, Dense{2}}}, smooth},
      {{"residual_block",
        {2, 6, 6},
        {Conv2d{2, 3, 1, 1, false}, BatchNorm{0.1}, Tanh{}, Conv2d{4, 3, 2, 1, false}, BatchNorm{0.1}, Tanh{},
         Conv2d{4, 3, 1, 1, false}, BatchNorm{0.1}, Shortcut{5}, Tanh{}, AvgPool{3, 3}, Dense{3}}},
       kinks},
      {{"lenet_like",
        {1, 10, 10},
        {Conv2d{2, 3}, Relu{}, MaxPool{2, 2}, Conv2d{3, 3}, Relu{}, Dense{4}, Tanh{}, Dense{3}}},
       kinks},
  };
  for (const Example& each : examples) {
    const Case& example = each.net;
    const double h = each.h;
    SCOPED_TRACE(example.name);
    const Network net = example.net();
    const int n = 2;
    const auto plan = find_device("reference")->make()->plan(net, n);
    const Vector w = parameters_for(net, 4);
    auto x = uniform(n * net.input.size(), 5);
    const auto c = uniform(n * place(net).back().out.size(), 6);
    const Result is = compute(*plan, net, w.view(), x, c, n);

    const auto f = [&] {
      const float* logits = plan->forward(w.view(), x.data(), n);
      double sum = 0;
      for (std::size_t i = 0; i < c.size(); ++i) sum += double(c[i]) * logits[i];
      return sum;
    };
    const auto differences = [&](float* at, std::size_t size) {
      std::vector<float> quotients(size);
      for (std::size_t i = 0; i < size; ++i) {
        const float kept = at[i];
        const auto moved = [&](double by) {
          at[i] = float(kept + by);
          const double value = f();
          at[i] = kept;
          return value;
        };
        quotients[i] = float((8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h));
      }
      return quotients;
    };
    const double tolerance = h == smooth ? 2e-5 : 5e-4;
    const auto dw = differences(w.data(), w.size());
    for (const auto& e : extents(net)) {
      EXPECT_LT(distance(e.count, is.g.data() + e.first, dw.data() + e.first), tolerance)
          << e.layer << " " << e.name;
    }
    const auto dx = differences(x.data(), x.size());
    EXPECT_LT(distance(x.size(), is.dx.data(), dx.data()), tolerance);
  }
}

TEST(SoftmaxCrossEntropy, HasItsClosedForms) {
  const std::vector<std::uint8_t> labels{2, 0};
  std::vector<float> d(8);
  // Equal logits: the loss is log(classes), whatever their size; the first of equal ones counts as the
  // answer.
  std::vector<float> z(8, 1000);
  Loss loss = softmax_cross_entropy(z.data(), labels.data(), 2, 4, d.data());
  EXPECT_NEAR(loss.sum, 2 * std::log(4.0), 1e-12);
  EXPECT_EQ(loss.correct, 1);
  for (int i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(d[i], i == 2 || i == 4 ? -0.75f : 0.25f);
  // Two classes: the loss is log(1 + exp(-difference)).
  z = {3, 1};
  loss = softmax_cross_entropy(z.data(), labels.data() + 1, 1, 2, d.data());
  EXPECT_NEAR(loss.sum, std::log1p(std::exp(-2.0)), 1e-12);
  EXPECT_EQ(loss.correct, 1);
  EXPECT_NEAR(d[0], -1 / (1 + std::exp(2.0)), 1e-7);
  EXPECT_NEAR(d[0] + d[1], 0, 1e-7);
  // A sure wrong answer costs the difference and stays finite.
  z = {-500, 500};
  loss = softmax_cross_entropy(z.data(), labels.data() + 1, 1, 2, nullptr);
  EXPECT_DOUBLE_EQ(loss.sum, 1000);
  EXPECT_EQ(loss.correct, 0);
  // Divergence shows in the loss and is never a right answer.
  z = {std::numeric_limits<float>::quiet_NaN(), 1};
  loss = softmax_cross_entropy(z.data(), labels.data() + 1, 1, 2, d.data());
  EXPECT_TRUE(std::isnan(loss.sum));
  EXPECT_EQ(loss.correct, 0);
}

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "no exception";
}

TEST(Place, SaysWhichLayerDoesNotFit) {
  EXPECT_EQ(message([] {
              place({"net", {1, 4, 4}, {Relu{}, Conv2d{2, 5}}});
            }),
            "net does not fit: layer 2, conv 5x5x2, cannot take 1x4x4 (the network's input is 1x4x4)");
  EXPECT_EQ(
      message([] {
        place({"net", {3, 8, 8}, {MaxPool{3, 3}, AvgPool{3, 1}}});
      }),
      "net does not fit: layer 2, avg-pool 3 stride 1, cannot take 3x2x2 (the network's input is 3x8x8)");
  EXPECT_EQ(message([] {
              place({"net", {1, 0, 4}, {Relu{}}});
            }),
            "net does not fit: the shape of its input must be positive, not 1x0x4");
  EXPECT_EQ(message([] { place({"net", {1, 4, 4}, {}}); }), "net does not fit: it has no layers");
  for (const LayerSpec& bad : std::initializer_list<LayerSpec>{
           Dense{0}, Conv2d{0, 1}, Conv2d{1, 0}, Conv2d{1, 1, 0}, Conv2d{1, 1, 1, -1}, MaxPool{0, 1},
           AvgPool{1, 0}, Shortcut{0}, Shortcut{1}}) {
    EXPECT_THROW(place({"net", {1, 4, 4}, {bad}}), std::invalid_argument) << to_string(bad);
  }
  EXPECT_NO_THROW(place({"net", {1, 4, 4}, {Conv2d{2, 5, 1, 1}}}));
}

TEST(Place, LaysParametersOneAfterTheOther) {
  const Network net{"net", {3, 9, 8}, {Conv2d{4, 3, 2, 1}, Relu{}, MaxPool{2, 2}, Dense{6}}};
  const auto placed = place(net);
  EXPECT_EQ(placed[0].out, (Shape{4, 5, 4}));
  EXPECT_EQ(placed[1].out, (Shape{4, 5, 4}));
  EXPECT_EQ(placed[2].out, (Shape{4, 2, 2}));
  EXPECT_EQ(placed[3].out, (Shape{6, 1, 1}));
  const auto e = extents(net);
  ASSERT_EQ(e.size(), 4u);
  EXPECT_EQ(e[0].shape, (std::vector<int>{4, 3, 3, 3}));
  EXPECT_EQ(e[1].shape, (std::vector<int>{4}));
  EXPECT_EQ(e[2].shape, (std::vector<int>{6, 16}));
  EXPECT_EQ(e[2].layer, 3);
  EXPECT_EQ(e[3].name, "bias");
  std::size_t next = 0;
  for (const auto& x : e) {
    EXPECT_EQ(x.first, next);
    next += x.count;
  }
  EXPECT_EQ(next, parameters(net));
  EXPECT_EQ(parameters(net), 3u * 9 * 4 + 4 + 16 * 6 + 6);
  // 20 pixels, forward and one product back; dense: forward and both back.
  EXPECT_EQ(flops_per_sample(net), 2.0 * (2 * 20 * 108 + 3 * 96));
}

TEST(Place, GivesARestAWindowThatBeginsInside) {
  const auto rows = [](int height, const LayerSpec& l) {
    return place({"net", {1, height, 9}, {l}})[0].out.height;
  };
  EXPECT_EQ(rows(5, MaxPool{2, 3, true}), 2);
  EXPECT_EQ(rows(6, MaxPool{2, 3, true}), 2);  // a third one would begin at the edge
  EXPECT_EQ(rows(7, AvgPool{2, 3, true}), 3);
  EXPECT_EQ(rows(7, AvgPool{2, 3}), 2);
}

TEST(Place, GivesBatchNormAScaleAndAShiftPerChannel) {
  const Network net{
      "net", {3, 8, 8}, {Conv2d{5, 3, 1, 1, false}, BatchNorm{}, Relu{}, Dense{2}, BatchNorm{}}};
  const auto e = extents(net);
  ASSERT_EQ(e.size(), 7u);
  const std::vector<std::string> names{"weights", "scale", "shift", "weights", "bias", "scale", "shift"};
  std::size_t next = 0;
  for (std::size_t k = 0; k < e.size(); ++k) {
    EXPECT_EQ(e[k].name, names[k]);
    EXPECT_EQ(e[k].first, next);
    next += e[k].count;
  }
  EXPECT_EQ(e[1].layer, 1);
  EXPECT_EQ(e[1].shape, (std::vector<int>{5}));
  EXPECT_EQ(e[6].shape, (std::vector<int>{2}));
  EXPECT_EQ(parameters(net), next);
  EXPECT_EQ(normalised_channels(net), 7u);
  EXPECT_EQ(flops_per_sample(net), 2.0 * (2 * 64 * 135 + 3 * 640));
}

TEST(Place, KnowsWhatAShortcutCanAdd) {
  EXPECT_EQ(shortcut_stride({3, 8, 8}, {3, 8, 8}), 1);
  EXPECT_EQ(shortcut_stride({3, 8, 8}, {6, 4, 4}), 2);
  EXPECT_EQ(shortcut_stride({3, 7, 5}, {3, 4, 3}), 2);
  EXPECT_EQ(shortcut_stride({3, 9, 9}, {3, 3, 3}), 3);
  EXPECT_EQ(shortcut_stride({3, 1, 1}, {4, 1, 1}), 1);
  EXPECT_EQ(shortcut_stride({6, 8, 8}, {3, 8, 8}), 0);  // it drops no channels
  EXPECT_EQ(shortcut_stride({3, 8, 8}, {3, 4, 8}), 0);
  EXPECT_EQ(shortcut_stride({3, 4, 4}, {3, 8, 8}), 0);
  EXPECT_EQ(message([] {
              place({"net", {3, 8, 8}, {Conv2d{2, 3}, Relu{}, Shortcut{2}}});
            }),
            "net does not fit: layer 3, shortcut over 2, cannot add 3x8x8 to 2x6x6");
  EXPECT_EQ(message([] {
              place({"net", {3, 8, 8}, {Relu{}, Shortcut{2}}});
            }),
            "net does not fit: layer 2, shortcut over 2, must begin 1 to 1 places before");
}

// A twin by hand: moments 1 and 1 over the channel's pixels and samples, then half the gradients cancel.
TEST(BatchNorm, HasItsClosedForm) {
  const Network net{"norm", {1, 2, 1}, {BatchNorm{3}}};
  for (const auto& entry : all_devices()) {
    if (!entry.unavailable().empty()) continue;
    SCOPED_TRACE(entry.name);
    const auto device = entry.make();
    const auto plan = device->plan(net, 2);
    const Vector w = vector({4, 10}), g = vector({0, 0});
    const std::vector<float> x{0, 2, 2, 0}, dy{1, 2, 3, 4};
    const float* y = plan->forward(w, x.data(), 2);  // (x - 1) / sqrt(1 + 3) * 4 + 10
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{8, 12, 12, 8}));
    EXPECT_EQ(plan->moments().mean, std::vector<double>{1});
    EXPECT_EQ(plan->moments().variance, std::vector<double>{1});
    std::vector<float> dx(4);
    plan->backward(w, dy.data(), 2, g.view(), dx.data());
    EXPECT_EQ(g.data()[0], 0);                          // sum of dy * (x - 1) / 2
    EXPECT_EQ(g.data()[1], 10);                         // sum of dy
    EXPECT_EQ(dx, (std::vector<float>{-3, -1, 1, 3}));  // 4 / 2 * (dy - 2.5)
    // With other moments: (x - 2) / sqrt(1 + 3) * 4 + 10.
    const Moments given{{2}, {1}};
    y = plan->forward(w, x.data(), 2, &given);
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{6, 10, 10, 6}));
  }
}

// The variance of numbers far from zero is not lost in their squares.
TEST(BatchNorm, FindsASmallVarianceFarFromZero) {
  const Network net{"norm", {2, 8, 8}, {BatchNorm{0}}};
  const int n = 21;
  auto x = uniform(n * net.input.size(), 1);
  for (auto& v : x) v += 1000;
  const Vector w = vector({1, 1, 0, 0});
  const auto reference = find_device("reference")->make()->plan(net, n);
  reference->forward(w, x.data(), n);
  for (const auto& entry : all_devices()) {
    if (!entry.unavailable().empty()) continue;
    const auto device = entry.make();
    const auto plan = device->plan(net, n);
    plan->forward(w, x.data(), n);
    for (int c = 0; c < 2; ++c) {
      EXPECT_NEAR(plan->moments().mean[c] / reference->moments().mean[c], 1, 1e-8) << entry.name;
      EXPECT_NEAR(plan->moments().variance[c] / reference->moments().variance[c], 1, 1e-6) << entry.name;
    }
  }
}

// Over the whole range, in double precision beside it.
TEST(Activations, AreAsExactAsFloatAllows) {
  std::vector<float> points{0.0f,   -0.0f, 1e-30f, -1e-30f, 0.624f, 0.626f,   87.5f,
                            -87.5f, 200,   -200,   1e30f,   -1e30f, INFINITY, -INFINITY};
  for (float x = -30; x < 30; x += 0.00311f) points.push_back(x);
  const std::size_t n = (points.size() + 15) / 16 * 16;
  Vector x(host_space(), n), y(host_space(), n), d(host_space(), n);
  std::copy(points.begin(), points.end(), x.data());
  const std::vector<std::pair<Activation, double (*)(double)>> all{
      {Activation::relu, [](double v) { return v <= 0 ? 0 : v; }},
      {Activation::sigmoid, [](double v) { return 1 / (1 + std::exp(-v)); }},
      {Activation::tanh, [](double v) { return std::tanh(v); }}};
  for (const auto& [kind, truth] : all) {
    SCOPED_TRACE(int(kind));
    copy(x, y);
    fill(1, d);
    activate(kind, y.data(), n);
    differentiate(kind, y.data(), d.data(), n);
    for (std::size_t i = 0; i < points.size(); ++i) {
      const double is = y.data()[i], should = truth(points[i]);
      // 1e-37: e^x is cut off where floats end.
      if (is != should) {
        EXPECT_LE(std::abs(is - should), 3e-7 * std::abs(should) + 1e-37) << points[i];
      }
      const double slope = kind == Activation::relu      ? double(is > 0)
                           : kind == Activation::sigmoid ? is * (1 - is)
                                                         : 1 - is * is;
      EXPECT_NEAR(d.data()[i], slope, 2e-7) << points[i];
    }
    fill(NAN, y);
    activate(kind, y.data(), n);
    EXPECT_TRUE(std::isnan(y.data()[0]) && std::isnan(y.data()[n - 1]));
  }
}

TEST(Transpose, MovesEveryElement) {
  for (const std::size_t rows : {1, 2, 15, 16, 17, 33, 48})
    for (const std::size_t columns : {1, 7, 16, 31, 40, 64}) {
      SCOPED_TRACE(fmt::format("{} x {}", rows, columns));
      std::vector<float> from(rows * columns), to(rows * columns, -1);
      std::iota(from.begin(), from.end(), 0.0f);
      transpose(from.data(), rows, columns, to.data());
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < columns; ++c) ASSERT_EQ(to[c * rows + r], from[r * columns + c]);
    }
}

// Without oneDNN own kernels do every layer, and it is said what is lacking.
TEST(Devices, SayWhatTheyDoWithout) {
  ASSERT_TRUE(find_device("cpu")->lacks);
  const std::string lacks = find_device("cpu")->lacks();
  EXPECT_EQ(lacks.empty(), find_device("cpu")->make()->library() != "none") << lacks;
  if (lacks.empty()) return;
  EXPECT_NE(lacks.find("oneDNN"), std::string::npos);
  for (const ModelEntry& model : all_models())
    for (const int batch : {1, 8, 32})
      for (const std::string& line :
           find_device("cpu")->make()->plan(model.make({3, 32, 32}, 10), batch)->implementations())
        EXPECT_NE(line.find(": own kernel"), std::string::npos) << line;
}

TEST(Devices, KeepTheirFormerNames) {
  EXPECT_EQ(find_device("onednn"), find_device("cpu"));
  EXPECT_EQ(device_today("onednn"), "cpu");
  EXPECT_EQ(device_today("abacus"), "abacus");
}

TEST(Devices, AreListedAndFound) {
  EXPECT_NE(find_device("reference"), nullptr);
  ASSERT_NE(find_device("cpu"), nullptr);
  EXPECT_EQ(find_device("abacus"), nullptr);
  EXPECT_EQ(find_device("reference")->unavailable(), "");
  for (const auto& d : all_devices()) {
    if (!d.unavailable().empty())
      EXPECT_TRUE(d.unavailable().find("install") != std::string::npos ||
                  d.unavailable().starts_with("no GPU: "))
          << d.unavailable();
    else
      EXPECT_EQ(d.make()->space().host(), d.name != "cudnn");
    EXPECT_FALSE(d.summary.empty());
  }
}

TEST(Devices, RefusePrecisionsThatTheyHaveNot) {
  EXPECT_EQ(find_device("cpu")->unavailable(Precision::tf32), "TF32 is a format of GPUs");
  for (const Precision p : {Precision::tf32, Precision::bf16})
    EXPECT_NE(find_device("reference")->unavailable(p), "");
}

TEST(Plan, RefusesAnEmptyMinibatch) {
  const Network net = find_model("softmax")->make({1, 2, 2}, 2);
  EXPECT_THROW(find_device("reference")->make()->plan(net, 0), std::invalid_argument);
}

}  // namespace
}  // namespace dsgd
