// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "strategy.h"

namespace dsgd::test {

// L(w) = 1/2 sum_i sum_j h_j (w_j - x_ij)^2 over 24 samples with small integer coordinates. Its optimum is
// the mean of the samples, an integer; so is the mean of every worker's part with 1, 2, 3 or 4 workers:
// samples i and i + 12 lie opposite to each other and in the same part.
struct Quadratic {
  static constexpr int samples = 24;
  std::size_t n = 13;
  bool curved = false;  // curvatures 1, 1/2, 1, ...: coordinates converge at different rates
  double slope = 0;  // other than 0: L(w) = slope * sum_i sum_j (j + 1) w_j instead; its gradient is constant

  double curvature(std::size_t j) const { return curved && j % 2 ? 0.5 : 1; }
  int optimum(std::size_t j) const { return (j % 2 ? 1 : -1) * (4 + int(3 * j % 5)); }  // 4..8
  int x(std::uint32_t i, std::size_t j) const {                                         // |x| <= 11
    const int d = int((3 + 2 * j) * (i % 12) % 7) - 3;
    return optimum(j) + (i % samples < 12 ? d : -d);
  }
  // g <- sum over ids of dL(w)/dw; returns the summed loss.
  template <typename T>
  double gradient(const T* w, std::span<const std::uint32_t> ids, T* g) const {
    double loss = 0;
    for (std::size_t j = 0; j < n; ++j) {
      if (slope != 0) {
        g[j] = T(slope * double(j + 1) * double(ids.size()));
        continue;
      }
      T sum = 0;
      for (const std::uint32_t i : ids) {
        const T d = w[j] - T(x(i, j));
        sum += d;
        loss += 0.5 * curvature(j) * d * d;
      }
      g[j] = T(curvature(j)) * sum;
    }
    return loss;
  }
  double distance(const float* w) const {  // of w from the optimum, largest coordinate
    double far = 0;
    for (std::size_t j = 0; j < n; ++j) far = std::max(far, std::abs(double(w[j]) - optimum(j)));
    return std::isfinite(dot({w, n, &host_space()}, {w, n, &host_space()})) ? far : INFINITY;
  }
};

// Which samples a worker reads: the three orders of datasets/sampler.h without shuffling. `global` deals out
// a stream in portions of P*b, side by side; with `shard` worker k reads samples k, k + P, k + 2P, ... for
// ever.
struct Order {
  std::string kind = "global";
  int worker = 0, workers = 1, minibatch = 4;
  std::int64_t budget = 0;
  std::vector<int> shares = {};  // global: of each worker, in proportion; empty: equal

  // The minibatch of the step before which all workers have used `used` samples.
  std::vector<std::uint32_t> lock_step(std::int64_t used) const {
    const std::int64_t all = global_count(used);
    const std::int64_t first = bound(all, worker), last = bound(all, worker + 1);
    if (kind == "global") return stream(used + first, last - first);
    return own(used / workers, last - first);  // exact until the last minibatch, which is the short one
  }
  std::int64_t bound(std::int64_t all, int k) const {
    if (shares.empty()) return all * k / workers;
    const auto up_to = [&](int end) { return std::accumulate(shares.begin(), shares.begin() + end, 0); };
    return all * up_to(k) / up_to(workers);
  }
  std::int64_t global_count(std::int64_t used) const {
    return std::min<std::int64_t>(std::int64_t(workers) * minibatch, budget - used);
  }
  std::vector<std::uint32_t> stream(std::int64_t position, std::int64_t count) const {
    std::vector<std::uint32_t> ids(count);
    for (std::int64_t i = 0; i < count; ++i) ids[i] = std::uint32_t((position + i) % Quadratic::samples);
    return ids;
  }
  std::vector<std::uint32_t> own(std::int64_t done, std::int64_t count) const {
    const int part = (Quadratic::samples - worker + workers - 1) / workers;
    std::vector<std::uint32_t> ids(count);
    for (std::int64_t i = 0; i < count; ++i) ids[i] = std::uint32_t(worker + workers * ((done + i) % part));
    return ids;
  }
};

// One worker's access to the quadratic.
class QuadraticReplica : public Replica {
 public:
  QuadraticReplica(const Quadratic& problem, const Order& order, Work* granted = nullptr,
                   const Space& space = host_space())
      : work(granted), problem_(problem), order_(order), w_(space, problem.n), g_(space, problem.n) {
    w = w_;
    g = g_;
  }

  Batch next() override {
    if (!work) {
      ids_ = order_.lock_step(used);
      batch_ = {ids_, order_.global_count(used), used + order_.global_count(used) == order_.budget};
    } else {
      const Work::Portion taken = work->take(order_.minibatch);
      ids_ = order_.kind == "queue" ? order_.stream(taken.position, taken.count)
                                    : order_.own(samples, taken.count);
      batch_ = {ids_, taken.count, false};
    }
    return batch_;
  }
  Loss gradient(ConstVec at, const Batch& batch, Vec into) override {
    samples += batch.count();
    for (const std::uint32_t i : batch.ids) ++uses[i];
    if (at.space->host()) return problem_.gradient(at.data, batch.ids, into.data);
    Vector here(host_space(), at.size), there(host_space(), at.size);
    copy(at, here);
    const double loss = problem_.gradient(here.data(), batch.ids, there.data());
    copy(there, into);
    return loss;
  }
  Loss descend(ConstVec at, const Batch& batch, Optimizer& optimizer, double scale,
               std::int64_t when) override {
    ++descents;
    return Replica::descend(at, batch, optimizer, scale, when);
  }
  // What the harness does with a step.
  bool step(Strategy& strategy) {
    if (!strategy.step(*this)) return false;
    used += batch_.global_count;
    ++t;
    return true;
  }
  std::vector<float> weights() const {
    std::vector<float> all(w.size);
    w.space->to_host(w.data, all.data(), w.size);
    return all;
  }

  Work* work;                                                                      // null: in lock-step
  std::int64_t samples = 0;                                                        // of this worker
  std::int64_t descents = 0;                                                       // of this worker
  std::vector<std::int64_t> uses = std::vector<std::int64_t>(Quadratic::samples);  // by sample

 private:
  Quadratic problem_;
  Order order_;
  Vector w_, g_;
  std::vector<std::uint32_t> ids_;
  Batch batch_;
};

}  // namespace dsgd::test
