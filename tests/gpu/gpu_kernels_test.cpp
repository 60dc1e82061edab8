// SPDX-License-Identifier: Apache-2.0
// The arithmetic of the GPU's own kernels, compiled for the host, against the reference: what can be tested
// of them where there is no GPU.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

#include "device.h"
#include "devices/cudnn/layers.cu"
#include "gather.h"

namespace dsgd::cuda {

void on_host(cudaStream_t, std::function<void()> kernel) { kernel(); }

namespace {

constexpr int batch = 5, n = 3;  // two rows are not of the minibatch

std::vector<float> integers(std::size_t count, unsigned seed) {  // few, so that there are equal ones
  std::mt19937 bits(seed);
  std::vector<float> v(count);
  for (float& x : v) x = float(int(bits() % 9) - 4);
  return v;
}

std::vector<float> uniform(std::size_t count, unsigned seed) {
  std::mt19937 bits(seed);
  std::vector<float> v(count);
  for (float& x : v) x = float(bits()) / 2147483648.0f - 1;
  return v;
}

void expect_near(const std::vector<float>& is, const float* should, double tolerance,
                 const std::string& what) {
  double far = 0, size = 1e-30;
  for (std::size_t i = 0; i < is.size(); ++i) {
    far += std::pow(double(is[i]) - should[i], 2);
    size += std::pow(double(should[i]), 2);
  }
  EXPECT_LE(std::sqrt(far / size), tolerance) << what;
}

class GpuKernels : public testing::Test {
 protected:
  GpuKernels() : posted(Step::size(batch)) {
    auto& s = *reinterpret_cast<Step*>(posted.data());
    s.n = n;
    s.slot = 1;
    s.ticket = 7;
  }
  Step* step() { return reinterpret_cast<Step*>(posted.data()); }
  std::vector<std::byte> posted;
  std::unique_ptr<Kernels> kernels = make_kernels_on_host(nullptr, Type::f32, batch);
  std::vector<double> parts = std::vector<double>(kernels->parts_size(64));
};

Image image(const Shape& s) { return {s.channels, s.height, s.width}; }

// What the reference makes of one layer.
struct Truth {
  Truth(const Shape& input, const LayerSpec& layer, const std::vector<float>& x, const std::vector<float>& dy,
        int rows, const std::vector<float>& weights = {})
      : out(dsgd::place({"one", input, {layer}}).back().out),
        dx(std::size_t(rows) * input.size()),
        g(weights.size()) {
    const auto device = find_device("reference")->make();
    plan = device->plan({"one", input, {layer}}, batch);
    Vector w(host_space(), weights.size()), dw(host_space(), weights.size());
    std::copy(weights.begin(), weights.end(), w.data());
    const float* from = plan->forward(w, x.data(), rows);
    y.assign(from, from + std::size_t(rows) * out.size());
    if (!dy.empty()) plan->backward(w, dy.data(), rows, dw, dx.data());
    std::copy_n(dw.data(), g.size(), g.begin());
  }
  std::unique_ptr<Plan> plan;
  Shape out;
  std::vector<float> y, dx, g;
};

TEST_F(GpuKernels, Pool) {
  struct Case {
    Shape in;
    int size, stride;
    bool ceil;
  };
  for (const auto& [in, size, stride, ceil] :
       {Case{{1, 4, 4}, 2, 2, false}, Case{{3, 7, 5}, 2, 2, false}, Case{{4, 7, 9}, 3, 2, false},
        Case{{3, 6, 6}, 3, 1, false}, Case{{5, 8, 8}, 2, 3, false}, Case{{2, 3, 3}, 3, 3, false},
        Case{{3, 8, 7}, 3, 2, true}, Case{{3, 6, 9}, 2, 4, true}, Case{{4, 1, 1}, 1, 1, false}})
    for (const bool max : {true, false}) {
      const LayerSpec layer =
          max ? LayerSpec(MaxPool{size, stride, ceil}) : LayerSpec(AvgPool{size, stride, ceil});
      const std::string what = to_string(layer) + " of " + to_string(in);
      const Shape out = dsgd::place({"one", in, {layer}}).back().out;
      const auto x = integers(batch * in.size(), 1), dy = integers(batch * out.size(), 2);
      const Truth truth(in, layer, x, dy, batch);
      std::vector<float> y(batch * out.size(), NAN), dx(batch * in.size(), NAN);
      kernels->pool(image(in), image(out), {size, stride, max}, nullptr, Act::none, x.data(), y.data());
      kernels->pool_back(image(in), image(out), {size, stride, max}, x.data(), dy.data(), dx.data());
      expect_near(y, truth.y.data(), max ? 0 : 1e-6, what);
      expect_near(dx, truth.dx.data(), max ? 0 : 1e-6, what + ", back");
      // Of bfloat16 the same: these numbers have few digits.
      const auto half = make_kernels_on_host(nullptr, Type::bf16, batch);
      std::vector<__nv_bfloat16> hx(x.begin(), x.end()), hdy(dy.begin(), dy.end()), hy(y.size()),
          hdx(dx.size());
      half->pool(image(in), image(out), {size, stride, max}, nullptr, Act::none, hx.data(), hy.data());
      half->pool_back(image(in), image(out), {size, stride, max}, hx.data(), hdy.data(), hdx.data());
      std::vector<float> back(y.size()), dback(dx.size());
      half->give(hy.data(), y.size(), back.data());
      half->give(hdx.data(), dx.size(), dback.data());
      expect_near(back, truth.y.data(), max ? 0 : 1e-2, what + " in bfloat16");
      expect_near(dback, truth.dx.data(), max ? 0 : 1e-2, what + " in bfloat16, back");
    }
}

// Of a convolution's output: bias and activation after the pooling are those before it.
TEST_F(GpuKernels, BiasActivationAndPool) {
  const Shape in{3, 7, 6}, out{3, 3, 3};
  const auto x = uniform(batch * in.size(), 1), bias = uniform(3, 2), dy = uniform(batch * out.size(), 3);
  for (const Act act : {Act::relu, Act::tanh}) {
    auto moved = x;
    for (std::size_t i = 0; i < x.size(); ++i) moved[i] += bias[i / 42 % 3];
    auto biased = x;
    kernels->bias(image(in), bias.data(), act, biased.data());
    const Truth activation(in, act == Act::relu ? LayerSpec(Relu{}) : LayerSpec(Tanh{}), moved, {}, batch);
    expect_near(biased, activation.y.data(), 1e-6, "bias");
    const Truth pooled(in, MaxPool{2, 2}, activation.y, dy, batch);
    std::vector<float> y(batch * out.size());
    kernels->pool(image(in), image(out), {2, 2, true}, bias.data(), act, x.data(), y.data());
    expect_near(y, pooled.y.data(), 1e-6, "bias, activation, pool");
    // Back: through the activation at the pooled size, then through the pool.
    const Truth whole(in, act == Act::relu ? LayerSpec(Relu{}) : LayerSpec(Tanh{}), moved, pooled.dx, batch);
    auto d = dy;
    std::vector<float> dx(x.size());
    kernels->act_back(act, out.size(), y.data(), d.data());
    kernels->pool_back(image(in), image(out), {2, 2, true}, x.data(), d.data(), dx.data());
    expect_near(dx, whole.dx.data(), 1e-6, "back");
  }
}

TEST_F(GpuKernels, Activations) {
  const Shape in{2, 3, 5};
  const auto x = uniform(batch * in.size(), 1), dy = uniform(batch * in.size(), 2);
  const std::pair<Act, LayerSpec> all[] = {
      {Act::relu, Relu{}}, {Act::sigmoid, Sigmoid{}}, {Act::tanh, Tanh{}}};
  for (const auto& [act, layer] : all) {
    const Truth truth(in, layer, x, dy, batch);
    std::vector<float> y(x.size()), d = dy;
    kernels->pool(image(in), image(in), {1, 1, true}, nullptr, act, x.data(), y.data());
    kernels->act_back(act, in.size(), y.data(), d.data());
    expect_near(y, truth.y.data(), 1e-6, to_string(layer));
    expect_near(d, truth.dx.data(), 1e-6, to_string(layer));
  }
}

TEST_F(GpuKernels, SumsOfABias) {
  for (const Shape& s : {Shape{7, 1, 1}, Shape{3, 41, 29}, Shape{1, 5, 5}}) {
    const auto dy = integers(batch * s.size(), 1);
    std::vector<float> db(std::size_t(s.channels), NAN), should(db.size());
    for (std::size_t e = 0; e < dy.size(); ++e) should[e / (s.size() / s.channels) % s.channels] += dy[e];
    kernels->bias_back(image(s), dy.data(), parts.data(), db.data());
    EXPECT_EQ(db, should) << to_string(s);
  }
}

TEST_F(GpuKernels, BatchNorm) {
  for (const Shape& s : {Shape{3, 5, 7}, Shape{2, 41, 29}, Shape{4, 1, 1}}) {
    const std::size_t row = s.size(), rows = std::size_t(n) * row;
    auto x = uniform(batch * row, 1), dy = uniform(batch * row, 2);
    for (std::size_t i = rows; i < x.size(); ++i) x[i] = dy[i] = 0;
    auto weights = uniform(2 * std::size_t(s.channels), 3);
    const struct BatchNorm layer { 1e-3 };
    const Truth truth(s, layer, x, dy, n, weights);
    std::vector<double> moments(2 * std::size_t(s.channels)), sums(moments.size());
    std::vector<float> y(x.size(), NAN), dx(x.size(), NAN), g(weights.size(), NAN);
    const float *scale = weights.data(), *shift = scale + s.channels;
    kernels->moments(step(), image(s), x.data(), parts.data(), moments.data());
    kernels->norm(image(s), layer.epsilon, moments.data(), scale, shift, x.data(), nullptr, image(s), 1,
                  Act::none, y.data());
    kernels->norm_sums(step(), image(s), layer.epsilon, moments.data(), x.data(), dy.data(), parts.data(),
                       sums.data(), g.data(), g.data() + s.channels);
    kernels->norm_back(step(), image(s), layer.epsilon, moments.data(), scale, sums.data(), x.data(),
                       dy.data(), dx.data());
    for (int c = 0; c < s.channels; ++c) {
      EXPECT_NEAR(moments[2 * c], truth.plan->moments().mean[c], 1e-12);
      EXPECT_NEAR(moments[2 * c + 1], truth.plan->moments().variance[c], 1e-12);
    }
    EXPECT_TRUE(std::all_of(y.begin(), y.end(), [](float v) { return std::isfinite(v); }));
    EXPECT_TRUE(std::all_of(dx.begin() + std::ptrdiff_t(rows), dx.end(), [](float v) { return v == 0; }));
    y.resize(rows);
    dx.resize(rows);
    expect_near(y, truth.y.data(), 1e-6, to_string(s));
    expect_near(dx, truth.dx.data(), 1e-5, to_string(s));
    expect_near(g, truth.g.data(), 1e-6, to_string(s));
  }
}

// Every stride-th pixel, missing channels zero; the way back is the transposed of the way forth.
TEST_F(GpuKernels, Shortcut) {
  struct Case {
    Image from, to;
    int stride;
  };
  for (const auto& [from, to, stride] : {Case{{3, 6, 7}, {3, 6, 7}, 1}, Case{{3, 7, 9}, {8, 4, 5}, 2},
                                         Case{{2, 9, 9}, {2, 3, 3}, 3}, Case{{3, 1, 1}, {4, 1, 1}, 1}}) {
    const auto x = integers(batch * to.size(), 1), earlier = integers(batch * from.size(), 2),
               dy = integers(batch * to.size(), 3), before = integers(batch * from.size(), 4);
    auto should = x, there = before;
    for (int i = 0; i < batch; ++i)
      for (int c = 0; c < from.channels; ++c)
        for (int r = 0; r < to.height; ++r)
          for (int k = 0; k < to.width; ++k)
            should[((std::size_t(i) * to.channels + c) * to.height + r) * to.width + k] +=
                earlier[((std::size_t(i) * from.channels + c) * from.height + r * stride) * from.width +
                        k * stride];
    std::vector<float> y(x.size());
    kernels->shortcut(to, from, stride, x.data(), earlier.data(), Act::none, y.data());
    EXPECT_EQ(y, should);
    kernels->shortcut_back(to, from, stride, dy.data(), there.data());
    double forth = 0, back = 0;
    for (std::size_t e = 0; e < y.size(); ++e) forth += (y[e] - x[e]) * dy[e];
    for (std::size_t e = 0; e < there.size(); ++e) back += (there[e] - before[e]) * earlier[e];
    EXPECT_EQ(forth, back);
    // As batch norm takes it, with mean 0, variance 1 and no epsilon.
    std::vector<double> moments;
    for (int c = 0; c < to.channels; ++c) moments.insert(moments.end(), {0, 1});
    const std::vector<float> ones(std::size_t(to.channels), 1), zeros(std::size_t(to.channels));
    kernels->norm(to, 0, moments.data(), ones.data(), zeros.data(), x.data(), earlier.data(), from, stride,
                  Act::none, y.data());
    EXPECT_EQ(y, should);
  }
}

TEST_F(GpuKernels, Gather) {
  Samples data{.shape = {3, 12, 9}, .classes = 10, .count = 50};
  std::mt19937 bits(1);
  for (std::size_t i = 0; i < data.count * data.shape.size(); ++i)
    data.pixels.push_back(std::uint8_t(bits()));
  for (std::size_t i = 0; i < data.count; ++i) data.labels.push_back(std::uint8_t(bits() % 10));
  for (const bool normalised : {false, true}) {
    if (normalised) data.channels = {{0.01f, -0.5f}, {0.02f, 0.25f}, {1.0f / 3, 1.0f / 7}};
    auto affine = data.channels;
    if (!normalised) affine.assign(3, {1.0f / 255, 0});
    for (int epoch = 0; epoch < 20; ++epoch) {
      const Augmentation how{.crop_flip = epoch > 0, .seed = 5, .epoch = epoch};
      const std::vector<std::uint32_t> ids{std::uint32_t(bits() % 50), 0, 49};
      std::vector<float> should(batch * data.shape.size()), x(should.size(), NAN);
      std::vector<std::uint8_t> labels(batch), should_labels(batch);
      dsgd::gather(data, ids, should.data(), should_labels.data(), how);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const Crop crop = how.crop_flip ? draw_crop(how, ids[i]) : Crop{};
        step()->picks[i] = {ids[i], std::int8_t(crop.down), std::int8_t(crop.right), crop.flip};
      }
      kernels->gather(step(), data.pixels.data(), data.labels.data(), affine.data(), image(data.shape),
                      x.data(), labels.data());
      EXPECT_EQ(x, should) << epoch;
      EXPECT_EQ(labels, should_labels);
    }
  }
}

TEST_F(GpuKernels, Loss) {
  constexpr int classes = 7;
  const auto logits = uniform(batch * classes, 1);
  const std::vector<std::uint8_t> labels{6, 0, 3, 9, 9};
  std::vector<float> d(batch * classes, NAN), should(batch * classes);
  Scored slots[2] = {};
  std::uint64_t done = 0;
  std::vector<std::byte> own(kernels->loss_size());
  kernels->loss(step(), logits.data(), labels.data(), classes, d.data(), own.data(), slots, &done);
  const dsgd::Loss loss = softmax_cross_entropy(logits.data(), labels.data(), n, classes, should.data());
  EXPECT_DOUBLE_EQ(slots[1].loss, loss.sum);
  EXPECT_EQ(slots[1].correct, loss.correct);
  EXPECT_EQ(done, 7u);
  EXPECT_EQ(d, should);
}

// The step's constants, not those that a graph was made with.
TEST_F(GpuKernels, Descend) {
  constexpr std::size_t size = 1000;
  for (const std::string& rule : optimizer_rules()) {
    if (rule == "lars") continue;
    OptimizerSettings settings{.rule = optimizer_rule(rule), .l2 = 0.01};
    Vector should(host_space(), size), is(host_space(), size), g(host_space(), size);
    for (Vector* v : {&should, &is, &g}) std::copy_n(uniform(size, v == &g).begin(), size, v->data());
    Optimizer here(settings, host_space(), size), there(settings, host_space(), size);
    for (int t = 0; t < 3; ++t) {
      here.step(should, g, 0.125, t);
      Descent descent = *there.next(is, 0.125, t);
      step()->update = std::exchange(descent.update, {NAN, NAN, NAN, NAN, NAN});
      step()->adam = std::exchange(descent.adam, {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN});
      kernels->descend(step(), descent, g.data());
      EXPECT_TRUE(std::equal(is.data(), is.data() + size, should.data())) << rule << ", step " << t;
    }
    const Vec a = here.state(), b = there.state();
    EXPECT_TRUE(std::equal(a.data, a.data + a.size, b.data)) << rule;
  }
}

TEST_F(GpuKernels, PackAndUnpack) {
  const Piece pieces[] = {{1, 0, 3}, {10, 64, 5}};
  const auto w = uniform(20, 1);
  std::vector<float> copies(128), back(20);
  kernels->pack(pieces, 2, w.data(), copies.data());
  EXPECT_EQ(copies[2], w[3]);
  EXPECT_EQ(copies[68], w[14]);
  kernels->unpack(pieces, 2, copies.data(), back.data());
  for (std::size_t i = 0; i < 20; ++i)
    EXPECT_EQ(back[i], (i >= 1 && i < 4) || (i >= 10 && i < 15) ? w[i] : 0) << i;
}

TEST_F(GpuKernels, Take) {
  const auto rows = uniform(n * 4, 1);
  std::vector<float> x(batch * 4, NAN);
  kernels->take(step(), rows.data(), 4, x.data());
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), x.begin()));
  EXPECT_EQ(std::count(x.begin() + n * 4, x.end(), 0.0f), 8);
}

}  // namespace
}  // namespace dsgd::cuda
