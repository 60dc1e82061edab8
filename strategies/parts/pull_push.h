// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "strategy.h"

namespace dsgd {

// A worker of asynchronous SGD: in every step it pulls the model, computes a gradient and pushes it. Derived
// strategies differ in the servers' rule, and in what a worker leaves out after its first step. Without the
// pull it keeps its w; without the push the servers apply its last gradient once more.
class PullPush : public Strategy {
 public:
  explicit PullPush(const Context& c) : server_(*c.server) {}

  bool step(Replica& r) final {
    const ConstVec w = fetch(r);
    const Batch batch = r.next();
    if (!batch) return false;
    const Vec g = server_.place(r.g);
    r.gradient(w, batch, g);
    if (r.t == 0 || pushes(r))
      server_.push(1.0f / float(batch.count()), g, batch.count());
    else
      server_.push_again(batch.count());
    return true;
  }

  static std::unique_ptr<Strategy> make(const Settings&, const Context& c) {
    return std::make_unique<PullPush>(c);
  }
  // One pull more than steps: the last one finds the budget spent.
  static Cost cost(const Settings&, const Context& c, std::int64_t steps) {
    return double(steps + 1) * pull_cost(c) + double(steps) * push_cost(c);
  }

 protected:
  ParameterServer& server_;

 private:
  // Asks for work and returns the model for this step, valid until the next one.
  virtual ConstVec fetch(Replica& r) {
    server_.begin_pull();
    return server_.end_pull(r.w);
  }
  virtual bool pushes(const Replica&) { return true; }  // whether to push this step's gradient
};

}  // namespace dsgd
