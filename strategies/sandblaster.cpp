// SPDX-License-Identifier: Apache-2.0
// Sandblaster L-BFGS (Dean et al. 2012, algorithm 1.2): workers compute the gradient of one large batch, in
// portions that go to whoever is idle; the servers make a step of L-BFGS of it.
//   worker:   accrued <- 0;  for every minibatch of a portion: accrued <- accrued + g(w);  push accrued
//             w is fetched where it has changed. When all portions of the batch are out, idle workers get
//             copies of those that are not done (backups); what comes first counts.
//   servers, when the batch is complete, f and g its mean loss and gradient at w:
//             f > f_0 + c1 * a * d.g_0:  a <- a / 2                    (Armijo; the same batch at another w)
//             otherwise:  s <- w - x;  y <- g - g_0;  history <- (s, y);  x <- w;  f_0, g_0 <- f, g
//                         d <- -H g, two loops over the history (Nocedal 1980);  a <- 1
//             w <- x + a * d
// Vectors and history stay cut over the servers, which take the coordinator's decisions together: from sums
// of their dot products. With `resample` every accepted step is followed by a new batch, first at x, so that
// s and y belong to one batch; without, the first batch is the only one. The paper tells neither the length
// of the history nor the line search nor the batch. Pairs with s.y <= 0 are left out; without a history H is
// the learning rate; a search in vain, or a direction that does not descend, ends the history.

#include <stdexcept>
#include <string>

#include "parts/lbfgs.h"
#include "strategy.h"

namespace dsgd {
namespace {

class Sandblaster final : public Strategy {
 public:
  Sandblaster(const Settings& s, const Context& c)
      : server_(*c.server), portion_(int(s.integer("portion"))), accrued_(*c.space, c.parameters) {}

  bool step(Replica& r) override {
    Batch batch = r.next();
    if (!batch) {  // the portion is done
      if (samples_ > 0) server_.push(1, accrued_, samples_, loss_);
      fill(0, accrued_);
      samples_ = 0;
      loss_ = 0;
      server_.pull_work(portion_);
      batch = r.next();
      if (!batch) return false;
      if (server_.changed()) server_.pull(r.w, 0);
    }
    loss_ += r.gradient(r.w, batch, r.g);
    axpy(1, r.g, accrued_);
    samples_ += batch.count();
    return true;
  }
  void visit(State& state) override {
    state.vector("accrued", accrued_);
    state.number("samples", samples_);
    state.number("loss", loss_);
  }

 private:
  ParameterServer& server_;
  int portion_;
  Vector accrued_;
  std::int64_t samples_ = 0;
  double loss_ = 0;
};

class LbfgsRule final : public Rule {
 public:
  LbfgsRule(const Settings& s, const Context& c)
      : batch_(s.integer("batch")),
        backups_(int(s.integer("backups"))),
        resample_(s.flag("resample")),
        rate_(c.optimizer.learning_rate),
        l2_(c.optimizer.l2),
        schedule_(c.optimizer.schedule),
        servers_(c.servers),
        lbfgs_(*c.space, c.parameters, s.integer("history"), c.shards) {}
  std::int64_t batch() const override { return batch_; }
  bool same_batch() const override { return lbfgs_.searching() || !resample_; }
  int backups() const override { return backups_; }
  Vec master(Vec w) override { return lbfgs_.x(w); }

  void apply(Vec w, const Arrival& a, std::int64_t used) override {
    const double f = lbfgs_.sum(a.number) / servers_ * a.scale + 0.5 * l2_ * lbfgs_.product(w, w);
    if (lbfgs_.rejects(w, f)) return;
    const Vec g = lbfgs_.accept(w, f);
    copy(a.g, g);
    scale(a.scale, g);
    axpy(float(l2_), w, g);
    if (lbfgs_.learn() && resample_) return;  // a new batch, at x
    lbfgs_.search(w, rate_ * schedule_.at(used));
  }
  void visit(State& state) override { lbfgs_.visit(state); }

 private:
  std::int64_t batch_;
  int backups_;
  bool resample_;
  double rate_, l2_;
  Schedule schedule_;
  int servers_;
  Lbfgs lbfgs_;
};

}  // namespace

extern const StrategyEntry sandblaster_entry{
    .name = "sandblaster",
    .summary = "L-BFGS on the servers, portions of large batches for idle workers",
    .paper = "Dean et al. 2012 (algorithm 1.2)",
    .kind = StrategyEntry::Kind::servers,
    .data_order = DataOrder::queue,
    .parameters = {Parameter::integer("batch", 6000, "samples of a gradient", 1, 1e12),
                   Parameter::integer("portion", 4, "minibatches that a worker is given at a time", 1, 1e9),
                   Parameter::integer("backups", 1, "copies of a portion near the end of a batch", 0, 4096),
                   Parameter::integer("history", 10, "pairs of differences kept", 1, 1000),
                   Parameter::flag("resample", true, "a new batch after every accepted step")},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Sandblaster>(s, c);
    },
    .make_rule = [](const Settings& s, const Context& c) -> std::unique_ptr<Rule> {
      return std::make_unique<LbfgsRule>(s, c);
    },
    .cost =
        [](const Settings&, const Context& c, std::int64_t steps) {
          // Portions of one minibatch, each of another batch.
          return double(2 * steps + 1) * pull_cost(c) + double(steps) * push_cost(c);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          if (c.optimizer.rule != OptimizerSettings::Rule::sgd || c.optimizer.clip > 0)
            throw std::invalid_argument(
                "its steps are those of L-BFGS (allowed: optimizer.rule = \"sgd\", optimizer.clip = 0)");
          return Facts{{"global_minibatch", double(s.integer("batch"))},
                       {"period", double(s.integer("portion"))}};
        },
    .least =
        [](const Settings& s, const Context& c) {
          const Least all = least_for_all(c, s.integer("portion"), "portion");
          const Least update{s.integer("batch"), "an update is made of batch = " +
                                                     std::to_string(s.integer("batch")) + " samples"};
          return update.samples > all.samples ? update : all;
        },
    .tolerates_loss = true,
    .cost_is_bound = true,
    .in_batches = true,
    .tests = {.conformance = {{"batch", std::int64_t(24)},
                              {"portion", std::int64_t(2)},
                              {"backups", std::int64_t(3)},
                              {"history", std::int64_t(3)}},
              .identities = {{.of = Identity::none, .why = "its steps are those of L-BFGS"}}}};

}  // namespace dsgd
