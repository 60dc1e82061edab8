// Parameter averaging every tau local steps (Moritz et al. 2016, SparkNet; Deeplearning4j's
// ParameterAveragingTrainingMaster).
//   each worker:         w_k <- w_k - alpha * g_k       (or the optimizer's rule, with its own state)
//   every tau steps:     w_k <- (1/P) * sum_j w_j
// `state` says what happens to the optimizer's state at an averaging: SparkNet keeps each worker's own
// (keep), Deeplearning4j averages it (average, its saveUpdater), others start afresh (reset). This alone
// changes results.

#include "strategies/strategy.h"

namespace dsgd {
namespace {

class Averaging final : public Strategy {
 public:
  Averaging(const Settings& s, const Context& c)
      : group_(*c.group),
        tau_(s.integer("tau")),
        state_(s.text("state")),
        optimizer_(c.optimizer, *c.space, c.parameters),
        mean_(*c.space, c.parameters) {}

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    if (batch.count()) {
      r.gradient(r.w, batch, r.g);
      optimizer_.step(r.w, r.g, 1.0 / batch.count(), r.used);
    }
    if ((r.t + 1) % tau_ == 0 || batch.last) {
      group_.mean(r.w);
      if (state_ == "average" && optimizer_.state().size) group_.mean(optimizer_.state());
      if (state_ == "reset") optimizer_.reset();
    }
    return true;
  }

  Vec master(Replica& r) override {  // between two averagings the model is still the mean
    copy(r.w, mean_);
    group_.mean(mean_);
    return mean_;
  }
  void visit(State& state) override { state.vector("optimizer", optimizer_.state()); }

 private:
  Group& group_;
  std::int64_t tau_;
  std::string state_;
  Optimizer optimizer_;
  Vector mean_;
};

}  // namespace

extern const StrategyEntry averaging_entry{
    .name = "averaging",
    .summary = "parameter averaging every tau local steps",
    .paper = "Moritz et al. 2016 (SparkNet); Deeplearning4j",
    .data_order = "shard",
    .parameters = {{"tau", std::int64_t(10), "local steps between two averagings", 1, 1e9},
                   {"state",
                    std::string("keep"),
                    "optimizer state at an averaging",
                    0,
                    0,
                    {"keep", "average", "reset"}}},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Averaging>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          const bool stateful =
              c.optimizer.rule != OptimizerSettings::Rule::sgd && s.text("state") == "average";
          return double(periods(steps, s.integer("tau")) * (stateful ? 2 : 1)) * all_reduce_cost(c);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                       {"period", double(s.integer("tau"))}};
        },
    .conformance = {{"tau", std::int64_t(3)}},
    .serial = {{"tau", std::int64_t(4)}}};

}  // namespace dsgd
