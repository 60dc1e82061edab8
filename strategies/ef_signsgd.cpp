// SPDX-License-Identifier: Apache-2.0
// Scaled signs with error feedback (Karimireddy, Rebjock, Stich, Jaggi 2019), to everyone. For each tensor
//   p_k <- g_k + e_k;   C(p_k) = |p_k|_1 / n * sign(p_k);   e_k <- p_k - C(p_k)      sign(0) = 1
//   w <- w - alpha * (1/P) * sum_k C(p_k)               (or the optimizer's rule)
// The paper has one worker, and alpha within p and e: the same at a constant rate.

#include <algorithm>
#include <cmath>

#include "parts/compressed.h"

namespace dsgd {
namespace {

class ScaledSign final : public Compressor {
 public:
  explicit ScaledSign(const Context& c) : tensors_(c.optimizer.layers) {
    if (tensors_.empty()) tensors_.push_back({.first = 0, .count = c.parameters});
  }
  Bytes encode(ConstVec p) override {
    BitWriter out;
    for (const Extent& tensor : tensors_) {
      const ConstVec part = p.part(tensor.first, tensor.count);
      double sum = 0;
      for (std::size_t i = 0; i < part.size; ++i) sum += std::abs(part.data[i]);
      out.put(float(sum / double(part.size)));
      put_signs(out, part);
    }
    return out.take();
  }
  void add(const Bytes& message, Vec y, float a) const override {
    BitReader in(message);
    for (const Extent& tensor : tensors_) {
      const float size = in.number();
      add_signs(in, a * size, y.part(tensor.first, tensor.count));
    }
  }

 private:
  std::vector<Extent> tensors_;
};

}  // namespace

extern const StrategyEntry ef_signsgd_entry{
    .name = "ef_signsgd",
    .summary = "the scaled sign of each worker's gradient, the error later",
    .paper = "Karimireddy, Rebjock, Stich, Jaggi 2019",
    .data_order = DataOrder::global,
    .make = [](const Settings&, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Compressed>(c, std::make_unique<ScaledSign>(c));
    },
    .cost =
        [](const Settings&, const Context& c, std::int64_t steps) {
          const std::size_t tensors = std::max<std::size_t>(1, c.optimizer.layers.size());
          return double(steps) * to_everyone_cost(c, bytes_of(32 * tensors + c.parameters));
        },
    .effective = every_step,
    .elements = true,
    .tests = {.identities = {{.of = Identity::none, .why = "all elements of a tensor travel as one size"}}}};

}  // namespace dsgd
