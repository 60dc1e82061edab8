// SPDX-License-Identifier: Apache-2.0
// signSGD and Signum with majority vote (Bernstein, Wang, Azizzadenesheli, Anandkumar 2018;
// Bernstein, Zhao, Azizzadenesheli, Anandkumar 2019). Votes are counted by a server; here by the owner of
// each slice, so that a bit travels each way:
//   m_k <- beta * m_k + (1 - beta) * g_k               beta = 0: signSGD
//   w <- w - alpha * sign(sum_k sign(m_k))
// Every weight moves by alpha in every step, so rates are far below those of SGD. A bit has no room for zeros
// and ties, which the paper leaves open: they count as - and + in turn, step by step, so that they move
// nothing in the long run.

#include <stdexcept>

#include "parts/compressed.h"

namespace dsgd {
namespace {

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

}  // namespace

extern const StrategyEntry signsgd_entry{
    .name = "signsgd",
    .summary = "the sign of most workers' gradients",
    .paper = "Bernstein, Wang, Azizzadenesheli, Anandkumar 2018",
    .data_order = DataOrder::global,
    .parameters = {Parameter::number("beta", 0.0, "momentum of the workers before the vote (Signum)", 0,
                                     0.9999)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Compressed>(c, std::make_unique<Vote>(s.number("beta")),
                                          std::make_unique<Vote>(0));
    },
    .cost = [](const Settings&, const Context& c,
               std::int64_t steps) { return double(steps) * through_owners_cost(c, bytes_of); },
    .effective =
        [](const Settings& s, const Context& c) {
          if (c.optimizer.clip > 0)
            throw std::invalid_argument(
                "its steps are signs, of one length whatever the gradient (allowed: optimizer.clip = 0)");
          return every_step(s, c);
        },
    .collectives = 2,
    .elements = true,
    .tests = {.conformance = {{"beta", 0.9}},
              .identities = {{.of = Identity::none,
                              .why = "every weight moves by the rate, whatever its gradient"}},
              .rate = 8}};

}  // namespace dsgd
