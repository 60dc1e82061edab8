// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "strategy.h"

namespace dsgd {

// A worker of asynchronous SGD: fetch the model, compute a gradient, send it, in every step. Strategies that
// have it differ in the servers' rule, and in what a worker leaves out after its first step: without the
// fetch it keeps its w, without the push the servers apply its last gradient once more.
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
  // The last pull finds the budget spent.
  static Cost cost(const Settings&, const Context& c, std::int64_t steps) {
    return double(steps + 1) * pull_cost(c) + double(steps) * push_cost(c);
  }

 protected:
  ParameterServer& server_;

 private:
  // Work, and where the model is until the next step.
  virtual ConstVec fetch(Replica& r) {
    server_.begin_pull();
    return server_.end_pull(r.w);
  }
  virtual bool pushes(const Replica&) { return true; }
};

}  // namespace dsgd
