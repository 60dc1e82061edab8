// Synchronous SGD: the mean gradient of all workers' minibatches, every step ("hardsync": Zhang, Gupta, Lian,
// Liu 2015).
//   g <- (1 / sum_k b_k) * sum_k sum_{x in batch of k} dL(w, x)/dw
//   w <- w - alpha * g                                  (or the optimizer's rule)
// With equal seeds P workers with minibatch b are one worker with minibatch P*b.

#include "strategies/strategy.h"

namespace dsgd {
namespace {

class Sync final : public Strategy {
 public:
  explicit Sync(const Context& c) : group_(*c.group), optimizer_(c.optimizer, *c.space, c.parameters) {}

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    r.gradient(r.w, batch, r.g);
    group_.sum(r.g);
    optimizer_.step(r.w, r.g, 1.0 / double(batch.global_count), r.used);
    return true;
  }
  void visit(State& state) override { state.optimizer(optimizer_); }

 private:
  Group& group_;
  Optimizer optimizer_;
};

}  // namespace

extern const StrategyEntry sync_entry{
    .name = "sync",
    .summary = "gradient averaging every step (all-reduce)",
    .paper = "Zhang et al. 2015 (hardsync)",
    .data_order = "global",
    .make = [](const Settings&, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Sync>(c);
    },
    .cost = [](const Settings&, const Context& c,
               std::int64_t steps) { return double(steps) * all_reduce_cost(c); },
    .effective =
        [](const Settings&, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)}, {"period", 1}};
        }};

}  // namespace dsgd
