// SPDX-License-Identifier: Apache-2.0
// Faster asynchronous SGD (Odena 2016): the rate of every parameter is divided by the staleness of the
// gradient and by a moving average v of the gradient's standard deviation.
//   n <- gamma * n + (1 - gamma) * g^2                                        (element-wise)
//   b <- gamma * b + (1 - gamma) * g
//   v <- beta * v + (1 - beta) * sqrt(n - b^2 + epsilon)                      variant = intended
//        beta * v + (1 - beta) / sqrt(n - b^2 + epsilon)                      printed
//   w <- w - alpha / (v * tau) * g
//   n <- 0.9 * n + 0.1 * |g|;   w <- w - alpha / ((n + 0.001) * (tau + 1)) * g   released
// As printed v averages *inverse* deviations, so that dividing by it multiplies by the deviation: against the
// text, and against B-FASGD, which takes v for a deviation. The author's simulator, FRED, has neither b nor v
// (and divides by its arrivals per update, here 1). Not in the paper are gamma and beta (0.9 is FRED's), the
// rate at tau = 0 (here that at 1, as Zhang's) and where v begins (here at 1, so that early steps are those
// of SGD; n and b begin at 0). Weight decay and momentum come after the division.
// B-FASGD: a fetch and a push each happen with probability 1 / (1 + c / (mean v + 0.0001)), c_fetch and
// c_push apart (0: always), with the mean of v as the servers told it last. A gradient that is applied again
// has its own age; FRED takes w for fresh all the same.

#include <algorithm>
#include <stdexcept>

#include "parts/pull_push.h"
#include "uniform.h"

namespace dsgd {
namespace {

class Fasgd final : public PullPush {
 public:
  Fasgd(const Settings& s, const Context& c)
      : PullPush(c),
        c_fetch_(s.number("c_fetch")),
        c_push_(s.number("c_push")),
        seed_(c.seed),
        stream_(~std::uint64_t(c.rank)) {}

 private:
  ConstVec fetch(Replica& r) override {
    if (r.t == 0 || opens(c_fetch_, 2 * r.t))
      server_.pull(r.w);
    else
      server_.pull_work();
    return r.w;
  }
  bool pushes(const Replica& r) override { return opens(c_push_, 2 * r.t + 1); }
  bool opens(double c, std::int64_t draw) {
    return uniform(seed_, stream_, std::uint64_t(draw)) < 1 / (1 + c / (server_.number() + 1e-4));
  }

  double c_fetch_, c_push_;
  std::uint64_t seed_, stream_;  // another one than that of pushes that get lost
};

class FasgdRule final : public Rule {
 public:
  FasgdRule(const Settings& s, const Context& c)
      : optimizer_(c.optimizer, *c.space, c.parameters),
        variant_(s.text("variant")),
        with_{float(s.number("gamma")), float(s.number("beta")), float(s.number("epsilon")),
              variant_ == "printed"},
        repeats_(s.number("c_push") > 0),
        n_(*c.space, c.parameters),
        b_(*c.space, variant_ == "released" ? 0 : c.parameters),
        v_(*c.space, variant_ == "released" ? 0 : c.parameters),
        divided_(*c.space, c.parameters),
        ones_(*c.space, gated(s) ? c.parameters : 0) {
    fill(1, v_);
    fill(1, ones_);
  }
  static bool gated(const Settings& s) { return s.number("c_fetch") > 0 || s.number("c_push") > 0; }
  bool repeats() const override { return repeats_; }
  double weight(std::int64_t tau) const override {
    return 1.0 / double(variant_ == "released" ? tau + 1 : std::max<std::int64_t>(tau, 1));
  }
  double number() const override {  // mean of v
    return ones_.size() ? dot(v_.view(), ones_.view()) / double(ones_.size()) : 0;
  }
  void apply(Vec w, const Arrival& a, std::int64_t used) override {
    if (variant_ == "released")
      divide_by_magnitude(0.9f, 0.001f, a.g, n_, divided_);
    else
      divide_by_deviation(with_, a.g, n_, b_, v_, divided_);
    optimizer_.step(w, divided_, a.scale, used);
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.vector("n", n_);
    state.vector("b", b_);
    state.vector("v", v_);
  }

 private:
  Optimizer optimizer_;
  std::string variant_;
  Space::Deviation with_;
  bool repeats_;
  Vector n_, b_, v_, divided_, ones_;
};

}  // namespace

extern const StrategyEntry fasgd_entry{
    .name = "fasgd",
    .summary = "asynchronous SGD with rates divided by staleness and by the gradients' deviation",
    .paper = "Odena 2016",
    .kind = StrategyEntry::Kind::servers,
    .data_order = DataOrder::queue,
    .parameters = {Parameter::choice(
                       "variant", "intended", {"intended", "printed", "released"},
                       "what the rate is divided by: the deviation, its inverse, the magnitude"),
                   Parameter::number("gamma", 0.9, "share of the old moments kept (intended, printed)", 0, 1),
                   Parameter::number("beta", 0.9, "share of the old v kept (intended, printed)", 0, 1),
                   Parameter::number("epsilon", 1e-4, "added to the variance (intended, printed)", 1e-12, 1),
                   Parameter::number(
                       "c_fetch", 0.0,
                       "leaves out fetches where the gradients deviate little (B-FASGD); 0: none", 0, 1e6),
                   Parameter::number(
                       "c_push", 0.0,
                       "leaves out pushes where the gradients deviate little (B-FASGD); 0: none", 0, 1e6)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Fasgd>(s, c);
    },
    .make_rule = [](const Settings& s, const Context& c) -> std::unique_ptr<Rule> {
      return std::make_unique<FasgdRule>(s, c);
    },
    .cost = PullPush::cost,
    .effective =
        [](const Settings& s, const Context& c) {
          if (FasgdRule::gated(s) && s.text("variant") != "intended")
            throw std::invalid_argument(
                "c_fetch and c_push compare with a deviation (allowed: variant = \"intended\")");
          return Facts{{"global_minibatch", double(c.minibatch)}, {"period", 1}};
        },
    .tolerates_loss = true,
    .cost_is_bound = true,
    .tests = {.conformance =
                  {{"gamma", 0.5}, {"beta", 0.5}, {"epsilon", 0.25}, {"c_fetch", 0.125}, {"c_push", 0.125}},
              .identities = {{.of = Identity::in_turn, .settings = {{"beta", 1.0}}},
                             {.of = Identity::in_turn,
                              .settings = {{"beta", 1.0}, {"variant", std::string("printed")}}}},
              .rate = 2}};

}  // namespace dsgd
