// SPDX-License-Identifier: Apache-2.0
// Downpour SGD (Dean et al. 2012, algorithm 1.1): replicas fetch and push at their own pace; sharded servers
// apply what arrives.
//   if t mod n_fetch == 0: start fetch: w <- servers
//   g <- gradient(w);  accrued <- accrued + g;  w <- w - alpha * g          (or the optimizer's rule)
//   if t mod n_push == 0: start push: servers <- accrued;  accrued <- 0       (true at t = 0 too)
//   server: w <- w - eta * accrued, or Adagrad (section 4.1; optimizer.rule = adagrad), state local to the
//   shard
// With overlap the fetch travels while the gradient is computed, and the local step is applied to what
// arrives; without it the gradient is computed at what arrives. Warm start: the servers hold back all
// replicas but the first (section 4.1).
// The local step is the optimizer's, like the servers', with a state of the replica's own gradients: so one
// replica is serial SGD under every rule, with overlap and without. The replica clips each gradient, before
// it accrues. Weight decay is part of every step, local or not, and counts for each gradient of a push.

#include "strategy.h"

namespace dsgd {
namespace {

class Downpour final : public Strategy {
 public:
  Downpour(const Settings& s, const Context& c)
      : server_(*c.server),
        n_fetch_(s.integer("n_fetch")),
        n_push_(s.integer("n_push")),
        overlap_(s.flag("overlap")),
        clip_(c.optimizer.clip),
        plain_(c.optimizer.rule == OptimizerSettings::Rule::sgd && c.optimizer.l2 == 0 && clip_ == 0),
        local_(local(s, c.optimizer), *c.space, c.parameters),
        accrued_(*c.space, n_push_ > 1 ? c.parameters : 0) {}
  static OptimizerSettings unclipped(OptimizerSettings optimizer) {
    optimizer.clip = 0;
    return optimizer;
  }

  bool step(Replica& r) override {
    const bool fetch = r.t % n_fetch_ == 0;
    const bool begin = fetch && overlap_;
    if (r.t == 0 || (fetch && !overlap_)) server_.pull(r.w, int(n_fetch_));
    const Batch batch = r.next();
    if (!batch) {
      push();
      return false;
    }
    if (begin) server_.begin_pull(int(n_fetch_));
    r.gradient(r.w, batch, r.g);
    const double mean = clipped(clip_, 1.0 / batch.count(), r.g);
    if (n_push_ == 1) {  // the gradient is all that accrued
      server_.push(float(mean), r.g, batch.count(), 1);
    } else {
      axpy(float(mean), r.g, accrued_);
      samples_ += batch.count();
      ++gradients_;
      if (r.t % n_push_ == 0) push();
    }
    const ConstVec fetched = begin ? server_.end_pull(r.w) : r.w;
    if (plain_) {  // in one pass
      copy_sum(fetched, float(-local_.rate(server_.used()) / batch.count()), r.g, r.w);
    } else {
      if (fetched.data != r.w.data) copy(fetched, r.w);
      local_.step(r.w, r.g, mean, server_.used());
    }
    return true;
  }
  void visit(State& state) override {
    state.optimizer(local_);
    state.vector("accrued", accrued_);
    state.number("samples", samples_);
    state.number("gradients", gradients_);
  }

 private:
  static OptimizerSettings local(const Settings& s, const OptimizerSettings& optimizer) {
    OptimizerSettings own = unclipped(optimizer);
    if (s.number("local_learning_rate") > 0) own.learning_rate = s.number("local_learning_rate");
    return own;
  }
  void push() {
    if (samples_ == 0) return;
    server_.push(1, accrued_, samples_, double(gradients_));
    fill(0, accrued_);
    samples_ = gradients_ = 0;
  }

  ParameterServer& server_;
  std::int64_t n_fetch_, n_push_;
  bool overlap_;
  double clip_;
  bool plain_;
  Optimizer local_;
  Vector accrued_;
  std::int64_t samples_ = 0, gradients_ = 0;  // in accrued
};

class DownpourRule final : public Rule {
 public:
  DownpourRule(const Settings& s, const Context& c)
      : optimizer_(Downpour::unclipped(c.optimizer), *c.space, c.parameters),
        warm_start_(s.integer("warm_start")) {}
  void apply(Vec w, const Arrival& a, std::int64_t used) override {
    optimizer_.step(w, a.g, a.scale, used, a.number);  // of so many gradients
  }
  bool admit(int worker, std::int64_t used) const override { return worker == 0 || used >= warm_start_; }
  void finished(int worker) override {
    if (worker == 0) warm_start_ = 0;
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.number("warm start", warm_start_);
  }

 private:
  Optimizer optimizer_;
  std::int64_t warm_start_;
};

}  // namespace

extern const StrategyEntry downpour_entry{
    .name = "downpour",
    .summary = "asynchronous SGD through a sharded parameter server",
    .paper = "Dean et al. 2012 (algorithm 1.1)",
    .kind = StrategyEntry::Kind::servers,
    .data_order = DataOrder::shard,
    .parameters = {Parameter::integer("n_fetch", 1, "steps between two fetches", 1, 1e9),
                   Parameter::integer("n_push", 1, "steps between two pushes", 1, 1e9),
                   Parameter::flag("overlap", true, "fetch while the gradient is computed"),
                   Parameter::number("local_learning_rate", 0.0,
                                     "rate of the steps between fetches; 0: optimizer.learning_rate", 0),
                   Parameter::integer("warm_start", 0, "samples that the first replica works on alone", 0)},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Downpour>(s, c);
    },
    .make_rule = [](const Settings& s, const Context& c) -> std::unique_ptr<Rule> {
      return std::make_unique<DownpourRule>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          // The first pull finds nothing to overlap with; without overlap the last one finds the budget
          // spent.
          const std::int64_t pulls =
              s.flag("overlap") ? periods(steps, s.integer("n_fetch")) + 1 : steps / s.integer("n_fetch") + 1;
          const std::int64_t pushes =
              periods(steps, s.integer("n_push")) + (steps > 0 && (steps - 1) % s.integer("n_push") != 0);
          return double(pulls) * pull_cost(c) + double(pushes) * push_cost(c);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          return Facts{{"global_minibatch", double(c.minibatch * s.integer("n_push"))},
                       {"period", double(s.integer("n_fetch"))}};
        },
    .least =
        [](const Settings& s, const Context& c) {
          const Least all = least_for_all(c, s.integer("n_fetch"), "n_fetch");
          const Least alone{s.integer("warm_start") + 1, "the first replica works on warm_start = " +
                                                             std::to_string(s.integer("warm_start")) +
                                                             " samples alone, and the others would get none"};
          return c.workers > 1 && alone.samples > all.samples ? alone : all;
        },
    .tolerates_loss = true,
    .clips_on_workers = true,
    .tests = {.conformance = {{"n_fetch", std::int64_t(2)}, {"n_push", std::int64_t(3)}},
              .identities = {{.of = Identity::one_worker},
                             {.of = Identity::one_worker, .settings = {{"n_fetch", std::int64_t(3)}}},
                             {.of = Identity::in_turn, .settings = {{"overlap", false}}}}}};

}  // namespace dsgd
