// SPDX-License-Identifier: Apache-2.0
// 1-bit SGD (Seide, Fu, Droppo, Li, Yu 2014). On every worker, in every step, with a residual e
//   p <- g + e
//   q_i = (p_i >= 0);   C(p)_i = mean of the p_j with q_j = q_i in its bucket      (least squares)
//   e <- p - C(p)
// The gradient is quantised twice: worker k adds up the k-th slice of all workers' messages, and sends the
// mean, with a residual of its own, through the same quantiser to everyone.
//   w <- w - alpha * what came back      (or the optimizer's rule)
// The paper's buckets are the columns of the weight matrices, here `bucket` consecutive elements of a slice;
// it applies Adagrad and momentum before the second quantisation, here they are everybody's, after it.

#include <algorithm>

#include "parts/compressed.h"

namespace dsgd {
namespace {

class OneBit final : public Compressor {
 public:
  explicit OneBit(const Settings& s) : bucket_(std::size_t(s.integer("bucket"))) {}
  static std::size_t bytes(const Settings& s, std::size_t n) {
    const auto bucket = std::size_t(s.integer("bucket"));
    return bytes_of(64 * ((n + bucket - 1) / bucket) + n);
  }

  Bytes encode(ConstVec p) override {
    BitWriter out;
    for (std::size_t first = 0; first < p.size; first += bucket_) {
      const ConstVec part = p.part(first, std::min(bucket_, p.size - first));
      double sum[2] = {}, count[2] = {};
      for (std::size_t i = 0; i < part.size; ++i) {
        const bool q = part.data[i] >= 0;
        sum[q] += part.data[i];
        ++count[q];
      }
      for (const int q : {0, 1}) out.put(float(sum[q] / std::max(1.0, count[q])));
      for (std::size_t i = 0; i < part.size; ++i) out.put(part.data[i] >= 0, 1);
    }
    return out.take();
  }
  void add(const Bytes& message, Vec y, float a) const override {
    BitReader in(message);
    float mean[2] = {};
    for (std::size_t i = 0; i < y.size; ++i) {
      if (i % bucket_ == 0)
        for (float& m : mean) m = a * in.number();
      y.data[i] += mean[in.get(1)];
    }
  }

 private:
  std::size_t bucket_;
};

}  // namespace

extern const StrategyEntry onebit_entry{
    .name = "onebit",
    .summary = "sync with one bit an element, both ways, the error later",
    .paper = "Seide, Fu, Droppo, Li, Yu 2014",
    .data_order = DataOrder::global,
    .parameters = {Parameter::integer("bucket", 512, "consecutive elements that share two values", 1, 1e9)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Compressed>(c, std::make_unique<OneBit>(s), std::make_unique<OneBit>(s));
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          return double(steps) * through_owners_cost(c, [&](std::size_t n) { return OneBit::bytes(s, n); });
        },
    .effective = every_step,
    .collectives = 2,
    .elements = true,
    .tests = {.conformance = {{"bucket", std::int64_t(3)}},
              .identities = {{.of = Identity::sync, .settings = {{"bucket", std::int64_t(1)}}}}}};

}  // namespace dsgd
