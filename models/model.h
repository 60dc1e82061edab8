// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "device.h"
#include "gather.h"

namespace dsgd {

// What batch norm needs to know of the training samples to score a model: its moments over many minibatches
// with exactly the weights that are scored ("precise batch norm", Wu & Johnson 2021, section 3.2). Sums, so
// that ranks can share the work and add up: samples, samples * mean of every channel, samples * (variance +
// mean^2) of every channel, channels as in Moments. Empty for networks without batch norm.
using Statistics = std::vector<double>;

// A network on a device, fed from a data set: a pure function of the flat vector. Owns activations, never
// weights. Nothing allocates after construction. A large minibatch is cut into the pieces that the device
// likes; batch norm takes moments of whole minibatches, so they are not cut then.
class Model {
 public:
  Model(const Network& net, Device& device, int batch);
  // g <- sum over the samples `ids` (at most `batch`) of dL(w)/dw. No ids: g <- 0.
  Loss gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                const Augmentation& how = {}) {
    return begin_gradient(w, from, ids, g, how).get();
  }
  // The same, but the loss may still have to be waited for, and `ready` may have been told of parts of g.
  PendingLoss begin_gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                             const Augmentation& how = {}, const OnReady& ready = {});
  // The same gradient, and then the step `descent` with that g: one graph on a GPU.
  PendingLoss begin_descent(ConstVec at, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                            const Augmentation& how, const Descent& descent);
  // The minibatch `ids` (at most `batch`), as it is, is added to the statistics; of no samples:
  // `statistics()`.
  void observe(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Statistics& into);
  Statistics statistics() const { return Statistics(channels_ ? 1 + 2 * channels_ : 0); }
  // Loss and number of correct answers over samples [first, last), as they are. `known`: the statistics of w.
  Loss score(ConstVec w, const Samples& from, std::size_t first, std::size_t last,
             const Statistics& known = {});
  const Plan& plan() const { return *plan_; }

 private:
  void check(const Samples& from, std::span<const std::uint32_t> ids) const;

  std::unique_ptr<Plan> plan_;
  std::unique_ptr<Plan> scorer_;  // for more samples at a time than small minibatches have; null: plan_
  std::string name_;
  Shape input_;
  int batch_;
  std::size_t channels_;  // of batch norm
  Moments population_;
  std::vector<std::uint32_t> ids_;  // for score
  Vector part_;                     // gradient of a piece
};

}  // namespace dsgd
