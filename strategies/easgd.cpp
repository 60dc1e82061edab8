// SPDX-License-Identifier: Apache-2.0
// Asynchronous elastic averaging, easgd and eamsgd (Zhang, Choromanska, LeCun 2015, algorithms 1 and 2;
// equations in elastic.h): every tau local steps a worker pulls the centre c, computes d = alpha * (x - c)
// and pushes d, which the servers add to whatever c has become. So nothing has to be atomic. A worker starts
// at the c that it finds, and ends with one more exchange. What is reported is c.

#include "parts/elastic.h"

namespace dsgd {
namespace {

class Easgd final : public Elastic {
 public:
  Easgd(const Settings& s, const Context& c) : Elastic(s, c), server_(*c.server) {}

  bool step(Replica& r) override {
    const bool due = r.t > 0 && r.t % tau_ == 0;
    if (r.t == 0) server_.pull(r.w, int(tau_));
    if (due) server_.pull(d_, int(tau_));
    const Batch batch = r.next();
    if (!batch && samples_ && !due) server_.pull(d_, 0);  // no work: this is the end
    const bool exchange = due || (!batch && samples_);
    if (exchange) {
      scale(-alpha_, d_);  // d <- alpha * (x - c)
      axpy(alpha_, r.w, d_);
      server_.push(1, d_, samples_);  // c <- c + d
      samples_ = 0;
    }
    if (batch) local_step(r, batch, server_.used());
    if (exchange) axpy(-1, d_, r.w);
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

StrategyEntry asynchronous(const char* name, const char* summary, bool momentum) {
  StrategyEntry e = Elastic::entry(name, summary, momentum);
  e.make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
    return std::make_unique<Easgd>(s, c);
  };
  e.kind = StrategyEntry::Kind::servers;
  e.make_rule = [](const Settings&, const Context&) -> std::unique_ptr<Rule> {
    return std::make_unique<Centre>();
  };
  e.least = [](const Settings& s, const Context& c) { return least_for_all(c, s.integer("tau"), "tau"); };
  e.cost = [](const Settings& s, const Context& c, std::int64_t steps) {
    const auto exchanges = double(periods(steps, s.integer("tau")));
    return (exchanges + 1) * pull_cost(c) + exchanges * push_cost(c);
  };
  return e;
}

}  // namespace

extern const StrategyEntry easgd_entry =
    asynchronous("easgd", "elastic averaging with a centre on the servers, asynchronous", false);
extern const StrategyEntry eamsgd_entry =
    asynchronous("eamsgd", "easgd with Nesterov momentum in the local steps", true);

}  // namespace dsgd
