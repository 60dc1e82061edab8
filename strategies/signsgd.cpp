// One bit for every element, its sign.
//
// signsgd: signSGD and Signum with majority vote (Bernstein, Wang, Azizzadenesheli, Anandkumar 2018;
// Bernstein, Zhao, Azizzadenesheli, Anandkumar 2019). Votes are counted by a server; here by the owner of
// each slice, so that a bit travels each way:
//   m_k <- beta * m_k + (1 - beta) * g_k               beta = 0: signSGD
//   w <- w - alpha * sign(sum_k sign(m_k))
// Every weight moves by alpha in every step, so rates are far below those of SGD. A bit has no room for zeros
// and ties, which the paper leaves open: they count as - and + in turn, step by step, so that they move
// nothing in the long run.
//
// ef_signsgd: with error feedback (Karimireddy, Rebjock, Stich, Jaggi 2019), to everyone. For each tensor
//   p_k <- g_k + e_k;   C(p_k) = |p_k|_1 / n * sign(p_k);   e_k <- p_k - C(p_k)      sign(0) = 1
//   w <- w - alpha * (1/P) * sum_k C(p_k)               (or the optimizer's rule)
// The paper has one worker, and alpha within p and e: the same at a constant rate.

#include <cmath>

#include "strategies/compressed.h"

namespace dsgd {
namespace {

void put_signs(BitWriter& out, ConstVec p, bool zero_is_negative = false) {
  for (std::size_t i = 0; i < p.size; ++i) out.put(zero_is_negative ? p.data[i] <= 0 : p.data[i] < 0, 1);
}
void add_signs(BitReader& in, float a, Vec y) {
  for (std::size_t i = 0; i < y.size; ++i) y.data[i] += in.get(1) ? -a : a;
}

class Vote final : public Compressor {
 public:
  explicit Vote(double beta) : beta_(float(beta)) {}
  void accumulate(ConstVec g, Vec m) override {
    scale(beta_, m);
    axpy(1 - beta_, g, m);
    ++t_;
  }
  Bytes encode(ConstVec m) override {
    BitWriter out;
    put_signs(out, m, t_ % 2);
    return out.take();
  }
  void add(const Bytes& message, Vec y, float a) const override {
    BitReader in(message);
    add_signs(in, a, y);
  }
  void settle(const Bytes&, Vec) const override {}
  void visit(State& state, const std::string& name) override { state.number(name + " votes", t_); }

 private:
  float beta_;
  std::int64_t t_ = 0;
};

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

extern const StrategyEntry signsgd_entry{
    .name = "signsgd",
    .summary = "the sign of most workers' gradients",
    .paper = "Bernstein, Wang, Azizzadenesheli, Anandkumar 2018",
    .data_order = "global",
    .parameters = {{"beta", 0.0, "momentum of the workers before the vote (Signum)", 0, 0.9999}},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Compressed>(c, std::make_unique<Vote>(s.number("beta")),
                                          std::make_unique<Vote>(0));
    },
    .cost =
        [](const Settings&, const Context& c, std::int64_t steps) {
          const std::size_t bytes = bytes_of(Compressed::slice(c));
          return double(steps) * through_owners_cost(c, bytes, bytes);
        },
    .effective = every_step,
    .conformance = {{"beta", 0.9}},
    .collectives = 2,
    .lossy = true,
    .elements = true,
    .conformance_rate = 8};

extern const StrategyEntry ef_signsgd_entry{
    .name = "ef_signsgd",
    .summary = "the scaled sign of each worker's gradient, the error later",
    .paper = "Karimireddy, Rebjock, Stich, Jaggi 2019",
    .data_order = "global",
    .make = [](const Settings&, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Compressed>(c, std::make_unique<ScaledSign>(c));
    },
    .cost =
        [](const Settings&, const Context& c, std::int64_t steps) {
          const std::size_t tensors = std::max<std::size_t>(1, c.optimizer.layers.size());
          return double(steps) * to_everyone_cost(c, bytes_of(32 * tensors + c.parameters));
        },
    .effective = every_step,
    .lossy = true,
    .elements = true};

}  // namespace dsgd
