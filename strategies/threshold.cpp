// SPDX-License-Identifier: Apache-2.0
// Threshold-quantised sparse gradients (Strom 2015). With a residual r on every worker, in every step
//   r_i <- r_i + g_i
//   r_i > tau:    send (i, +tau);  r_i <- r_i - tau
//   r_i < -tau:   send (i, -tau);  r_i <- r_i + tau
//   w <- w - alpha * (1/P) * sum over the messages      (or the optimizer's rule)
// An element beyond 2*tau is sent once, and the rest stays. Indices travel as gaps in Golomb-Rice code, as
// the paper suggests, with a bit for the sign: at most 2n bits, when all elements are sent. The paper adds
// the workers' updates and overlaps their exchange with the next gradient; here they are averaged, in
// lock-step. Where an r_i is not finite, the message says so and makes nothing but not-a-numbers.

#include <algorithm>
#include <cmath>

#include "parts/compressed.h"
#include "parts/sparse.h"

namespace dsgd {
namespace {

class Threshold final : public Compressor {
 public:
  explicit Threshold(const Settings& s) : tau_(float(s.number("tau"))) {}

  Bytes encode(ConstVec r) override {
    indices_.clear();
    for (std::size_t i = 0; i < r.size; ++i)
      if (!(std::abs(r.data[i]) <= tau_)) indices_.push_back(std::uint32_t(i));
    if (!std::all_of(indices_.begin(), indices_.end(), [&](auto i) { return std::isfinite(r.data[i]); }))
      return {};
    return Sparse::encode(r.size, indices_,
                          [&](BitWriter& out, std::uint32_t i) { out.put(r.data[i] < 0, 1); });
  }
  void add(const Bytes& message, Vec y, float a) const override {
    if (message.empty()) return fill(NAN, y);
    Sparse::decode(y.size, message,
                   [&](BitReader& in, std::uint32_t i) { y.data[i] += in.get(1) ? -a * tau_ : a * tau_; });
  }

 private:
  float tau_;
  std::vector<std::uint32_t> indices_;
};

}  // namespace

extern const StrategyEntry threshold_entry{
    .name = "threshold",
    .summary = "sync that sends +-tau for elements beyond a threshold, the rest later",
    .paper = "Strom 2015",
    .data_order = DataOrder::global,
    .parameters = {Parameter::number(
        "tau", 0.001, "elements of a worker's mean gradient beyond it are sent, as +-tau", 1e-30, 1e30)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Compressed>(c, std::make_unique<Threshold>(s));
    },
    .cost =
        [](const Settings&, const Context& c, std::int64_t steps) {
          return double(steps) * to_everyone_cost(c, bytes_of(32 + 2 * c.parameters));
        },
    .effective = every_step,
    .elements = true,
    .cost_is_bound = true,
    .tests = {.conformance = {{"tau", 8.0}},
              .identities = {{.of = Identity::none, .why = "an element travels as +-tau, whatever it is"}}}};

}  // namespace dsgd
