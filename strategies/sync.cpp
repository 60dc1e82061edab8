// SPDX-License-Identifier: Apache-2.0
// Synchronous SGD: the mean gradient of all workers' minibatches, every step ("hardsync": Zhang, Gupta, Lian,
// Liu 2015).
//   g <- (1 / sum_k b_k) * sum_k sum_{x in batch of k} dL(w, x)/dw
//   w <- w - alpha * g                                  (or the optimizer's rule)
// The sum is an all-reduce, between GPUs in buckets that begin during the backward pass (as in Li et al.
// 2020, PyTorch DistributedDataParallel), or one by a driver or along a tree, as of Spark's MLlib
// (aggregation.h). With equal seeds P workers with minibatch b are one worker with minibatch P*b.

#include "parts/aggregation.h"

namespace dsgd {
namespace {

class Sync final : public Strategy {
 public:
  Sync(const Settings& s, const Context& c)
      : workers_(s, c),
        bucket_(std::size_t(s.number("bucket_mib") * (1 << 20) / sizeof(float))),
        optimizer_(c.optimizer, *c.space, c.parameters) {}

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    r.gradient_in_parts(r.w, batch, r.g, workers_.begin_sum(r.g, bucket_));
    const ConstVec sum = workers_.end_sum(r.g);
    optimizer_.step(r.w, sum, 1.0 / double(batch.global_count), r.used);
    return true;
  }
  void visit(State& state) override { state.optimizer(optimizer_); }

 private:
  Aggregation workers_;
  std::size_t bucket_;  // floats
  Optimizer optimizer_;
};

}  // namespace

extern const StrategyEntry sync_entry{
    .name = "sync",
    .summary = "gradient averaging every step",
    .paper = "Zhang et al. 2015 (hardsync)",
    .data_order = DataOrder::global,
    .parameters =
        Aggregation::with({{.name = "bucket_mib",
                            .fallback = 1.0,
                            .help = "MiB of the gradient that GPUs add up at a time, the last layers' "
                                    "while they compute those before; 0: all after it",
                            .min = 0,
                            .max = 4096,
                            .between_gpus = true}}),
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Sync>(s, c);
    },
    .cost = [](const Settings& s, const Context& c,
               std::int64_t steps) { return double(steps) * Aggregation::cost(s, c); },
    .effective =
        [](const Settings&, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)}, {"period", 1}};
        },
    .tests = {.identities = {{.of = Identity::sync}}}};

}  // namespace dsgd
