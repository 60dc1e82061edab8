// Parts of a gradient that are used before all of it is there.

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>

#include "models/cuda.h"
#include "models/model.h"

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

}  // namespace
}  // namespace dsgd::cuda
