#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace dsgd::cuda {

// "no GPU: ..." with the reason and what to do; empty where there is one.
std::string unavailable();

[[noreturn]] void fail(const char* reason, const char* call, const char* file, int line);
inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status != cudaSuccess) fail(cudaGetErrorString(status), call, file, line);
}
// Throws std::runtime_error that names the reason, the call and its place. `check` is found by the type of
// the status.
#define DSGD_CHECK(call) check(call, #call, __FILE__, __LINE__)

}  // namespace dsgd::cuda
