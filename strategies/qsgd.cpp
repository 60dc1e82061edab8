// SPDX-License-Identifier: Apache-2.0
// Quantised SGD (Alistarh, Grubic, Li, Tomioka, Vojnovic 2017). Every bucket of d elements travels as one
// norm and, for every element, its sign and a level of 0..s, drawn so that the mean is right:
//   a = s * |v_i| / norm;   level = floor(a) + 1 with probability a - floor(a), else floor(a)
//   Q(v_i) = norm * sign(v_i) * level / s;   E Q(v_i) = v_i
//   w <- w - alpha * (1/P) * sum over the messages      (or the optimizer's rule)
// The norm is the largest |v_i|, as in the paper's experiments, or its theory's |v|_2. A level takes `bits` -
// 1 bits, s = 2^(bits - 1) - 1: the paper's theory has Elias codes for it, its experiments do not gain by
// them. Nothing stays behind.

#include <algorithm>
#include <cmath>

#include "parts/compressed.h"
#include "uniform.h"

namespace dsgd {
namespace {

class Qsgd final : public Compressor {
 public:
  Qsgd(const Settings& s, const Context& c)
      : bits_(int(s.integer("bits"))),
        levels_((1 << (bits_ - 1)) - 1),
        bucket_(std::size_t(s.integer("bucket"))),
        euclidean_(s.text("norm") == "l2"),
        state_(c.seed * 0x9e3779b97f4a7c15u + std::uint64_t(c.rank)) {}
  static std::size_t bytes(const Settings& s, std::size_t n) {
    const auto bucket = std::size_t(s.integer("bucket"));
    return bytes_of(32 * ((n + bucket - 1) / bucket) + n * std::size_t(s.integer("bits")));
  }

  Bytes encode(ConstVec v) override {
    BitWriter out;
    for (std::size_t first = 0; first < v.size; first += bucket_) {
      const ConstVec part = v.part(first, std::min(bucket_, v.size - first));
      const float norm = norm_of(part), scale = norm > 0 ? float(levels_) / norm : 0;
      out.put(norm);
      for (std::size_t i = 0; i < part.size; ++i) {
        const float exact = std::abs(part.data[i]) * scale;
        const float a = exact < float(levels_) ? exact : float(levels_);  // also where it is not a number
        const int below = int(a);
        const int level = below + (random() < a - float(below));
        out.put(std::uint64_t(level << 1 | (part.data[i] < 0)), bits_);
      }
    }
    return out.take();
  }
  void add(const Bytes& message, Vec y, float a) const override {
    BitReader in(message);
    float unit = 0;
    for (std::size_t i = 0; i < y.size; ++i) {
      if (i % bucket_ == 0) unit = a * in.number() / float(levels_);
      const std::uint32_t code = in.get(bits_);
      y.data[i] += unit * float(code & 1 ? -int(code >> 1) : int(code >> 1));
    }
  }
  void settle(const Bytes&, Vec p) const override { fill(0, p); }
  void visit(State& state, const std::string& name) override { state.number(name + " draws", draws_); }

 private:
  float norm_of(ConstVec v) const {
    if (euclidean_) return float(std::sqrt(dot(v, v)));
    float most = 0;
    for (std::size_t i = 0; i < v.size; ++i) {
      const float size = std::abs(v.data[i]);
      if (size > most || std::isnan(size)) most = size;  // once not a number, for ever
    }
    return most;
  }
  float random() { return uniform(state_ + std::uint64_t(++draws_) * 0xd1342543de82ef95u); }

  int bits_, levels_;
  std::size_t bucket_;
  bool euclidean_;
  std::uint64_t state_;
  std::int64_t draws_ = 0;
};

}  // namespace

extern const StrategyEntry qsgd_entry{
    .name = "qsgd",
    .summary = "sync with stochastically rounded gradients",
    .paper = "Alistarh, Grubic, Li, Tomioka, Vojnovic 2017",
    .data_order = DataOrder::global,
    .parameters = {Parameter::integer("bits", 4, "bits of an element: its sign and its level", 2, 16),
                   Parameter::integer("bucket", 512, "consecutive elements that share a norm", 1, 1e9),
                   Parameter::choice(
                       "norm", "max", {"max", "l2"},
                       "what a bucket is divided by: its largest element or its Euclidean norm")},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Compressed>(c, std::make_unique<Qsgd>(s, c));
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          return double(steps) * to_everyone_cost(c, Qsgd::bytes(s, c.parameters));
        },
    .effective = every_step,
    .elements = true,
    .tests = {.conformance = {{"bucket", std::int64_t(5)}},
              .identities = {
                  {.of = Identity::sync, .settings = {{"bucket", std::int64_t(1)}}, .rounding = 1}}}};

}  // namespace dsgd
