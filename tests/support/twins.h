// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "optimizer.h"
#include "quadratic.h"

// The papers' loops once more: from the equations, in double precision over plain vectors, all workers in one
// process. They call nothing of strategies/ and models/.
namespace dsgd::test {

using Doubles = std::vector<double>;

inline Doubles& operator+=(Doubles& a, const Doubles& b) {
  for (std::size_t j = 0; j < a.size(); ++j) a[j] += b[j];
  return a;
}
inline Doubles operator*(double a, Doubles b) {
  for (double& x : b) x *= a;
  return b;
}
inline Doubles operator+(Doubles a, const Doubles& b) { return a += b; }
inline Doubles operator-(Doubles a, const Doubles& b) { return a += -1 * b; }
inline Doubles mean(const std::vector<Doubles>& all) {
  Doubles sum(all[0].size());
  for (const Doubles& one : all) sum += one;
  return (1.0 / double(all.size())) * sum;
}

inline double difference(const Doubles& a, const float* b) {  // largest, infinite where a number is not one
  double far = 0;
  for (std::size_t j = 0; j < a.size(); ++j) {
    const double d = std::abs(a[j] - b[j]);
    far = std::isfinite(d) ? std::max(far, d) : INFINITY;
  }
  return far;
}

// What compressors make of a vector, from the papers' equations.
inline Doubles plain_threshold(const Doubles& p, double tau) {
  Doubles c(p.size());
  for (std::size_t i = 0; i < p.size(); ++i) c[i] = p[i] > tau ? tau : p[i] < -tau ? -tau : 0;
  return c;
}
inline Doubles plain_topk(const Doubles& p, std::size_t k) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return std::abs(p[a]) > std::abs(p[b]); });
  Doubles c(p.size());
  for (std::size_t i = 0; i < k; ++i) c[order[i]] = p[order[i]];
  return c;
}
inline Doubles plain_sign(const Doubles& p) {
  Doubles c;
  for (const double x : p) c.push_back(x < 0 ? -1 : 1);
  return c;
}
inline Doubles plain_scaled_sign(const Doubles& p, const std::vector<std::size_t>& ends) {
  Doubles c = plain_sign(p);
  std::size_t first = 0;
  for (const std::size_t end : ends) {
    double size = 0;
    for (std::size_t i = first; i < end; ++i) size += std::abs(p[i]) / double(end - first);
    for (; first < end; ++first) c[first] *= size;
  }
  return c;
}
inline Doubles plain_onebit(const Doubles& p, std::size_t bucket) {
  Doubles c(p.size());
  for (std::size_t i = 0; i < p.size(); ++i) {
    const std::size_t first = i / bucket * bucket;
    double sum = 0, count = 0;
    for (std::size_t j = first; j < std::min(first + bucket, p.size()); ++j)
      if ((p[j] >= 0) == (p[i] >= 0)) sum += p[j], ++count;
    c[i] = sum / count;
  }
  return c;
}

struct PlainOptimizer {
  using Rule = OptimizerSettings::Rule;
  PlainOptimizer(const OptimizerSettings& settings, std::size_t n)
      : s(settings), state(s.rule == Rule::adam || s.rule == Rule::adamw ? 2 * n : n) {
    reset();
  }
  void reset() {
    state.assign(state.size(), s.rule == Rule::adagrad ? s.initial_accumulator : 0);
    t = 0;
  }
  double rate(double used) const {
    if (s.schedule.kind == Schedule::Kind::step)
      return s.learning_rate * std::pow(s.schedule.factor, std::floor(used / double(s.schedule.samples)));
    if (s.schedule.kind == Schedule::Kind::warmup && used < double(s.schedule.samples))
      return s.learning_rate *
             (s.schedule.factor + (1 - s.schedule.factor) * used / double(s.schedule.samples));
    return s.learning_rate;
  }
  static double norm(const Doubles& x, std::size_t first, std::size_t count) {
    double sum = 0;
    for (std::size_t j = first; j < first + count; ++j) sum += x[j] * x[j];
    return std::sqrt(sum);
  }
  // lars: the rate of element j.
  double local_rate(const Doubles& w, const Doubles& g, std::size_t j, double l2) const {
    std::size_t first = 0, count = w.size();
    for (const Extent& layer : s.layers)
      if (layer.first <= j && j < layer.first + layer.count) {
        if (layer.shape.size() == 1) return 1;  // a bias
        first = layer.first, count = layer.count;
      }
    const double of_w = norm(w, first, count), of_g = norm(g, first, count);
    return of_w > 0 && of_g > 0 ? s.trust * of_w / (of_g + l2 * of_w) : 1;
  }
  // terms: g is the sum of so many gradients, each with its weight decay (adamw: one with all).
  void step(Doubles& w, Doubles g, double used, double terms = 1) {
    ++t;
    const double l2 = s.l2 * terms;
    const double length = norm(g, 0, g.size());
    if (s.clip > 0 && length > s.clip) g = (s.clip / length) * g;
    const Doubles before = w;
    for (std::size_t j = 0; j < w.size(); ++j) {
      const double d = g[j] + (s.rule == Rule::adamw ? 0 : l2 * w[j]);
      double& v = state[j];
      switch (s.rule) {
        case Rule::sgd:
          w[j] -= rate(used) * d;
          break;
        case Rule::momentum:
          v = s.momentum * v + d;
          w[j] -= rate(used) * v;
          break;
        case Rule::nesterov:
          v = s.momentum * v + d;
          w[j] -= rate(used) * (d + s.momentum * v);
          break;
        case Rule::adagrad:
          v += d * d;
          w[j] -= rate(used) * d / (std::sqrt(v) + s.epsilon);
          break;
        case Rule::adam:
        case Rule::adamw: {
          double& square = state[w.size() + j];
          v = s.momentum * v + (1 - s.momentum) * d;
          square = s.beta2 * square + (1 - s.beta2) * d * d;
          const double mean = v / (1 - std::pow(s.momentum, t)),
                       root = std::sqrt(square / (1 - std::pow(s.beta2, t)));
          if (s.rule == Rule::adamw) w[j] -= rate(used) * s.l2 * w[j];
          w[j] -= rate(used) * mean / (root + s.epsilon);
          break;
        }
        case Rule::lars:
          v = s.momentum * v + rate(used) * local_rate(before, g, j, l2) * d;
          w[j] -= v;
          break;
      }
    }
  }
  OptimizerSettings s;
  Doubles state;
  double t = 0;  // updates
};

// L-BFGS with an Armijo line search, H as a matrix: the BFGS formula over the pairs that are kept.
struct PlainLbfgs {
  static double dot(const Doubles& p, const Doubles& q) {
    return std::inner_product(p.begin(), p.end(), q.begin(), 0.0);
  }
  // f and g at w; what is to be looked at next is in w then. Returns whether that is with the same batch.
  bool evaluated(double f, const Doubles& g) {
    if (searching && f > f0 + 1e-4 * a * slope) {
      a /= 2, ++halved;
      if (a < 1e-6) a = 0, pairs.clear();
      w = x + a * d;
      return true;
    }
    if (searching && dot(w - x, g - g0) > 0) pairs.push_back({w - x, g - g0});
    if (pairs.size() > history) pairs.erase(pairs.begin());
    x = w, f0 = f, g0 = g;
    searching = !searching || !resample;
    if (!searching) return false;
    d = -1 * direction(g);
    if (dot(g, d) > 0) pairs.clear(), d = -rate * g;
    slope = dot(g, d);
    a = 1;
    w = x + d;
    return true;
  }
  Doubles direction(const Doubles& g) const {  // H g
    const std::size_t n = w.size();
    std::vector<Doubles> H(n, Doubles(n));
    const double first = pairs.empty() ? rate
                                       : dot(pairs.back().first, pairs.back().second) /
                                             dot(pairs.back().second, pairs.back().second);
    for (std::size_t i = 0; i < n; ++i) H[i][i] = first;
    for (const auto& [s, y] : pairs) {  // H <- V^T H V + rho s s^T, V = 1 - rho y s^T
      const double rho = 1 / dot(s, y);
      Doubles Hy(n);
      for (std::size_t i = 0; i < n; ++i) Hy[i] = dot(H[i], y);
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j)
          H[i][j] += rho * (1 + rho * dot(y, Hy)) * s[i] * s[j] - rho * (Hy[i] * s[j] + s[i] * Hy[j]);
    }
    Doubles Hg(n);
    for (std::size_t i = 0; i < n; ++i) Hg[i] = dot(H[i], g);
    return Hg;
  }
  // The mean over `batch` samples of the stream, from where the last batch was or behind it.
  void step(const Quadratic& problem, std::int64_t batch) {
    Doubles g(problem.n);
    const double f = problem.gradient(w.data(), Order().stream(position, batch), g.data());
    if (!evaluated(f / double(batch), (1 / double(batch)) * g) && resample) position += batch;
  }
  Doubles w, x = w;  // x: accepted
  std::size_t history;
  bool resample;
  double rate;
  std::vector<std::pair<Doubles, Doubles>> pairs = {};
  Doubles g0 = {}, d = {};
  double f0 = 0, slope = 0, a = 0;
  bool searching = false;
  std::int64_t position = 0, halved = 0;
};

// Workers in lock-step.
struct PlainWorkers {
  PlainWorkers(const Quadratic& quadratic, const OptimizerSettings& settings, Order shape)
      : problem(quadratic), W(quadratic.n), Wg(quadratic.n), Delta(quadratic.n) {
    for (shape.worker = 0; shape.worker < shape.workers; ++shape.worker) {
      order.push_back(shape);
      w.emplace_back(problem.n);
      optimizer.emplace_back(settings, problem.n);
    }
  }
  std::size_t size() const { return w.size(); }
  bool more() const { return used < order[0].budget; }
  Doubles gradient(std::size_t k, double count) const { return gradient(k, w[k], count); }
  Doubles gradient(std::size_t k, const Doubles& at, double count) const {  // sum over its minibatch / count
    Doubles g(problem.n);
    problem.gradient(at.data(), order[k].lock_step(used), g.data());
    return (1 / count) * g;
  }

  // Zhang et al. 2015, hardsync: g = mean over all samples of all workers.
  void sync() {
    Doubles g(problem.n);
    for (std::size_t k = 0; k < size(); ++k) g += gradient(k, double(order[0].global_count(used)));
    for (std::size_t k = 0; k < size(); ++k) optimizer[k].step(w[k], g, double(used));
    advance();
  }

  // Moritz et al. 2016: tau local steps, W <- (1/K) sum_k W_k.
  void averaging(int tau, const std::string& state) {
    averaging(state, [&] { return ends(tau); });
  }
  template <typename When>
  void averaging(const std::string& state, When when) {  // asked after the step
    local_step();
    if (when()) average(state);
  }

  // Wang et al. 2019; W is x, Delta is u.
  void slowmo(int tau, double alpha, double beta, const std::string& state) {
    const double gamma = optimizer[0].rate(double(used));
    local_step();
    if (!ends(tau)) return;
    average(state);
    Delta = beta * Delta;
    if (gamma > 0) {
      Delta += (1 / gamma) * (W - w[0]);
      W += -alpha * gamma * Delta;
    } else {  // what was there before the rate fell to zero has no share in u
      W += alpha * (w[0] - W);
    }
    w.assign(size(), W);
  }

  // Douillard et al. 2023; W is theta, Delta the outer velocity.
  void diloco(int H, const std::string& rule, double rate, double mu) {
    local_step();
    if (!ends(H)) return;
    const Doubles outer_gradient = W - mean(w);
    Delta = mu * Delta + outer_gradient;
    if (rule == "sgd") W += -rate * outer_gradient;
    if (rule == "momentum") W += -rate * Delta;
    if (rule == "nesterov") W += -rate * (outer_gradient + mu * Delta);
    w.assign(size(), W);
  }

  // Chen & Huo 2016 (the mean of the workers' updates, look-ahead undone), fairseq (their mean) and CNTK
  // (their sum times 1 - eta); in these two W is what the workers start from.
  void bmuf(int block, double eta, double zeta, bool nesterov, bool reset,
            const std::string& convention = "paper") {
    local_step();
    if (!ends(block)) return;
    Doubles G(problem.n);
    for (const Doubles& one : w) G += one - Wg;
    if (convention != "cntk") G = (1 / double(size())) * G;
    Delta = eta * Delta + (convention == "cntk" ? (1 - eta) * zeta : zeta) * G;
    W += Delta;
    Wg = nesterov ? W + eta * Delta : W;
    if (convention != "paper") W = Wg;
    w.assign(size(), Wg);
    for (auto& o : optimizer)
      if (reset) o.reset();
  }

  // Lian et al. 2017: W(k, j) is what worker k's model has of worker j's.
  template <typename Weight>
  void dpsgd(Weight weight, bool before) {
    const std::vector<Doubles> x = w;
    const auto mix = [&] {
      const std::vector<Doubles> apart = w;
      for (std::size_t k = 0; k < size(); ++k) {
        w[k].assign(problem.n, 0);
        for (std::size_t j = 0; j < size(); ++j) w[k] += weight(int(k), int(j)) * apart[j];
      }
    };
    if (before) mix();
    for (std::size_t k = 0; k < size(); ++k)
      if (const auto count = double(order[k].lock_step(used).size()); count > 0)
        optimizer[k].step(w[k], gradient(k, x[k], count), double(used));
    if (!before) mix();
    advance();
  }

  // Zhang, Choromanska, LeCun 2015, equations 5 and 6 every tau steps and at the end; `W` is the centre. With
  // `delta` the worker's step is that of algorithm 2.
  void easgd(int tau, double beta, double delta = -1) {
    const double alpha = beta / double(size());
    std::vector<Doubles> d(size(), Doubles(problem.n));
    if (t > 0 && t % tau == 0)
      for (std::size_t k = 0; k < size(); ++k) d[k] = alpha * (w[k] - W);
    v.resize(size(), Doubles(problem.n));
    for (std::size_t k = 0; k < size(); ++k)
      if (const auto count = double(order[k].lock_step(used).size()); count > 0) {
        if (delta < 0) {
          optimizer[k].step(w[k], gradient(k, count), double(used));
        } else {
          const Doubles ahead = w[k] + delta * v[k];
          v[k] = delta * v[k] +
                 -optimizer[k].rate(double(used)) * (gradient(k, ahead, count) + optimizer[k].s.l2 * ahead);
          w[k] += v[k];
        }
      }
    advance();
    const auto exchange = [&] {
      for (std::size_t k = 0; k < size(); ++k) {
        w[k] += -1 * d[k];
        W += d[k];
      }
    };
    exchange();
    if (more()) return;
    for (std::size_t k = 0; k < size(); ++k) d[k] = alpha * (w[k] - W);
    exchange();
  }

  // Error feedback: p_k = g_k + e_k, what is sent is c(p_k), e_k = p_k - c(p_k).
  template <typename C>
  void compressed(C c) {
    e.resize(size(), Doubles(problem.n));
    Doubles sum(problem.n);
    for (std::size_t k = 0; k < size(); ++k) {
      e[k] += gradient(k, mean_count());
      sum += send(e[k], c);
    }
    synchronous_step((1 / double(size())) * sum);
  }

  // Seide et al. 2014: every worker has a slice of the sum, which it compresses again; `W` are their
  // residuals.
  template <typename C>
  void compressed_twice(C c) {
    const std::size_t slice = (problem.n + size() - 1) / size();
    e.resize(size(), Doubles(problem.n));
    W.resize(problem.n);
    const auto in_slices = [&](Doubles& p) {
      Doubles sent;
      for (std::size_t first = 0; first < p.size(); first += slice) {
        const std::size_t end = std::min(first + slice, p.size());
        Doubles part(p.begin() + std::ptrdiff_t(first), p.begin() + std::ptrdiff_t(end));
        const Doubles of_part = send(part, c);
        std::copy(part.begin(), part.end(), p.begin() + std::ptrdiff_t(first));
        sent.insert(sent.end(), of_part.begin(), of_part.end());
      }
      return sent;
    };
    Doubles sum(W.size());
    for (std::size_t k = 0; k < size(); ++k) {
      e[k] += gradient(k, mean_count());
      sum += in_slices(e[k]);
    }
    W += (1 / double(size())) * sum;
    synchronous_step(in_slices(W));
  }

  // Bernstein et al. 2018: everybody has a vote of one bit, zeros and ties count as -, +, -, ...; `v` is the
  // momentum.
  void majority_vote(double beta) {
    v.resize(size(), Doubles(problem.n));
    const auto sign = [&](double x) { return x < 0 || (x == 0 && t % 2 == 0) ? -1.0 : 1.0; };
    Doubles votes(problem.n);
    for (std::size_t k = 0; k < size(); ++k) {
      v[k] = beta * v[k] + (1 - beta) * gradient(k, mean_count());
      for (std::size_t j = 0; j < problem.n; ++j) votes[j] += sign(v[k][j]);
    }
    for (double& x : votes) x = sign(x);
    synchronous_step(votes);
  }

  // Vogels et al. 2019, of a model that is a matrix of `rows` rows and one bias. Q: columns x rank.
  void powersgd(std::size_t rows, std::size_t rank, Doubles& Q) {
    const std::size_t columns = (problem.n - 1) / rows;
    e.resize(size(), Doubles(problem.n));
    for (std::size_t k = 0; k < size(); ++k) e[k] += gradient(k, mean_count());
    Doubles M = mean(e), P(rows * rank);
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t j = 0; j < columns; ++j)
        for (std::size_t c = 0; c < rank; ++c) P[i * rank + c] += M[i * columns + j] * Q[j * rank + c];
    for (std::size_t c = 0; c < rank; ++c) {
      for (std::size_t before = 0; before < c; ++before) {
        double share = 0;
        for (std::size_t i = 0; i < rows; ++i) share += P[i * rank + before] * P[i * rank + c];
        for (std::size_t i = 0; i < rows; ++i) P[i * rank + c] -= share * P[i * rank + before];
      }
      double square = 0;
      for (std::size_t i = 0; i < rows; ++i) square += P[i * rank + c] * P[i * rank + c];
      for (std::size_t i = 0; i < rows; ++i) P[i * rank + c] /= std::sqrt(square);
    }
    Q.assign(Q.size(), 0);
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t j = 0; j < columns; ++j)
        for (std::size_t c = 0; c < rank; ++c) Q[j * rank + c] += M[i * columns + j] * P[i * rank + c];
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t j = 0; j < columns; ++j) {
        M[i * columns + j] = 0;
        for (std::size_t c = 0; c < rank; ++c) M[i * columns + j] += P[i * rank + c] * Q[j * rank + c];
      }
    for (Doubles& one : e) {
      one += -1 * M;
      one.back() = 0;
    }
    synchronous_step(M);
  }

  Quadratic problem;
  std::vector<Order> order;
  std::vector<Doubles> w;  // of each worker
  std::vector<PlainOptimizer> optimizer;
  Doubles W, Wg, Delta;    // of the outer loop
  std::vector<Doubles> v;  // eamsgd, majority_vote
  std::vector<Doubles> e;  // what compression left behind
  std::int64_t t = 0, used = 0;

 private:
  void advance() {
    used += order[0].global_count(used);
    ++t;
  }
  double mean_count() const { return double(order[0].global_count(used)) / double(size()); }
  template <typename C>
  static Doubles send(Doubles& p, C c) {
    const Doubles sent = c(p);
    p += -1 * sent;
    return sent;
  }
  void synchronous_step(const Doubles& g) {
    for (std::size_t k = 0; k < size(); ++k) optimizer[k].step(w[k], g, double(used));
    advance();
  }
  void local_step() {
    for (std::size_t k = 0; k < size(); ++k)
      if (const auto count = order[k].lock_step(used).size())
        optimizer[k].step(w[k], gradient(k, double(count)), double(used));
    advance();
  }
  void average(const std::string& state) {
    w.assign(size(), mean(w));
    std::vector<Doubles> states;
    for (const auto& o : optimizer) states.push_back(o.state);
    for (auto& o : optimizer) {
      if (state == "average") o.state = mean(states);
      if (state == "reset") o.reset();
    }
  }
  bool ends(int period) const { return t % period == 0 || !more(); }
};

// Lian et al. 2018, AD-PSGD: workers of whom each does what `logs` says it did.
struct PlainPairs {
  struct Log {
    std::vector<int> counts;                    // samples taken, before each step and at the end
    std::vector<int> asked;                     // in each step; -1: nobody
    std::vector<std::pair<int, int>> answered;  // (in which of its calls, whom): take 1, end 2, take 3, ...
  };
  PlainPairs(const Quadratic& quadratic, const OptimizerSettings& settings, std::vector<Order> orders,
             std::vector<Log> all)
      : problem(quadratic), order(std::move(orders)), logs(std::move(all)) {
    for (std::size_t k = 0; k < order.size(); ++k) {
      x.emplace_back(problem.n);
      optimizer.emplace_back(settings, problem.n);
      state.emplace_back();
    }
  }
  // All steps, in an order in which everybody who is answered has asked before. False: there is none.
  bool run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t k = 0; k < x.size(); ++k)
        while (advance(int(k))) moved = true;
    }
    return std::all_of(state.begin(), state.end(), [](const State& s) { return s.ended; });
  }
  std::vector<Doubles> x;

 private:
  struct State {
    int call = 1;  // the one that is next
    std::size_t answers = 0;
    bool waiting = false, ended = false;
    std::int64_t done = 0;
    Doubles g;
  };
  bool advance(int k) {
    State& s = state[k];
    const Log& log = logs[k];
    if (s.ended || s.waiting) return false;
    if (s.answers < log.answered.size() && log.answered[s.answers].first == s.call) {
      const int i = log.answered[s.answers].second;
      State& asking = state[i];
      if (!asking.waiting || logs[i].asked[asking.call / 2 - 1] != k) return false;
      x[i] = x[k] = 0.5 * (x[i] + x[k]);
      asking.waiting = false;
      ++s.answers;
      return true;
    }
    const int t = (s.call - 1) / 2, count = log.counts[t];
    if (s.call++ % 2) {
      s.ended = count == 0;
      if (s.ended) return true;
      s.g.assign(problem.n, 0);
      problem.gradient(x[k].data(), order[k].own(s.done, count), s.g.data());
      s.done += count;
      s.waiting = log.asked[t] >= 0;
    } else {
      optimizer[k].step(x[k], (1.0 / count) * s.g, 0);
    }
    return true;
  }

  Quadratic problem;
  std::vector<Order> order;
  std::vector<Log> logs;
  std::vector<PlainOptimizer> optimizer;
  std::vector<State> state;
};

}  // namespace dsgd::test
