// SPDX-License-Identifier: Apache-2.0
// Parts of a gradient that are used before all of it is there, and portions of a vector that pass through the
// host.

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>

#include "gpu_space.h"
#include "model.h"

namespace dsgd::cuda {
namespace {

std::vector<float> values(ConstVec v) {
  std::vector<float> all(v.size);
  v.space->to_host(v.data, all.data(), v.size);
  return all;
}

// Copied beside the backward pass, each part as soon as its event allows; the copies must be the gradient.
TEST(GpuParts, AreThereWhenTheirEventSaysSo) {
  const DeviceEntry* entry = find_device("cudnn");
  if (const auto reason = entry->unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  Samples data{.shape = {3, 20, 20}, .classes = 10, .count = 64};
  for (std::size_t i = 0; i < data.count * data.shape.size(); ++i)
    data.pixels.push_back(std::uint8_t(i * i >> 5));
  for (std::size_t i = 0; i < data.count; ++i) data.labels.push_back(std::uint8_t(i % 10));
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    const auto device = entry->make(precision);
    const Space& space = device->space();
    const Network residual{"residual",
                           data.shape,
                           {Conv2d{7, 3, 1, 1, false}, BatchNorm{}, Relu{}, Conv2d{7, 3, 1, 1, false},
                            BatchNorm{}, Shortcut{3}, Relu{}, AvgPool{4, 4}, Dense{10}}};
    for (const Network& net :
         {find_model("lenet")->make(data.shape, 10), find_model("mlp")->make(data.shape, 10), residual}) {
      const std::size_t n = parameters(net);
      Model model(net, *device, 6);
      Vector start(host_space(), n), w(space, n), g(space, n), whole(space, n), copies(space, n);
      initialise(net, 1, start);
      copy(start, w);
      for (const std::size_t grain : {std::size_t(1), n / 5, n - 1}) {
        const Stream beside;
        for (std::uint32_t t = 0; t < 6; ++t) {
          SCOPED_TRACE(testing::Message() << net.name << ", grain " << grain << ", step " << t);
          std::vector<std::uint32_t> ids(t == 4 ? 3 : 6);
          std::iota(ids.begin(), ids.end(), 5 * t);
          fill(std::numeric_limits<float>::quiet_NaN(), g);
          space.wait();
          std::size_t last = n;
          const OnReady ready{
              grain, [&](std::size_t first, void* event) {
                EXPECT_GT(first, 0u);
                EXPECT_LE(first + grain, last);
                DSGD_CHECK(cudaStreamWaitEvent(beside, static_cast<cudaEvent_t>(event), 0));
                DSGD_CHECK(cudaMemcpyAsync(copies.data() + first, g.data() + first,
                                           (last - first) * sizeof(float), cudaMemcpyDeviceToDevice, beside));
                last = first;
              }};
          const Loss loss = model.begin_gradient(w, data, ids, g, {}, ready).get();
          DSGD_CHECK(cudaStreamSynchronize(beside));
          EXPECT_TRUE(last < n || grain > 1);
          EXPECT_EQ(model.gradient(w, data, ids, whole).sum, loss.sum);
          const auto is = values(g), early = values(copies), should = values(whole);
          EXPECT_EQ(std::memcmp(is.data(), should.data(), n * sizeof(float)), 0);
          EXPECT_EQ(std::memcmp(early.data() + last, should.data() + last, (n - last) * sizeof(float)), 0);
        }
      }
    }
  }
}

constexpr std::size_t portion = 1 << 16;  // of a vector

TEST(GpuPortions, PassThroughTheHostInTheOrderOfTheCalls) {
  if (!unavailable().empty()) GTEST_SKIP() << unavailable();
  const Space& space = gpu_space();
  for (const std::size_t n : {std::size_t(0), std::size_t(1), portion - 1, portion, portion + 1, 3 * portion,
                              4 * portion, 4 * portion + 1, 11 * portion + 77})
    for (const auto way : {Space::Way::read, Space::Way::write, Space::Way::both}) {
      SCOPED_TRACE(testing::Message() << n << " elements, way " << int(way));
      std::vector<float> x(n), y(n);
      std::iota(x.begin(), x.end(), 1.0f);
      Vector v(space, n), later(space, n);
      copy(ConstVec{x.data(), n, &host_space()}, v);
      for (int times = 1; times < 4; ++times) {
        scale(0.5f, v.view());
        std::size_t next = 0;
        space.through_host(v.data(), n, way, [&](std::size_t first, float* at, std::size_t count) {
          EXPECT_EQ(first, next);
          next = first + count;
          for (std::size_t i = 0; i < count; ++i) {
            if (way != Space::Way::write) y[first + i] = at[i];
            at[i] = way == Space::Way::write ? 2 * x[first + i] : at[i] + 1;
          }
        });
        copy(v, later);
        fill(0, v.view());
        copy(later, v);
        EXPECT_EQ(next, n);
        for (std::size_t i = 0; i < n; ++i) {
          x[i] *= way == Space::Way::write ? 2 : 0.5f;
          if (way != Space::Way::write && y[i] != x[i]) return ADD_FAILURE() << "element " << i, void();
          if (way == Space::Way::both) x[i] += 1;
        }
        EXPECT_EQ(values(v), x);
      }
    }
}

// While the host has one of them, the next one comes and the last one goes back, without its help.
TEST(GpuPortions, AreOnTheirWayWhileTheHostWorks) {
  if (!unavailable().empty()) GTEST_SKIP() << unavailable();
  const GpuSpace& space = gpu_space();
  constexpr std::size_t n = 6 * portion + 5, portions = 4;
  const auto value = [](std::size_t j) { return 1000.25f + float(j / portion); };
  std::vector<float> x(n);
  for (std::size_t j = 0; j < n; ++j) x[j] = value(j);
  Vector v(space, n);
  copy(ConstVec{x.data(), n, &host_space()}, v);
  const Memory back = Memory::pinned(sizeof(float));
  const Stream beside;
  const float* pinned = nullptr;
  space.through_host(v.data(), n, Space::Way::both, [&](std::size_t first, float* at, std::size_t count) {
    if (first == 0) pinned = at;
    EXPECT_EQ(at[count - 1], value(first));
    space.wait();
    const std::size_t next = first + portion;
    if (next < n) {
      EXPECT_EQ(pinned[next / portion % portions * portion], value(next));
    }
    if (first > 0) {
      DSGD_CHECK(
          cudaMemcpyAsync(back.data(), v.data() + first - 1, sizeof(float), cudaMemcpyDeviceToHost, beside));
      DSGD_CHECK(cudaStreamSynchronize(beside));
      EXPECT_EQ(*back.as<float>(), value(first - 1) + 1);
    }
    for (std::size_t i = 0; i < count; ++i) at[i] += 1;
  });
}

}  // namespace
}  // namespace dsgd::cuda
