// SPDX-License-Identifier: Apache-2.0
// PowerSGD (Vogels, Karimireddy, Jaggi 2019). For every matrix of weights, n x m, a product of n x r and r x
// m travels, found by one step of a power iteration from the last step's Q. On worker k, with a residual e_k,
//   M_k <- g_k + e_k
//   P <- mean over k of M_k * Q;   P <- orthonormalised columns of P
//   Q <- mean over k of M_k^T * P
//   M' <- P * Q^T;   e_k <- M_k - M'
//   w <- w - alpha * M'      (or the optimizer's rule: momentum after the decompression)
// Vectors (biases) travel as they are, with the P's. Kernels are matrices of a row for each output. A column
// of P that the others leave nothing of is dropped, and its Q starts afresh.

#include "parts/low_rank.h"
#include "strategy.h"

namespace dsgd {
namespace {

LowRank factors(const Settings& s, const Context& c) {
  return {c.optimizer.layers, c.parameters, std::size_t(s.integer("rank"))};
}

class PowerSgd final : public Strategy {
 public:
  PowerSgd(const Settings& s, const Context& c)
      : group_(*c.group),
        optimizer_(c.optimizer, *c.space, c.parameters),
        factors_(factors(s, c)),
        e_(*c.space, c.parameters),
        p_(*c.space, factors_.p_size()),
        q_(*c.space, factors_.q_size()),
        workers_(c.workers) {
    factors_.start(q_);
  }

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    r.gradient(r.w, batch, r.g);
    axpy(float(double(workers_) / double(batch.global_count)), r.g, e_);  // M_k <- g_k + e_k
    const auto compress = [&](auto work) { group_.compress(e_.size(), work); };
    compress([&] { factors_.multiply(e_, q_, p_); });
    group_.mean(p_);
    compress([&] {
      factors_.orthonormalise(p_);
      factors_.multiply_transposed(e_, p_, q_);
    });
    group_.mean(q_);
    compress([&] {
      factors_.expand(p_, q_, r.g);  // M'
      axpy(-1, r.g, e_);
      factors_.clear_vectors(e_);
      factors_.restart(p_, q_);
    });
    optimizer_.step(r.w, r.g, 1, r.used);
    return true;
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.vector("e", e_);
    state.vector("q", q_);
  }

 private:
  Group& group_;
  Optimizer optimizer_;
  LowRank factors_;
  Vector e_, p_, q_;
  int workers_;
};

}  // namespace

extern const StrategyEntry powersgd_entry{
    .name = "powersgd",
    .summary = "sync that sends low-rank factors of each matrix, the error later",
    .paper = "Vogels, Karimireddy, Jaggi 2019",
    .data_order = DataOrder::global,
    .parameters = {Parameter::integer("rank", 2, "of the factors, at most that of the matrix", 1, 1e6)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<PowerSgd>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          Context p = c, q = c;
          p.parameters = factors(s, c).p_size();
          q.parameters = factors(s, c).q_size();
          return double(steps) * (all_reduce_cost(p) + all_reduce_cost(q));
        },
    .effective =
        [](const Settings&, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)}, {"period", 1}};
        },
    .collectives = 2,
    .elements = true,
    .tests = {.conformance = {{"rank", std::int64_t(1)}},
              .identities = {
                  {.of = Identity::sync, .settings = {{"rank", std::int64_t(1000)}}, .rounding = 10}}}};

}  // namespace dsgd
