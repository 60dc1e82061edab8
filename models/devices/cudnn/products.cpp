// SPDX-License-Identifier: Apache-2.0
#include "devices/cudnn/products.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <stdexcept>

namespace dsgd::cuda {

#define DSGD_CUBLASLT(function)                                                                       \
  function(Create) function(Destroy) function(GetVersion) function(GetStatusString)                   \
      function(MatmulDescCreate) function(MatmulDescDestroy) function(MatmulDescSetAttribute)         \
          function(MatrixLayoutCreate) function(MatrixLayoutDestroy) function(MatmulPreferenceCreate) \
              function(MatmulPreferenceDestroy) function(MatmulPreferenceSetAttribute)                \
                  function(MatmulAlgoGetHeuristic) function(Matmul)

struct Products::Functions {
#define DSGD_DECLARE(name) decltype(&cublasLt##name) name = nullptr;
  DSGD_CUBLASLT(DSGD_DECLARE)
#undef DSGD_DECLARE
};

namespace {

// As DSGD_CHECK.
void require(const Products::Functions& lt, cublasStatus_t status, const char* call, int line) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(lt.GetStatusString(status), call, __FILE__, line);
}
#define DSGD_REQUIRE(lt, call) require(lt, (lt).call, "cublasLt" #call, __LINE__)

cudaDataType_t data_type(Type t) { return t == Type::f32 ? CUDA_R_32F : CUDA_R_16BF; }

}  // namespace

Products::Products() : functions_(std::make_unique<Functions>()) {
  void* library = nullptr;
  for (const char* name : {DSGD_CUBLASLT_LIBRARY, "libcublasLt.so.13", "libcublasLt.so.12"})
    if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    throw std::runtime_error(
        fmt::format("cuBLASLt cannot be loaded: {}; add its folder to LD_LIBRARY_PATH", dlerror()));
#define DSGD_FIND(name)                                                                             \
  functions_->name = reinterpret_cast<decltype(&cublasLt##name)>(dlsym(library, "cublasLt" #name)); \
  if (!functions_->name) throw std::runtime_error("this cuBLASLt has no cublasLt" #name ": update it");
  DSGD_CUBLASLT(DSGD_FIND)
#undef DSGD_FIND
  DSGD_REQUIRE(*functions_, Create(&handle_));
}

Products::~Products() {
  if (handle_) functions_->Destroy(handle_);  // the library stays: it would have to be loaded anew
}

std::string Products::version() const {
  const std::size_t v = functions_->GetVersion();
  return fmt::format("cuBLASLt {}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

Product::Product(const Products& products, const Shape& s)
    : products_(products), extra_(s.extra != Products::Extra::none) {
  const Products::Functions& lt = products.functions();
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    DSGD_REQUIRE(lt, MatmulDescSetAttribute(what_, attribute, &value, sizeof value));
  };
  DSGD_REQUIRE(
      lt, MatmulDescCreate(&what_, s.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t op_a = s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                          op_b = s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  set(CUBLASLT_MATMUL_DESC_TRANSA, op_a);
  set(CUBLASLT_MATMUL_DESC_TRANSB, op_b);
  if (extra_) {
    using Extra = Products::Extra;
    const cublasLtEpilogue_t epilogue = s.extra == Extra::bias        ? CUBLASLT_EPILOGUE_BIAS
                                        : s.extra == Extra::relu_bias ? CUBLASLT_EPILOGUE_RELU_BIAS
                                                                      : CUBLASLT_EPILOGUE_BGRADB;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    void* const some = reinterpret_cast<void*>(std::uintptr_t(16));  // tells how biases are aligned
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, some);
  }
  const auto layout = [&](cublasLtMatrixLayout_t* to, Type type, int rows, int columns) {
    DSGD_REQUIRE(lt,
                 MatrixLayoutCreate(to, data_type(type), std::uint64_t(rows), std::uint64_t(columns), rows));
  };
  layout(&a_, s.factors, s.transpose_a ? s.k : s.m, s.transpose_a ? s.m : s.k);
  layout(&b_, s.factors, s.transpose_b ? s.n : s.k, s.transpose_b ? s.k : s.n);
  layout(&d_, s.result, s.m, s.n);

  cublasLtMatmulPreference_t preference = nullptr;
  DSGD_REQUIRE(lt, MatmulPreferenceCreate(&preference));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    DSGD_REQUIRE(lt, MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
  };
  const std::uint64_t most = Products::workspace;
  const std::uint32_t alignment = 16;
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most);
  for (const auto which :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(which, alignment);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status =
      lt.MatmulAlgoGetHeuristic(products.handle(), what_, a_, b_, d_, d_, preference, 1, &best, &found);
  lt.MatmulPreferenceDestroy(preference);
  possible_ = status == CUBLAS_STATUS_SUCCESS && found > 0 && best.state == CUBLAS_STATUS_SUCCESS;
  algorithm_ = best.algo;
  if (!possible_ && !extra_)
    throw std::runtime_error(fmt::format("{} has no product of {} x {} x {} here: {}; use another precision",
                                         products.version(), s.m, s.k, s.n, lt.GetStatusString(status)));
}

Product::~Product() {
  const Products::Functions& lt = products_.functions();
  for (const auto layout : {a_, b_, d_})
    if (layout) lt.MatrixLayoutDestroy(layout);
  if (what_) lt.MatmulDescDestroy(what_);
}

void Product::run(const void* a, const void* b, void* d, void* bias, void* workspace,
                  cudaStream_t stream) const {
  const Products::Functions& lt = products_.functions();
  if (extra_)
    DSGD_REQUIRE(lt, MatmulDescSetAttribute(what_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
  const float one = 1, zero = 0;
  DSGD_REQUIRE(lt, Matmul(products_.handle(), what_, &one, a, a_, b, b_, &zero, d, d_, d, d_, &algorithm_,
                          workspace, Products::workspace, stream));
}

}  // namespace dsgd::cuda
