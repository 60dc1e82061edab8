// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "device.h"
#include "gather.h"

namespace dsgd {

// What batch norm needs to score a model: its moments over many training minibatches at exactly the weights
// that are scored ("precise batch norm", Wu & Johnson 2021, section 3.2). Kept as sums, so that ranks can
// share the work and add up the results: number of samples, then samples * mean of every channel, then
// samples * (variance + mean^2) of every channel, channels as in Moments. Empty for networks without batch
// norm.
using Statistics = std::vector<double>;

// A network on a device, fed from a data set: a pure function of the flat vector. It owns activations, but no
// weights. After construction it allocates nothing. Minibatches are cut into the pieces that the device
// prefers (Device::piece). All functions throw std::invalid_argument for more than `batch` ids and for
// samples of another shape.
class Model {
 public:
  Model(const Network& net, Device& device, int batch);
  // g <- sum over the samples `ids` of dL(w)/dw; zeros without ids. Blocks until the loss is known.
  Loss gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                const Augmentation& how = {}) {
    return begin_gradient(w, from, ids, g, how).get();
  }
  // The same without waiting for the loss. `ready` may be called for parts of g, unless the minibatch is cut
  // into pieces.
  PendingLoss begin_gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                             const Augmentation& how = {}, const OnReady& ready = {});
  // g <- the gradient at `at`, then the step `descent` with g: one CUDA graph on a GPU, unless the minibatch
  // is cut.
  PendingLoss begin_descent(ConstVec at, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                            const Augmentation& how, const Descent& descent);
  // Adds the minibatch `ids`, without augmentation, to the statistics of w. Start from statistics().
  void observe(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Statistics& into);
  Statistics statistics() const { return Statistics(channels_ ? 1 + 2 * channels_ : 0); }
  // Loss and number of correct answers over samples [first, last), without augmentation. known: the
  // statistics of w; throws std::invalid_argument if batch norm lacks them.
  Loss score(ConstVec w, const Samples& from, std::size_t first, std::size_t last,
             const Statistics& known = {});
  const Plan& plan() const { return *plan_; }

 private:
  void check(const Samples& from, std::span<const std::uint32_t> ids) const;

  std::unique_ptr<Plan> plan_;
  std::unique_ptr<Plan> scorer_;  // for scoring if minibatches are small; null: plan_
  std::string name_;
  Shape input_;
  int batch_;
  std::size_t channels_;  // of batch norm
  Moments population_;
  std::vector<std::uint32_t> ids_;  // in score()
  Vector part_;                     // gradient of a piece
};

}  // namespace dsgd
