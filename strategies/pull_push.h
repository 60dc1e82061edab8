#pragma once

#include <memory>

#include "strategies/strategy.h"

namespace dsgd {

// A worker of asynchronous SGD: fetch the model, compute a gradient, send it, in every step. Strategies that
// have it differ in the servers' rule.
class PullPush final : public Strategy {
 public:
  explicit PullPush(const Context& c) : server_(*c.server) {}

  bool step(Replica& r) override {
    server_.pull(r.w);
    const Batch batch = r.next();
    if (!batch) return false;
    r.gradient(r.w, batch, r.g);
    server_.push(1.0f / float(batch.count()), r.g, batch.count());
    return true;
  }

  static std::unique_ptr<Strategy> make(const Settings&, const Context& c) {
    return std::make_unique<PullPush>(c);
  }
  // The last pull finds the budget spent.
  static Cost cost(const Settings&, const Context& c, std::int64_t steps) {
    return double(steps + 1) * pull_cost(c) + double(steps) * push_cost(c);
  }

 private:
  ParameterServer& server_;
};

}  // namespace dsgd
