// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include <memory>
#include <string>

#include "devices/cudnn/layers.h"
#include "gpu_space.h"

namespace dsgd::cuda {

// cuBLASLt. The library is loaded with the first object, because it costs a process 94 MB and 40 ms.
class Products {
 public:
  Products();
  Products(const Products&) = delete;
  ~Products();
  std::string version() const;

  enum class Extra { none, bias, relu_bias, bias_gradient };       // see Product
  static constexpr std::size_t workspace = std::size_t(32) << 20;  // bytes for run()

  struct Functions;
  const Functions& functions() const { return *functions_; }
  cublasLtHandle_t handle() const { return handle_; }

 private:
  std::unique_ptr<Functions> functions_;
  cublasLtHandle_t handle_ = nullptr;
};

// Computes D <- op(A) * op(B), column-major without gaps: op(A) is m x k, op(B) is k x n. Sums are float32.
// With tf32, float32 factors are rounded to TF32. The extra is D + bias (m elements, of D's type), relu(D +
// bias), or bias <- the sums of B over k (n elements). All addresses are multiples of 16 bytes.
class Product {
 public:
  struct Shape {
    int m, n, k;
    bool transpose_a, transpose_b;
    Type factors, result;
    bool tf32 = false;
    Products::Extra extra = Products::Extra::none;
  };
  Product(const Products& products, const Shape& shape);
  Product(const Product&) = delete;
  ~Product();
  bool possible() const { return possible_; }  // whether cuBLASLt supports this product with this extra
  void run(const void* a, const void* b, void* d, void* bias, void* workspace, cudaStream_t stream) const;

 private:
  const Products& products_;
  bool extra_;
  bool possible_ = false;
  cublasLtMatmulDesc_t what_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, d_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

}  // namespace dsgd::cuda
