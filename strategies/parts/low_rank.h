// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "vec.h"

namespace dsgd {

// The matrices of a model, rows x columns, each as a product P * Q^T of `rank` columns (at most as many as it
// has rows or columns), and its vectors (biases) as they are. Kernels are matrices of a row for each output.
// All P's and the vectors are one vector `p`, all Q's one vector `q`, in host memory; so is the model.
class LowRank {
 public:
  // layers: pieces of the model; none: it is one vector of n floats.
  LowRank(std::vector<Extent> layers, std::size_t n, std::size_t rank);
  std::size_t p_size() const { return p_size_; }
  std::size_t q_size() const { return q_size_; }

  void start(Vec q) const;                                        // numbers in [-1, 1), always the same
  void multiply(ConstVec M, ConstVec q, Vec p) const;             // P <- M * Q;  vectors are copied
  void orthonormalise(Vec p) const;                               // columns that hold nothing become zero
  void multiply_transposed(ConstVec M, ConstVec p, Vec q) const;  // Q <- M^T * P
  void expand(ConstVec p, ConstVec q, Vec M) const;               // M <- P * Q^T;  vectors are copied
  void clear_vectors(Vec M) const;
  void restart(ConstVec p, Vec q) const;  // Q's columns where P's are zero

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
