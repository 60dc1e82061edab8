// Elastic averaging SGD (Zhang, Choromanska, LeCun 2015): p workers explore on their own, tied to a centre c
// by elastic forces. Every tau local steps, with x as it was before the step,
//   d   <- alpha * (x_i - c)              alpha = beta / p
//   x_i <- x_i - eta * g(x_i) - d         c <- c + d
// easgd: whenever a worker gets there, it pulls c and pushes d (algorithm 1). Nothing has to be atomic, for
// the servers add d to whatever c has become.
// easgd_sync: all workers at a time, c <- c + sum_i d_i (equations 5 and 6, there with tau = 1).
// eamsgd, eamsgd_sync: v <- delta * v - eta * g(x + delta * v), x <- x + v in place of the gradient step
// (algorithm 2). This is their momentum, so optimizer.rule must be sgd.
// A worker starts at the c that it finds, and ends with one more exchange. What is reported is c.

#include <stdexcept>

#include "strategies/strategy.h"

namespace dsgd {
namespace {

bool has_momentum(const Settings& s) { return s.values().count("delta") > 0; }
double alpha(const Settings& s, const Context& c) { return s.number("beta") / c.workers; }

OptimizerSettings local_optimizer(const Settings& s, OptimizerSettings settings) {
  if (!has_momentum(s)) return settings;
  settings.rule = OptimizerSettings::Rule::momentum;
  settings.momentum = s.number("delta");
  return settings;
}

// What a worker does between two exchanges, and its half of one.
class Elastic : public Strategy {
 public:
  Elastic(const Settings& s, const Context& c)
      : tau_(s.integer("tau")),
        alpha_(float(alpha(s, c))),
        ahead_of_(has_momentum(s)),
        optimizer_(local_optimizer(s, c.optimizer), *c.space, c.parameters),
        ahead_(*c.space, ahead_of_ ? c.parameters : 0),
        d_(*c.space, c.parameters) {}
  void visit(State& state) override { state.optimizer(optimizer_); }

 protected:
  void local_step(Replica& r, const Batch& batch, std::int64_t used) {
    if (ahead_of_) {  // the optimizer's state is -v / eta
      copy(r.w, ahead_);
      axpy(float(-optimizer_.rate(used) * optimizer_.settings().momentum), optimizer_.state(), ahead_);
    }
    r.gradient(ahead_of_ ? ahead_.view() : r.w, batch, r.g);
    optimizer_.step(r.w, r.g, 1.0 / batch.count(), used);
  }

  std::int64_t tau_;
  float alpha_;
  bool ahead_of_;
  Optimizer optimizer_;
  Vector ahead_, d_;
};

class Asynchronous final : public Elastic {
 public:
  Asynchronous(const Settings& s, const Context& c) : Elastic(s, c), server_(*c.server) {}

  bool step(Replica& r) override {
    const bool exchange = r.t > 0 && r.t % tau_ == 0;
    if (r.t == 0) server_.pull(r.w, int(tau_));
    if (exchange) server_.pull(d_, int(tau_));
    const Batch batch = r.next();
    if (!batch && samples_ && !exchange) server_.pull(d_);
    const bool push = exchange || (!batch && samples_);
    if (push) {
      scale(-alpha_, d_);  // d <- alpha * (x - c)
      axpy(alpha_, r.w, d_);
      server_.push(1, d_, samples_);
      samples_ = 0;
    }
    if (batch) local_step(r, batch, server_.used());
    if (push) axpy(-1, d_, r.w);
    samples_ += batch.count();
    return bool(batch);
  }
  void visit(State& state) override {
    Elastic::visit(state);
    state.number("samples", samples_);
  }

 private:
  ParameterServer& server_;
  std::int64_t samples_ = 0;  // since the last exchange
};

class Centre final : public Rule {
  void apply(Vec c, const Arrival& a, std::int64_t) override { axpy(1, a.g, c); }
};

class Synchronous final : public Elastic {
 public:
  Synchronous(const Settings& s, const Context& c)
      : Elastic(s, c), group_(*c.group), c_(*c.space, c.parameters) {}

  bool step(Replica& r) override {
    if (r.t == 0) copy(r.w, c_);
    const Batch batch = r.next();
    if (!batch) return false;
    const bool due = r.t > 0 && r.t % tau_ == 0;
    if (due) differ(r.w);
    if (batch.count()) local_step(r, batch, r.used);
    if (due) exchange(r);
    if (batch.last) {
      differ(r.w);
      exchange(r);
    }
    return true;
  }
  Vec master(Replica& r) override { return r.t == 0 ? r.w : c_.view(); }
  void visit(State& state) override {
    Elastic::visit(state);
    state.vector("c", c_);
  }

 private:
  void differ(ConstVec x) {  // d <- alpha * (x - c)
    copy(c_, d_);
    scale(-alpha_, d_);
    axpy(alpha_, x, d_);
  }
  void exchange(Replica& r) {
    axpy(-1, d_, r.w);
    copy(d_, r.g);  // the gradient has been used
    group_.sum(r.g);
    axpy(1, r.g, c_);
  }

  Group& group_;
  Vector c_;
};

template <typename Made, typename Base>
std::unique_ptr<Base> make(const Settings& s, const Context& c) {
  return std::make_unique<Made>(s, c);
}

StrategyEntry entry(const char* name, const char* summary, bool synchronous, bool momentum) {
  StrategyEntry e{
      .name = name,
      .summary = summary,
      .paper = "Zhang, Choromanska, LeCun 2015",
      .data_order = "shard",
      .parameters = {{"tau", std::int64_t(10), "local steps between two exchanges", 1, 1e9},
                     {"beta", 0.9, "share of the way to the workers' mean; alpha = beta / p", 0, 1}},
      .effective =
          [](const Settings& s, const Context& c) {
            if (has_momentum(s) && c.optimizer.rule != OptimizerSettings::Rule::sgd)
              throw std::invalid_argument(
                  "delta is the momentum of its local steps (allowed: optimizer.rule = \"sgd\")");
            return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                         {"period", double(s.integer("tau"))},
                         {"alpha", alpha(s, c)}};
          },
      .conformance = {{"tau", std::int64_t(3)}, {"beta", 0.5}},
      .serial = {{"tau", std::int64_t(1000)}, {"beta", 1.0}},
      .own_models = true};
  if (momentum) {
    e.parameters.push_back({"delta", 0.99, "momentum of the local steps", 0, 0.999999});
    e.conformance["delta"] = 0.5;
    e.serial["delta"] = 0.0;
  }
  if (synchronous) {
    e.make = make<Synchronous, Strategy>;
    e.cost = [](const Settings& s, const Context& c, std::int64_t steps) {
      return double(periods(steps, s.integer("tau"))) * all_reduce_cost(c);
    };
  } else {
    e.make = make<Asynchronous, Strategy>;
    e.make_rule = [](const Settings&, const Context&) -> std::unique_ptr<Rule> {
      return std::make_unique<Centre>();
    };
    e.cost = [](const Settings& s, const Context& c, std::int64_t steps) {
      const auto exchanges = double(periods(steps, s.integer("tau")));
      return (exchanges + 1) * pull_cost(c) + exchanges * push_cost(c);
    };
  }
  return e;
}

}  // namespace

extern const StrategyEntry easgd_entry =
    entry("easgd", "elastic averaging with a centre on the servers, asynchronous", false, false);
extern const StrategyEntry eamsgd_entry =
    entry("eamsgd", "easgd with Nesterov momentum in the local steps", false, true);
extern const StrategyEntry easgd_sync_entry =
    entry("easgd_sync", "elastic averaging in lock-step", true, false);
extern const StrategyEntry eamsgd_sync_entry =
    entry("eamsgd_sync", "easgd_sync with Nesterov momentum in the local steps", true, true);

}  // namespace dsgd
