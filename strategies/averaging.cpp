// SPDX-License-Identifier: Apache-2.0
// Parameter averaging every tau local steps (Moritz et al. 2016, SparkNet; Deeplearning4j's
// ParameterAveragingTrainingMaster), and post-local SGD (Lin, Stich, Patel, Jaggi 2018).
//   each worker:         w_k <- w_k - alpha * g_k       (or the optimizer's rule, with its own state)
//   every tau steps:     w_k <- (1/P) * sum_j w_j
// `state` says what happens to the optimizer's state at an averaging: SparkNet keeps each worker's own
// (keep), Deeplearning4j averages it (average, its saveUpdater), others start afresh (reset). This alone
// changes results.
// Until step T_0 = warmup_steps
//   g <- mean over all samples of all workers      warmup = constant: post-local SGD begins as `sync`
// or the period that begins at step t is
//   max(1, floor(tau * t / T_0))          linear
//   2^floor(floor(log2 tau) * t / T_0)    exponential
// PyTorch's PostLocalSGDOptimizer is this (tests/oracles/torch_post_local_sgd.py) with state = keep, where
// its averager's warm-up ends tau - 1 steps after its hook's; where both end at a time it averages after the
// first local step, too.

#include <algorithm>
#include <bit>

#include "parts/outer_loop.h"

namespace dsgd {
namespace {

std::int64_t period_at(const Settings& s, std::int64_t t) {
  const std::int64_t tau = s.integer("tau"), T_0 = s.integer("warmup_steps");
  if (t >= T_0) return tau;
  if (s.text("warmup") == "constant") return 1;  // in which gradients are averaged
  if (s.text("warmup") == "linear") return std::max<std::int64_t>(1, tau * t / T_0);
  return std::int64_t(1) << (std::bit_width(std::uint64_t(tau)) - 1) * t / T_0;
}

bool in_post_local_warmup(const Settings& s, std::int64_t t) {
  return t < s.integer("warmup_steps") && s.text("warmup") == "constant";
}

class Averaging final : public OuterLoop {
 public:
  Averaging(const Settings& s, const Context& c)
      : OuterLoop(c, s.integer("tau"), s.text("state"), Aggregation(s, c)),
        settings_(s),
        mean_(*c.space, c.parameters) {}
  Vec master(Replica& r) override {  // between two averagings the model is still the mean
    copy(r.w, mean_);
    workers_.mean(mean_);
    return mean_;
  }

 private:
  std::int64_t period(std::int64_t t) const override { return period_at(settings_, t); }
  bool together(std::int64_t t) const override { return in_post_local_warmup(settings_, t); }

  Settings settings_;
  Vector mean_;
};

}  // namespace

extern const StrategyEntry averaging_entry{
    .name = "averaging",
    .summary = "parameter averaging every tau local steps",
    .paper = "Moritz et al. 2016 (SparkNet); Deeplearning4j; Lin et al. 2018 (post-local SGD)",
    .data_order = DataOrder::shard,
    .parameters = Aggregation::with(
        {Parameter::integer("tau", 10, "local steps between two averagings", 1, 1e9), state_parameter("keep"),
         Parameter::integer("warmup_steps", 0, "steps over which the period grows to tau", 0, 1e9),
         Parameter::choice("warmup", "constant", {"constant", "linear", "exponential"},
                           "the period on the way: 1 (post-local SGD), or growing")}),
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Averaging>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          const auto aggregate = [&](int vectors) { return Aggregation::cost(s, c, vectors); };
          const std::int64_t warmup = std::min(steps, s.integer("warmup_steps"));
          std::int64_t t = 0, gradients = 0, averagings = 0;
          if (in_post_local_warmup(s, 0)) t = gradients = warmup;
          for (; t < warmup; t += period_at(s, t)) ++averagings;
          if (t < steps) averagings += periods(steps - t, s.integer("tau"));
          return double(gradients) * aggregate(1) + double(averagings) * end_of_period_cost(s, c, aggregate);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                       {"period", double(s.integer("tau"))}};
        },
    .tests = {.conformance = {{"tau", std::int64_t(3)}},
              .identities = {{.of = Identity::one_worker, .settings = {{"tau", std::int64_t(4)}}},
                             {.of = Identity::linear, .settings = {{"tau", std::int64_t(1)}}},
                             {.of = Identity::sync, .settings = {{"warmup_steps", std::int64_t(1000)}}}}}};

}  // namespace dsgd
