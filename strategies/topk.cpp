// SPDX-License-Identifier: Apache-2.0
// Sparse gradients: the k = density * n largest elements, the rest later; with the momentum optimizers Deep
// Gradient Compression (Lin, Han, Mao, Wang, Dally 2018). In every step, on every worker
//   g <- g * min(1, clip / (sqrt(P) * |g|), optimizer.clip / |g|)     local clipping
//   u <- mu * u + g;   v <- v + u                                     momentum correction
//        mu * (u + g)      v <- v + u + g                             (nesterov)
//   mask = the k largest |v|;   send v * mask
//   v <- v * !mask;   u <- u * !mask                                  momentum factor masking
//   w <- w - alpha * (1/P) * sum over the messages  -  alpha * (the same momentum of l2 * w alone)
// Momentum and Nesterov are the workers' then, before the selection, and what arrives is a step of plain SGD.
// Weight decay, which all workers know, has a velocity of its own that is neither sent nor masked, as in the
// authors' program. So with all elements and without masking this is `sync`; clipped it is with one worker,
// or where all have the same gradient, as nobody knows the mean gradient's norm. With the other optimizers v
// <- v + g, and their rule, decay and clip are applied to what arrives. During warmup_steps the density falls
// from 1/4 to 1/16, 1/64, 1/256, in four equal parts (the paper: an epoch each). Of equal elements the first
// ones are sent. k counts over the whole vector, not by layer; the paper finds it from a sample.

#include <algorithm>
#include <cmath>
#include <optional>

#include "parts/compressed.h"
#include "parts/sparse.h"

namespace dsgd {
namespace {

using Optimization = OptimizerSettings::Rule;

std::size_t elements(const Settings& s, std::size_t n, std::int64_t t) {  // k of step t
  const std::int64_t warmup = s.integer("warmup_steps");
  double density = s.number("density");
  if (t < warmup) density = std::max(density, std::pow(0.25, double(1 + 4 * t / warmup)));
  return std::clamp<std::size_t>(std::size_t(std::lround(density * double(n))), 1, n);
}

bool corrects(const Settings& s, const Context& c) {
  return s.flag("momentum_correction") &&
         (c.optimizer.rule == Optimization::momentum || c.optimizer.rule == Optimization::nesterov);
}

double longest(const Settings& s, const Context& c) {  // of a worker's gradient; 0: any
  const double shared = s.number("clip") / std::sqrt(double(c.workers));
  const double own = corrects(s, c) ? c.optimizer.clip : 0;
  return shared > 0 && own > 0 ? std::min(shared, own) : std::max(shared, own);
}

class TopK final : public Compressor {
 public:
  TopK(const Settings& s, const Context& c)
      : settings_(s),
        clip_(longest(s, c)),
        mu_(float(c.optimizer.momentum)),
        nesterov_(c.optimizer.rule == Optimization::nesterov),
        masking_(s.flag("masking")),
        u_(*c.space, corrects(s, c) ? c.parameters : 0),
        scaled_(*c.space, c.parameters) {
    OptimizerSettings decay = c.optimizer;
    decay.clip = 0;
    if (decay.l2 > 0 && u_.size()) decay_.emplace(decay, *c.space, c.parameters);
  }

  void accumulate(ConstVec g, Vec v) override {
    copy(g, scaled_);
    if (const double share = clipped(clip_, 1, g); share < 1) scale(float(share), scaled_);
    if (u_.size()) {
      if (nesterov_) axpy(1, scaled_, v);
      if (nesterov_) axpy(1, scaled_, u_);
      scale(mu_, u_);
      if (!nesterov_) axpy(1, scaled_, u_);
      axpy(1, u_, v);
    } else {
      axpy(1, scaled_, v);
    }
  }
  Bytes encode(ConstVec v) override {
    const auto& sent = largest_.of(v, elements(settings_, v.size, t_++));
    if (masking_ && u_.size())
      for (const std::uint32_t i : sent) u_.data()[i] = 0;
    return Sparse::encode(v.size, sent, [&](BitWriter& out, std::uint32_t i) { out.put(v.data[i]); });
  }
  void add(const Bytes& message, Vec y, float a) const override {
    Sparse::decode(y.size, message, [&](BitReader& in, std::uint32_t i) { y.data[i] += a * in.number(); });
  }
  void step(Optimizer& optimizer, Vec w, ConstVec g, double scale, std::int64_t used) override {
    if (decay_) decay_->step(w, g, 0, used);  // of g nothing: of the w before
    optimizer.step(w, g, scale, used);
  }
  void visit(State& state, const std::string& name) override {
    if (decay_) state.optimizer(*decay_, name + " decay");
    state.vector(name + " u", u_);
    state.number(name + " steps", t_);
  }

 private:
  Settings settings_;
  double clip_;
  float mu_;
  bool nesterov_, masking_;
  Vector u_, scaled_;
  std::optional<Optimizer> decay_;
  std::int64_t t_ = 0;
  Largest largest_;
};

}  // namespace

extern const StrategyEntry topk_entry{
    .name = "topk",
    .summary = "sync that sends the largest elements, the rest later (Deep Gradient Compression)",
    .paper = "Lin, Han, Mao, Wang, Dally 2018",
    .data_order = DataOrder::global,
    .parameters = {Parameter::number("density", 0.001, "share of the elements that is sent", 1e-9, 1),
                   Parameter::flag("momentum_correction", true,
                                   "momentum and nesterov before the selection, not after it"),
                   Parameter::flag("masking", true, "zero the momentum of what is sent"),
                   Parameter::number(
                       "clip", 0.0,
                       "largest norm of the mean gradient, workers clip at 1/sqrt(P) of it; 0: any", 0, 1e30),
                   Parameter::integer("warmup_steps", 0, "steps in which the density falls, from 1/4", 0,
                                      1e9)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      Context own = c;
      if (corrects(s, c)) {
        own.optimizer.rule = Optimization::sgd;
        own.optimizer.l2 = own.optimizer.clip = 0;
      }
      return std::make_unique<Compressed>(own, std::make_unique<TopK>(s, c));
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          const auto of = [&](std::int64_t t) {
            return to_everyone_cost(c, Sparse::at_most(c.parameters, elements(s, c.parameters, t), 32));
          };
          const std::int64_t warmup = std::min(steps, s.integer("warmup_steps"));
          Cost cost = double(steps - warmup) * of(steps);
          for (std::int64_t t = 0; t < warmup; ++t) cost = cost + of(t);
          return cost;
        },
    .effective = every_step,
    .elements = true,
    .cost_is_bound = true,
    .tests =
        {.conformance = {{"density", 0.2}, {"warmup_steps", std::int64_t(3)}},
         .identities = {
             {.of = Identity::sync, .settings = {{"density", 1.0}, {"momentum_correction", false}}},
             {.of = Identity::one_worker, .settings = {{"density", 1.0}, {"masking", false}}, .rounding = 1},
             {.of = Identity::linear, .settings = {{"density", 1.0}, {"masking", false}}, .rounding = 1}}}};

}  // namespace dsgd
