// SPDX-License-Identifier: Apache-2.0
#include <cub/device/device_for.cuh>

#include "gpu_space.h"
#include "vec_formulas.h"

// The formulas of the host, an element a thread, all vectors in one pass.

namespace dsgd::cuda {
namespace {

template <class F>
void each(std::size_t n, const Stream& stream, F f) {
  if (n) DSGD_CHECK(cub::DeviceFor::Bulk(n, f, stream));
}

constexpr int blocks = 256, threads = 256;

// The sum of the block's values, in the same order every time, in its first thread.
__device__ double sum_of_block(double value) {
  __shared__ double sums[threads];
  sums[threadIdx.x] = value;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  __syncthreads();
  return sums[0];
}

__global__ void dot_parts(const float* x, const float* y, std::size_t n, double* parts) {
  double sum = 0;
  for (std::size_t i = std::size_t(blockIdx.x) * threads + threadIdx.x; i < n;
       i += std::size_t(blocks) * threads)
    sum += double(x[i]) * double(y[i]);
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void dot_sum(const double* parts, double* result) {
  static_assert(blocks == threads);
  const double sum = sum_of_block(parts[threadIdx.x]);
  if (threadIdx.x == 0) *result = sum;
}

}  // namespace

GpuSpace::GpuSpace() : sums_(Memory::device(blocks * sizeof(double))), sum_(Memory::pinned(sizeof(double))) {}

double GpuSpace::dot(const float* x, const float* y, std::size_t n) const {
  dot_parts<<<blocks, threads, 0, stream_>>>(x, y, n, sums_.as<double>());
  DSGD_CHECK(cudaGetLastError());
  dot_sum<<<1, threads, 0, stream_>>>(sums_.as<double>(), sum_.as<double>());
  DSGD_CHECK(cudaGetLastError());
  wait();
  return *sum_.as<double>();
}

void GpuSpace::fill(float a, float* y, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { y[i] = a; });
}
void GpuSpace::scale(float a, float* y, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { y[i] *= a; });
}
void GpuSpace::axpy(float a, const float* x, float* y, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { y[i] += a * x[i]; });
}
void GpuSpace::sgd(const Update& u, float* w, const float* g, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { formula::sgd(u, w[i], g[i]); });
}
void GpuSpace::momentum(const Update& u, float* w, const float* g, float* v, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { formula::momentum(u, w[i], g[i], v[i]); });
}
void GpuSpace::nesterov(const Update& u, float* w, const float* g, float* v, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { formula::nesterov(u, w[i], g[i], v[i]); });
}
void GpuSpace::adagrad(const Update& u, float* w, const float* g, float* s, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { formula::adagrad(u, w[i], g[i], s[i]); });
}
void GpuSpace::adam(const Adam& u, float* w, const float* g, float* m, float* v, std::size_t n) const {
  each(n, stream_, [=] __device__(std::size_t i) { formula::adam(u, w[i], g[i], m[i], v[i]); });
}
void GpuSpace::compensate(const Compensation& c, const float* g, const float* w, const float* old, float* s,
                          float* d, std::size_t n) const {
  if (s)
    each(n, stream_,
         [=] __device__(std::size_t i) { d[i] = formula::compensate(c, g[i], w[i], old[i], s[i]); });
  else
    each(n, stream_, [=, lambda = c.lambda] __device__(std::size_t i) {
      d[i] = formula::compensate(lambda, g[i], w[i], old[i]);
    });
}
void GpuSpace::divide_by_deviation(const Deviation& u, const float* g, float* m, float* b, float* v, float* d,
                                   std::size_t n) const {
  each(n, stream_,
       [=] __device__(std::size_t i) { d[i] = formula::divide_by_deviation(u, g[i], m[i], b[i], v[i]); });
}
void GpuSpace::divide_by_magnitude(float gamma, float epsilon, const float* g, float* m, float* d,
                                   std::size_t n) const {
  each(n, stream_,
       [=] __device__(std::size_t i) { d[i] = formula::divide_by_magnitude(gamma, epsilon, g[i], m[i]); });
}

}  // namespace dsgd::cuda
