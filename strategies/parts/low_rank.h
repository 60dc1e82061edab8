// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "vec.h"

namespace dsgd {

// The matrices of a model (rows x columns) as products P * Q^T, and its vectors (biases) as they are. P and Q
// have `rank` columns, or fewer if the matrix has fewer rows or columns. Kernels count as matrices with one
// row per output. All P's and the model's vectors form one vector p of p_size() floats, and all Q's one
// vector q of q_size() floats. All are in host memory, like the model M.
class LowRank {
 public:
  // layers: the pieces of the model; empty: it is one vector of n floats.
  LowRank(std::vector<Extent> layers, std::size_t n, std::size_t rank);
  std::size_t p_size() const { return p_size_; }
  std::size_t q_size() const { return q_size_; }

  void start(Vec q) const;  // q <- pseudo-random numbers in [-1, 1), always the same
  void multiply(ConstVec M, ConstVec q, Vec p) const;  // P <- M * Q; vectors are copied to p
  // Gram-Schmidt on the columns of each P. A column that depends on those before it becomes zero.
  void orthonormalise(Vec p) const;
  void multiply_transposed(ConstVec M, ConstVec p, Vec q) const;  // Q <- M^T * P
  void expand(ConstVec p, ConstVec q, Vec M) const;               // M <- P * Q^T; vectors are copied from p
  void clear_vectors(Vec M) const;                                // M's vectors <- 0
  void restart(ConstVec p, Vec q) const;  // Q's columns as after start(), where P's are zero

 private:
  struct Matrix {
    std::size_t first, rows, columns, rank;  // in the model
    std::size_t p, q;                        // where its P and Q begin
  };
  struct Rest {
    std::size_t first, count, p;
  };
  template <typename Do>
  void each(Do do_it) const;
  std::vector<Matrix> matrices_;
  std::vector<Rest> rests_;
  std::size_t p_size_ = 0, q_size_ = 0;
};

}  // namespace dsgd
