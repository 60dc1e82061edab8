// SPDX-License-Identifier: Apache-2.0
// Decentralised parallel SGD (Lian, Zhang, Zhang, Hsieh, Zhang, Liu 2017, algorithm 1): a step along one's
// own gradient, from a weighted mean of one's own model and those of the neighbours.
//   x_k <- sum_j W_kj * x_j - gamma * g_k(x_k)       mix = before: models travel while gradients are computed
//   x_k <- sum_j W_kj * (x_j - gamma * g_j(x_j))     mix = after
// (or the optimizer's rule, each worker with its own state). W_kj = 1 / (1 + D) for j = k and the D
// neighbours
//   ring          k - 1, k + 1
//   exponential   k + 1, k + 2, k + 4, ..., modulo P (Ying et al. 2021): messages go one way
//   complete      everybody, by one all-reduce
// Rows and columns of W add up to 1, so mixing leaves the mean of the workers alone; that is what the paper
// reports. With its rate gamma it shrinks what is apart by 1 - spectral_gap or more: W is circulant, and its
// eigenvalues are lambda_m = sum over the offsets d of W_d * exp(2 pi i m d / P).

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "strategy.h"

namespace dsgd {
namespace {

std::vector<int> neighbours(const Settings& s, int P) {  // as distances from k
  if (s.text("topology") == "ring")
    return P == 1 ? std::vector<int>{} : P == 2 ? std::vector{1} : std::vector{1, P - 1};
  std::vector<int> offsets;
  for (int d = 1; d < P; d = s.text("topology") == "complete" ? d + 1 : 2 * d) offsets.push_back(d);
  return offsets;
}

double spectral_gap(const std::vector<int>& offsets, int P) {
  double largest = 0;
  for (int m = 1; m < P; ++m) {
    std::complex<double> lambda = 1;
    for (const int d : offsets) lambda += std::polar(1.0, 2 * std::numbers::pi * m * d / P);
    largest = std::max(largest, std::abs(lambda) / double(1 + offsets.size()));
  }
  return 1 - largest;
}

class Dpsgd final : public Strategy {
 public:
  Dpsgd(const Settings& s, const Context& c)
      : group_(*c.group),
        optimizer_(c.optimizer, *c.space, c.parameters),
        neighbours_(neighbours(s, c.workers)),
        complete_(s.text("topology") == "complete"),
        before_(s.text("mix") == "before"),
        mean_(*c.space, c.parameters) {}

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    if (!before_ && batch.count()) r.descend(r.w, batch, optimizer_, 1.0 / batch.count(), r.used);
    begin_mix(r.w);
    if (before_ && batch.count()) r.gradient(r.w, batch, r.g);
    end_mix(r.w);
    if (before_ && batch.count()) optimizer_.step(r.w, r.g, 1.0 / batch.count(), r.used);
    return true;
  }
  Vec master(Replica& r) override {
    copy(r.w, mean_);
    group_.mean(mean_);
    return mean_;
  }
  void visit(State& state) override { state.optimizer(optimizer_); }

 private:
  void begin_mix(ConstVec x) {
    if (!complete_) group_.begin_mix(x, neighbours_);
  }
  void end_mix(Vec x) { complete_ ? group_.mean(x) : group_.end_mix(x); }

  Group& group_;
  Optimizer optimizer_;
  std::vector<int> neighbours_;
  bool complete_, before_;
  Vector mean_;
};

}  // namespace

extern const StrategyEntry dpsgd_entry{
    .name = "dpsgd",
    .summary = "local steps from the mean of the neighbours' models (gossip)",
    .paper = "Lian et al. 2017 (D-PSGD)",
    .data_order = DataOrder::shard,
    .parameters = {Parameter::choice("topology", "ring", {"ring", "exponential", "complete"},
                                     "whose models a worker averages its own with"),
                   Parameter::choice(
                       "mix", "before", {"before", "after"},
                       "the models are averaged before the step, while gradients are computed, or after it")},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Dpsgd>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          const auto D = double(neighbours(s, c.workers).size());
          const Cost to_neighbours{4 * double(c.parameters) * D, D};
          return double(steps) * (s.text("topology") == "complete" ? all_reduce_cost(c) : to_neighbours);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                       {"period", 1},
                       {"spectral_gap", spectral_gap(neighbours(s, c.workers), c.workers)}};
        },
    .own_models = true,
    .collectives = 0,
    .tests = {.identities = {
                  {.of = Identity::one_worker},
                  {.of = Identity::linear,
                   .settings = {{"topology", std::string("complete")}, {"mix", std::string("after")}}}}}};

}  // namespace dsgd
