// PowerSGD (Vogels, Karimireddy, Jaggi 2019). For every matrix of weights, n x m, a product of n x r and r x
// m travels, found by one step of a power iteration from the last step's Q. On worker k, with a residual e_k,
//   M_k <- g_k + e_k
//   P <- mean over k of M_k * Q;   P <- orthonormalised columns of P
//   Q <- mean over k of M_k^T * P
//   M' <- P * Q^T;   e_k <- M_k - M'
//   w <- w - alpha * M'      (or the optimizer's rule: momentum after the decompression)
// Vectors (biases) travel as they are, with the P's. Kernels are matrices of a row for each output. A column
// of P that the others leave nothing of is dropped, and its Q starts afresh.

#include <algorithm>
#include <cmath>

#include "strategies/strategy.h"

namespace dsgd {
namespace {

struct Layout {
  struct Matrix {
    std::size_t first, rows, columns, rank;  // in the model
    std::size_t p, q;                        // where its P and Q begin
  };
  struct Rest {
    std::size_t first, count, p;
  };
  Layout(const Settings& s, const Context& c) {
    std::vector<Extent> pieces = c.optimizer.layers;
    if (pieces.empty()) pieces.push_back({.first = 0, .count = c.parameters});
    for (const Extent& piece : pieces) {
      if (piece.shape.size() < 2) continue;
      const auto rows = std::size_t(piece.shape[0]), columns = piece.count / rows;
      const auto rank = std::min({rows, columns, std::size_t(s.integer("rank"))});
      matrices.push_back({piece.first, rows, columns, rank, ps, qs});
      ps += rows * rank;
      qs += columns * rank;
    }
    for (const Extent& piece : pieces) {
      if (piece.shape.size() >= 2) continue;
      rests.push_back({piece.first, piece.count, ps});
      ps += piece.count;
    }
  }
  std::vector<Matrix> matrices;
  std::vector<Rest> rests;
  std::size_t ps = 0, qs = 0;  // floats in all: of P's and vectors, of Q's
};

float uniform(std::uint64_t i) {  // in [-1, 1): SplitMix64 of i
  std::uint64_t x = i * 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return float((x ^ x >> 31) >> 40) * 0x1p-23f - 1;
}

class PowerSgd final : public Strategy {
 public:
  PowerSgd(const Settings& s, const Context& c)
      : group_(*c.group),
        optimizer_(c.optimizer, *c.space, c.parameters),
        layout_(s, c),
        e_(*c.space, c.parameters),
        p_(*c.space, layout_.ps),
        q_(*c.space, layout_.qs),
        workers_(c.workers) {
    for (std::size_t i = 0; i < q_.size(); ++i) q_.data()[i] = uniform(i);
  }

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    r.gradient(r.w, batch, r.g);
    axpy(float(double(workers_) / double(batch.global_count)), r.g, e_);
    group_.compress(e_.size(), [&] { multiply(); });
    group_.mean(p_);
    group_.compress(e_.size(), [&] { multiply_transposed(); });
    group_.mean(q_);
    group_.compress(e_.size(), [&] { unpack(r.g); });
    optimizer_.step(r.w, r.g, 1, r.used);
    return true;
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.vector("e", e_);
    state.vector("q", q_);
  }

 private:
  void multiply() {  // P <- M * Q
    fill(0, p_);
    for (const auto& m : layout_.matrices)
      each(m, [&](std::size_t at, float* p, float* q) {
        for (std::size_t k = 0; k < m.rank; ++k) p[k] += e_.data()[at] * q[k];
      });
    for (const auto& rest : layout_.rests)
      copy(part(e_, rest.first, rest.count), part(p_, rest.p, rest.count));
  }
  void multiply_transposed() {  // Q <- M^T * P, P orthonormal
    for (const auto& m : layout_.matrices) orthonormalise(m);
    fill(0, q_);
    for (const auto& m : layout_.matrices)
      each(m, [&](std::size_t at, float* p, float* q) {
        for (std::size_t k = 0; k < m.rank; ++k) q[k] += e_.data()[at] * p[k];
      });
  }
  void unpack(Vec M) {  // M' <- P * Q^T;  e <- M - M'
    for (const auto& m : layout_.matrices)
      each(m, [&](std::size_t at, float* p, float* q) {
        float sum = 0;
        for (std::size_t k = 0; k < m.rank; ++k) sum += p[k] * q[k];
        M.data[at] = sum;
      });
    for (const auto& rest : layout_.rests) copy(part(p_, rest.p, rest.count), M.part(rest.first, rest.count));
    axpy(-1, M, e_);
    for (const auto& rest : layout_.rests) fill(0, part(e_, rest.first, rest.count));
    for (const auto& m : layout_.matrices) renew(m);
  }
  static Vec part(const Vector& v, std::size_t first, std::size_t count) {
    return v.view().part(first, count);
  }
  // do_it(element of the model, its row of P, its row of Q), row by row.
  template <typename Do>
  void each(const Layout::Matrix& m, Do do_it) {
    for (std::size_t i = 0; i < m.rows; ++i)
      for (std::size_t j = 0; j < m.columns; ++j)
        do_it(m.first + i * m.columns + j, p_.data() + m.p + i * m.rank, q_.data() + m.q + j * m.rank);
  }
  double dot_columns(const Layout::Matrix& m, std::size_t a, std::size_t b) const {
    const float* p = p_.data() + m.p;
    double sum = 0;
    for (std::size_t i = 0; i < m.rows; ++i) sum += double(p[i * m.rank + a]) * p[i * m.rank + b];
    return sum;
  }
  // Gram-Schmidt, each column twice against those before it.
  void orthonormalise(const Layout::Matrix& m) {
    float* p = p_.data() + m.p;
    for (std::size_t k = 0; k < m.rank; ++k) {
      const double before = dot_columns(m, k, k);
      for (std::size_t other = 0; other < 2 * k; ++other) {
        const auto share = float(dot_columns(m, k, other % k));
        for (std::size_t i = 0; i < m.rows; ++i) p[i * m.rank + k] -= share * p[i * m.rank + other % k];
      }
      const double left = dot_columns(m, k, k);
      const float scale = left > 1e-10 * before ? float(1 / std::sqrt(left)) : 0;
      for (std::size_t i = 0; i < m.rows; ++i) p[i * m.rank + k] = scale ? p[i * m.rank + k] * scale : 0;
    }
  }
  void renew(const Layout::Matrix& m) {  // Q of columns that were dropped
    for (std::size_t k = 0; k < m.rank; ++k) {
      if (dot_columns(m, k, k) != 0) continue;
      for (std::size_t j = 0; j < m.columns; ++j)
        q_.data()[m.q + j * m.rank + k] = uniform(m.q + j * m.rank + k);
    }
  }

  Group& group_;
  Optimizer optimizer_;
  Layout layout_;
  Vector e_, p_, q_;
  int workers_;
};

}  // namespace

extern const StrategyEntry powersgd_entry{
    .name = "powersgd",
    .summary = "sync that sends low-rank factors of each matrix, the error later",
    .paper = "Vogels, Karimireddy, Jaggi 2019",
    .data_order = "global",
    .parameters = {{"rank", std::int64_t(2), "of the factors, at most that of the matrix", 1, 1e6}},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<PowerSgd>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          const Layout layout(s, c);
          Context p = c, q = c;
          p.parameters = layout.ps;
          q.parameters = layout.qs;
          return double(steps) * (all_reduce_cost(p) + all_reduce_cost(q));
        },
    .effective =
        [](const Settings&, const Context& c) {
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)}, {"period", 1}};
        },
    .conformance = {{"rank", std::int64_t(1)}},
    .collectives = 2,
    .lossy = true,
    .elements = true};

}  // namespace dsgd
