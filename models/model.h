#pragma once

#include <memory>
#include <span>

#include "datasets/gather.h"
#include "models/device.h"

namespace dsgd {

// A network on a device, fed from a data set: a pure function of the flat vector. Owns activations, never
// weights. Nothing allocates after construction. A large minibatch is cut into the pieces that the device
// likes.
class Model {
 public:
  Model(const Network& net, Device& device, int batch);
  // g <- sum over the samples `ids` (at most `batch`) of dL(w)/dw. No ids: g <- 0.
  Loss gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                const Augmentation& how = {});
  // Loss and number of correct answers over samples [first, last), as they are.
  Loss score(ConstVec w, const Samples& from, std::size_t first, std::size_t last);
  const Plan& plan() const { return *plan_; }

 private:
  // Fills x_ and labels_.
  void fetch(const Samples& from, std::span<const std::uint32_t> ids, const Augmentation& how = {});

  std::unique_ptr<Plan> plan_;
  Shape input_;
  int batch_;
  std::vector<float> x_;  // one piece
  std::vector<std::uint8_t> labels_;
  std::vector<std::uint32_t> ids_;  // for score
  Vector part_;                     // gradient of a piece
};

}  // namespace dsgd
