// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <stdexcept>

#include "device.h"

namespace dsgd {
namespace {

class HollowPlan final : public Plan {
 public:
  using Plan::Plan;
  const float* forward(ConstVec, const float*, int, const Moments*) override {
    throw std::logic_error("a model without weights has no outputs");
  }
  void backward(ConstVec, const float*, int, Vec, float*) override {}
  std::vector<std::string> implementations() const override { return {"none: gradients are skipped"}; }
  using Plan::gradient;
  PendingLoss gradient(ConstVec, const Samples&, std::span<const std::uint32_t>, const Augmentation&, Vec,
                       const OnReady&) override {
    return Loss{.sum = std::numeric_limits<double>::quiet_NaN()};
  }
};

class Hollow final : public Device {
 public:
  const Space& space() const override { return hollow_space(); }
  std::unique_ptr<Plan> plan(const Network& net, int batch) override {
    return std::make_unique<HollowPlan>(net, batch);
  }
};

}  // namespace

std::unique_ptr<Device> make_hollow() { return std::make_unique<Hollow>(); }

}  // namespace dsgd
