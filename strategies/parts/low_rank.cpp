// SPDX-License-Identifier: Apache-2.0
#include "parts/low_rank.h"

#include <algorithm>
#include <cmath>

#include "uniform.h"

namespace dsgd {
namespace {

float drawn(std::uint64_t i) { return 2 * uniform(i * 0x9e3779b97f4a7c15u) - 1; }

// Of columns a and b of a matrix with `rank` columns.
double dot_columns(const float* p, std::size_t rows, std::size_t rank, std::size_t a, std::size_t b) {
  double sum = 0;
  for (std::size_t i = 0; i < rows; ++i) sum += double(p[i * rank + a]) * p[i * rank + b];
  return sum;
}

}  // namespace

LowRank::LowRank(std::vector<Extent> layers, std::size_t n, std::size_t rank) {
  if (layers.empty()) layers.push_back({.first = 0, .count = n});
  for (const Extent& layer : layers) {
    if (layer.shape.size() < 2) continue;
    const auto rows = std::size_t(layer.shape[0]), columns = layer.count / rows;
    matrices_.push_back({layer.first, rows, columns, std::min({rows, columns, rank}), p_size_, q_size_});
    p_size_ += rows * matrices_.back().rank;
    q_size_ += columns * matrices_.back().rank;
  }
  for (const Extent& layer : layers) {
    if (layer.shape.size() >= 2) continue;
    rests_.push_back({layer.first, layer.count, p_size_});
    p_size_ += layer.count;
  }
}

// do_it(rank, element of the model, where its rows of P and of Q begin), row by row.
template <typename Do>
void LowRank::each(Do do_it) const {
  for (const Matrix& m : matrices_)
    for (std::size_t i = 0; i < m.rows; ++i)
      for (std::size_t j = 0; j < m.columns; ++j)
        do_it(m.rank, m.first + i * m.columns + j, m.p + i * m.rank, m.q + j * m.rank);
}

void LowRank::start(Vec q) const {
  for (std::size_t i = 0; i < q.size; ++i) q.data[i] = drawn(i);
}

void LowRank::multiply(ConstVec M, ConstVec q, Vec p) const {
  fill(0, p);
  each([&](std::size_t rank, std::size_t at, std::size_t row, std::size_t column) {
    for (std::size_t k = 0; k < rank; ++k) p.data[row + k] += M.data[at] * q.data[column + k];
  });
  for (const Rest& rest : rests_) copy(M.part(rest.first, rest.count), p.part(rest.p, rest.count));
}

// Gram-Schmidt, each column twice against those before it.
void LowRank::orthonormalise(Vec all) const {
  for (const Matrix& m : matrices_) {
    float* p = all.data + m.p;
    for (std::size_t k = 0; k < m.rank; ++k) {
      const double before = dot_columns(p, m.rows, m.rank, k, k);
      for (std::size_t other = 0; other < 2 * k; ++other) {
        const auto share = float(dot_columns(p, m.rows, m.rank, k, other % k));
        for (std::size_t i = 0; i < m.rows; ++i) p[i * m.rank + k] -= share * p[i * m.rank + other % k];
      }
      const double left = dot_columns(p, m.rows, m.rank, k, k);
      const float scale = left > 1e-10 * before ? float(1 / std::sqrt(left)) : 0;
      for (std::size_t i = 0; i < m.rows; ++i) p[i * m.rank + k] = scale ? p[i * m.rank + k] * scale : 0;
    }
  }
}

void LowRank::multiply_transposed(ConstVec M, ConstVec p, Vec q) const {
  fill(0, q);
  each([&](std::size_t rank, std::size_t at, std::size_t row, std::size_t column) {
    for (std::size_t k = 0; k < rank; ++k) q.data[column + k] += M.data[at] * p.data[row + k];
  });
}

void LowRank::expand(ConstVec p, ConstVec q, Vec M) const {
  each([&](std::size_t rank, std::size_t at, std::size_t row, std::size_t column) {
    float sum = 0;
    for (std::size_t k = 0; k < rank; ++k) sum += p.data[row + k] * q.data[column + k];
    M.data[at] = sum;
  });
  for (const Rest& rest : rests_) copy(p.part(rest.p, rest.count), M.part(rest.first, rest.count));
}

void LowRank::clear_vectors(Vec M) const {
  for (const Rest& rest : rests_) fill(0, M.part(rest.first, rest.count));
}

void LowRank::restart(ConstVec p, Vec q) const {
  for (const Matrix& m : matrices_)
    for (std::size_t k = 0; k < m.rank; ++k) {
      if (dot_columns(p.data + m.p, m.rows, m.rank, k, k) != 0) continue;
      for (std::size_t j = 0; j < m.columns; ++j) {
        const std::size_t at = m.q + j * m.rank + k;
        q.data[at] = drawn(at);
      }
    }
}

}  // namespace dsgd
