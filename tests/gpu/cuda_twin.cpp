// SPDX-License-Identifier: Apache-2.0
// A twin of CUDA's runtime, cuDNN and cuBLASLt in the host's memory, for the GPU device where there is no
// GPU. It does what their documentation says, refuses what that forbids (in a capture above all), and puts
// off whatever is queued, in changing orders, as far as streams and events allow: what the device forgot to
// wait for is then not there. What it cannot show is that the libraries do as documented.

#include <cuda_bf16.h>
#include <cudnn.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "devices/cudnn/layers.h"
#include "devices/cudnn/products.h"
#include "gpu_space.h"

namespace {

using Work = std::function<void()>;

// Where a stream, or a branch of a graph, has come to once it is `reached`.
struct Point {
  struct Lane* lane;
  bool reached = false;
};
using PointPtr = std::shared_ptr<Point>;
struct Op {
  Work work;
  PointPtr reaches, waits;
};
struct Lane {
  std::deque<Op> ops;
};

void run_first(Lane& lane) {
  if (const PointPtr wanted = lane.ops.front().waits)
    while (!wanted->reached) run_first(*wanted->lane);
  const Op op = std::move(lane.ops.front());
  lane.ops.pop_front();
  if (op.work) op.work();
  if (op.reaches) op.reaches->reached = true;
}
void drain(Lane& lane) {
  while (!lane.ops.empty()) run_first(lane);
}

// Queued work gets on in one of these ways for a while, then in another.
std::vector<std::shared_ptr<Lane>> lanes;
void stir() {
  static std::mt19937 bits(1);
  static unsigned left = 0, way = 0;
  if (left-- == 0) {
    left = bits() % 100;
    way = bits() % 4;
  }
  const auto at_once = [](Lane& lane) {
    while (!lane.ops.empty() && (!lane.ops.front().waits || lane.ops.front().waits->reached)) run_first(lane);
  };
  if (way == 1)  // the latest branches first
    for (std::size_t k = lanes.size(); k-- > 0;) at_once(*lanes[k]);
  if (way == 2)
    for (int times = 0; times < 3; ++times)
      if (Lane& lane = *lanes[bits() % lanes.size()]; !lane.ops.empty()) run_first(lane);
  if (way == 3 && lanes.size() > 1) at_once(*lanes[1]);  // otherwise only when somebody waits
}
void drain_all() {
  for (const auto& lane : std::vector(lanes)) drain(*lane);
}

}  // namespace

struct CUgraph_st {
  struct Node {
    std::size_t lane;
    Work work;
    int reaches = -1, waits = -1;  // points
    cudaEvent_t event = nullptr;   // to be recorded by a launch
  };
  std::vector<Node> nodes;
  std::size_t lanes = 1;
  int points = 0;
  bool open = true;
};
struct CUgraphExec_st {
  CUgraph_st graph;
};
struct CUstream_st {
  std::shared_ptr<Lane> lane;
  CUgraph_st* graph = nullptr;  // that is captured
  std::size_t branch = 0;
};
struct CUevent_st {
  PointPtr point;               // none: never recorded
  CUgraph_st* graph = nullptr;  // of the capture in which it was recorded
  int captured = -1;
};

namespace {

std::set<cudaStream_t> streams;
std::size_t launches = 0;  // kernels, copies and graphs that the host gave to streams
CUgraph_st* capturing = nullptr;
std::map<const char*, std::pair<std::size_t, bool>> memory;  // bytes, whether it is a GPU's

void queue(cudaStream_t stream, Work work) {
  if (stream->graph) {
    stream->graph->nodes.push_back({stream->branch, std::move(work)});
    return;
  }
  ++launches;
  stream->lane->ops.push_back({std::move(work), nullptr, nullptr});
  stir();
}

enum class Where { unknown, pinned, device };
Where place_of(const void* address) {
  const auto* at = static_cast<const char*>(address);
  auto after = memory.upper_bound(at);
  if (after == memory.begin()) return Where::unknown;
  const auto& [first, held] = *--after;
  if (at >= first + held.first) return Where::unknown;
  return held.second ? Where::device : Where::pinned;
}

constexpr std::size_t all_memory = std::size_t(1) << 40;
cudaError_t allocate(void** to, std::size_t bytes, bool device) {
  if (capturing) return cudaErrorStreamCaptureUnsupported;
  if (bytes > all_memory) return cudaErrorMemoryAllocation;
  bytes = (std::max<std::size_t>(bytes, 1) + 255) / 256 * 256;
  *to = std::aligned_alloc(256, bytes);
  std::memset(*to, 0xff, std::min(bytes, std::size_t(1) << 20));  // no numbers
  memory[static_cast<char*>(*to)] = {bytes, device};
  return cudaSuccess;
}
cudaError_t free_memory(void* address) {
  if (capturing) return cudaErrorStreamCaptureUnsupported;
  memory.erase(static_cast<char*>(address));
  std::free(address);
  return cudaSuccess;
}

}  // namespace

extern "C" {
std::size_t cuda_twin_launches() { return launches; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* about, int) {
  const char* const rank = std::getenv("DSGD_TWIN_CARDS") ? std::getenv("OMPI_COMM_WORLD_RANK") : nullptr;
  std::memset(about->uuid.bytes, 'a' + (rank ? std::atoi(rank) : 0), sizeof about->uuid.bytes);
  about->major = 8;
  return std::strcpy(about->name, "a twin"), cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() {
  if (capturing) return cudaErrorStreamCaptureUnsupported;
  return drain_all(), cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorStreamCaptureUnsupported ? "the twin allows no such thing in a capture"
                                                     : "the twin refuses";
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return *free = *total = all_memory, cudaSuccess;
}
cudaError_t cudaMalloc(void** to, std::size_t bytes) { return allocate(to, bytes, true); }
cudaError_t cudaHostAlloc(void** to, std::size_t bytes, unsigned) { return allocate(to, bytes, false); }
cudaError_t cudaFree(void* address) { return free_memory(address); }
cudaError_t cudaFreeHost(void* address) { return free_memory(address); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  if (bytes == 0) return cudaSuccess;
  if ((place_of(to) == Where::device) != to_device || (place_of(from) == Where::device) != from_device)
    return cudaErrorInvalidMemcpyDirection;
  const auto work = [=] { std::memcpy(to, from, bytes); };
  if (place_of(to) != Where::unknown && place_of(from) != Where::unknown)
    return queue(stream, work), cudaSuccess;
  if (stream->graph) return cudaErrorStreamCaptureUnsupported;  // of pageable memory
  drain(*stream->lane);
  return work(), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return queue(stream, [=] { std::memset(to, value, bytes); }), cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st{std::make_shared<Lane>()};
  lanes.push_back((*stream)->lane);
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  drain(*stream->lane);
  std::erase(lanes, stream->lane);
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->graph) return cudaErrorStreamCaptureUnsupported;
  return drain(*stream->lane), cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (stream->graph) return cudaErrorStreamCaptureUnsupported;
  if (stream->lane->ops.empty()) return cudaSuccess;
  return run_first(*stream->lane), cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = new CUevent_st, cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void*, int, const void*, int, std::size_t, cudaStream_t) {
  return cudaErrorNotSupported;  // there is one card
}
cudaError_t cudaDeviceCanAccessPeer(int*, int, int) { return cudaErrorNotSupported; }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaErrorNotSupported; }
cudaError_t cudaDeviceGetP2PAttribute(int*, cudaDeviceP2PAttr, int, int) { return cudaErrorNotSupported; }
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return !event->point || event->point->reached ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  return *milliseconds = 1, cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (CUgraph_st* const graph = stream->graph) {
    const bool external = flags == cudaEventRecordExternal;
    graph->nodes.push_back({stream->branch, {}, graph->points++, -1, external ? event : nullptr});
    if (!external) event->graph = graph, event->captured = graph->points - 1;
    return cudaSuccess;
  }
  if (flags != cudaEventRecordDefault) return cudaErrorInvalidValue;  // external: in a capture alone
  event->graph = nullptr;
  event->point = std::make_shared<Point>(Point{stream->lane.get()});
  stream->lane->ops.push_back({{}, event->point, nullptr});
  return stir(), cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->graph) return cudaErrorCapturedEvent;
  while (event->point && !event->point->reached) run_first(*event->point->lane);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (flags != cudaEventWaitDefault) return cudaErrorInvalidValue;
  if (event->graph) {
    if (event->graph != capturing || (stream->graph && stream->graph != capturing))
      return cudaErrorCapturedEvent;
    if (!stream->graph) {  // joins
      stream->graph = capturing;
      stream->branch = capturing->lanes++;
    }
    capturing->nodes.push_back({stream->branch, {}, -1, event->captured});
    return cudaSuccess;
  }
  if (stream->graph) return cudaErrorStreamCaptureIsolation;
  if (event->point) stream->lane->ops.push_back({{}, nullptr, event->point});
  return stir(), cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream->graph ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (capturing) return cudaErrorIllegalState;
  stream->graph = capturing = new CUgraph_st;
  stream->branch = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->graph != capturing || stream->branch != 0) return cudaErrorStreamCaptureUnmatched;
  *graph = capturing;
  for (const cudaStream_t s : streams) s->graph = nullptr;
  capturing = nullptr;
  // The last thing of every branch is a point that another branch waits for.
  for (std::size_t branch = 1; branch < (*graph)->lanes; ++branch) {
    int last = -1;
    bool joined = false;
    for (const auto& node : (*graph)->nodes)
      if (node.lane == branch)
        last = node.reaches, joined = false;
      else if (last >= 0 && node.waits == last)
        joined = true;
    if (!joined) {
      delete *graph;
      *graph = nullptr;
      return cudaErrorStreamCaptureUnjoined;
    }
  }
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  return *ready = new CUgraphExec_st{*graph}, cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) {
  drain_all();
  return delete ready, cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t stream) {
  if (stream->graph) return cudaErrorStreamCaptureUnsupported;
  ++launches;
  const CUgraph_st& graph = ready->graph;
  std::erase_if(lanes, [](const auto& lane) { return lane.use_count() == 1 && lane->ops.empty(); });
  std::vector<std::shared_ptr<Lane>> branches{stream->lane};
  // A launch comes after what the stream holds, all branches of it.
  const auto begun = std::make_shared<Point>(Point{stream->lane.get()});
  stream->lane->ops.push_back({{}, begun, nullptr});
  while (branches.size() < graph.lanes) {
    lanes.push_back(branches.emplace_back(std::make_shared<Lane>()));
    lanes.back()->ops.push_back({{}, nullptr, begun});
  }
  std::vector<PointPtr> points(std::size_t(graph.points));
  for (const auto& node : graph.nodes)
    if (node.reaches >= 0) {
      auto& point = points[std::size_t(node.reaches)];
      point = std::make_shared<Point>(Point{branches[node.lane].get()});
      if (node.event) node.event->point = point, node.event->graph = nullptr;
    }
  for (const auto& node : graph.nodes)
    branches[node.lane]->ops.push_back({node.work,
                                        node.reaches < 0 ? nullptr : points[std::size_t(node.reaches)],
                                        node.waits < 0 ? nullptr : points[std::size_t(node.waits)]});
  return stir(), cudaSuccess;
}
}  // extern "C"

// The kernels: models/devices/cudnn/layers.cu as a host's compiler sees it, and the operations of vectors.
#define make_kernels_on_host make_kernels
#include "devices/cudnn/layers.cu"

namespace dsgd::cuda {

void on_host(cudaStream_t stream, std::function<void()> kernel) { queue(stream, std::move(kernel)); }

namespace {
template <class... A, class... B>
void later(const GpuSpace& space, void (Space::*operation)(A...) const, B... arguments) {
  queue(space.stream(), [=] { (host_space().*operation)(arguments...); });
}
}  // namespace

GpuSpace::GpuSpace() = default;
double GpuSpace::dot(const float* x, const float* y, std::size_t n) const {
  wait();
  return host_space().dot(x, y, n);
}
void GpuSpace::fill(float a, float* y, std::size_t n) const { later(*this, &Space::fill, a, y, n); }
void GpuSpace::scale(float a, float* y, std::size_t n) const { later(*this, &Space::scale, a, y, n); }
void GpuSpace::axpy(float a, const float* x, float* y, std::size_t n) const {
  later(*this, &Space::axpy, a, x, y, n);
}
void GpuSpace::sgd(const Update& u, float* w, const float* g, std::size_t n) const {
  later(*this, &Space::sgd, u, w, g, n);
}
void GpuSpace::momentum(const Update& u, float* w, const float* g, float* v, std::size_t n) const {
  later(*this, &Space::momentum, u, w, g, v, n);
}
void GpuSpace::nesterov(const Update& u, float* w, const float* g, float* v, std::size_t n) const {
  later(*this, &Space::nesterov, u, w, g, v, n);
}
void GpuSpace::adagrad(const Update& u, float* w, const float* g, float* s, std::size_t n) const {
  later(*this, &Space::adagrad, u, w, g, s, n);
}
void GpuSpace::adam(const Adam& u, float* w, const float* g, float* m, float* v, std::size_t n) const {
  later(*this, &Space::adam, u, w, g, m, v, n);
}
void GpuSpace::compensate(const Compensation& c, const float* g, const float* w, const float* old, float* s,
                          float* d, std::size_t n) const {
  later(*this, &Space::compensate, c, g, w, old, s, d, n);
}
void GpuSpace::divide_by_deviation(const Deviation& u, const float* g, float* m, float* b, float* v, float* d,
                                   std::size_t n) const {
  later(*this, &Space::divide_by_deviation, u, g, m, b, v, d, n);
}
void GpuSpace::divide_by_magnitude(float gamma, float epsilon, const float* g, float* m, float* d,
                                   std::size_t n) const {
  later(*this, &Space::divide_by_magnitude, gamma, epsilon, g, m, d, n);
}

namespace {

float as_tf32(float x) {  // 10 bits of the significand, to the nearest
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) + 0x1000u) & ~0x1fffu);
}
// Elements as the library reads them.
std::vector<float> elements(const void* from, std::size_t n, bool bf16, bool tf32) {
  std::vector<float> all(n);
  for (std::size_t i = 0; i < n; ++i) {
    const float x = bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(from)[i])
                         : static_cast<const float*>(from)[i];
    all[i] = tf32 ? as_tf32(x) : x;
  }
  return all;
}
void put_elements(const std::vector<double>& from, void* to, bool bf16) {
  for (std::size_t i = 0; i < from.size(); ++i)
    if (bf16)
      static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16(float(from[i]));
    else
      static_cast<float*>(to)[i] = float(from[i]);
}
void spoil(void* workspace, std::size_t bytes) { std::memset(workspace, 0xff, bytes); }
bool aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

}  // namespace

// cuBLASLt.
struct Products::Functions {};
Products::Products() = default;
Products::~Products() = default;
std::string Products::version() const { return "cuBLASLt of a twin"; }

namespace {
const Product::Shape& shape_of(cublasLtMatmulDesc_t what) {
  return *reinterpret_cast<const Product::Shape*>(what);
}
}  // namespace
Product::Product(const Products& products, const Shape& s)
    : products_(products),
      extra_(s.extra != Products::Extra::none),
      possible_(!extra_ || (s.m + s.n + s.k) % 3),  // sometimes a library has no such product
      what_(reinterpret_cast<cublasLtMatmulDesc_t>(new Shape(s))) {}
Product::~Product() { delete &shape_of(what_); }
void Product::run(const void* a, const void* b, void* d, void* bias, void* workspace,
                  cudaStream_t stream) const {
  using Extra = Products::Extra;
  if (!possible_ || !aligned(a) || !aligned(b) || !aligned(d) || (extra_ && !aligned(bias)) || !workspace)
    fail("an argument that cuBLASLt would refuse", "Product::run", __FILE__, __LINE__);
  queue(stream, [=, s = shape_of(what_)] {
    spoil(workspace, 4096);
    const std::size_t m = s.m, n = s.n, k = s.k;
    const bool bf16 = s.factors == Type::bf16;
    auto x = elements(a, m * k, bf16, s.tf32);
    const auto y = elements(b, k * n, bf16, s.tf32);
    if (s.transpose_a) {
      const auto rows = x;
      for (std::size_t i = 0; i < m; ++i)
        for (std::size_t l = 0; l < k; ++l) x[l * m + i] = rows[i * k + l];
    }
    std::vector<double> result(m * n);
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t l = 0; l < k; ++l) {
        const double right = s.transpose_b ? y[l * n + j] : y[j * k + l];
        for (std::size_t i = 0; i < m; ++i) result[j * m + i] += right * x[l * m + i];
      }
    if (s.extra == Extra::bias || s.extra == Extra::relu_bias) {
      const auto shift = elements(bias, m, s.result == Type::bf16, false);
      for (std::size_t e = 0; e < result.size(); ++e) {
        result[e] += shift[e % m];
        if (s.extra == Extra::relu_bias) result[e] = result[e] <= 0 ? 0 : result[e];
      }
    }
    if (s.extra == Extra::bias_gradient) {
      const auto exact = elements(b, k * n, bf16, false);
      std::vector<double> sums(n);
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t l = 0; l < k; ++l) sums[j] += s.transpose_b ? exact[l * n + j] : exact[j * k + l];
      put_elements(sums, bias, s.result == Type::bf16);
    }
    put_elements(result, d, s.result == Type::bf16);
  });
}

}  // namespace dsgd::cuda

// cuDNN.
struct cudnnContext {
  cudaStream_t stream = nullptr;
};
struct cudnnTensorStruct {
  bool bf16 = false;
  int n = 0, c = 0, h = 0, w = 0;
  std::size_t size() const { return std::size_t(n) * c * h * w; }
};
struct cudnnFilterStruct : cudnnTensorStruct {};
struct cudnnConvolutionStruct {
  int pad = 0, stride = 1;
  cudnnMathType_t math = CUDNN_DEFAULT_MATH;
};

namespace {

constexpr std::size_t workspace_bytes = 1000;

// f(element of x, of w, first and count of a row's elements of y, step in x): y += x * w.
template <class F>
void each_row(const cudnnTensorStruct& x, const cudnnTensorStruct& w, const cudnnTensorStruct& y,
              const cudnnConvolutionStruct& how, F f) {
  for (int i = 0; i < y.n; ++i)
    for (int o = 0; o < y.c; ++o)
      for (int c = 0; c < x.c; ++c)
        for (int a = 0; a < w.h; ++a)
          for (int b = 0; b < w.w; ++b)
            for (int r = 0; r < y.h; ++r) {
              const int line = r * how.stride + a - how.pad;
              if (line < 0 || line >= x.h) continue;
              int first = 0, last = y.w;
              while (first < last && first * how.stride + b - how.pad < 0) ++first;
              while (first < last && (last - 1) * how.stride + b - how.pad >= x.w) --last;
              if (first == last) continue;
              f(((std::size_t(i) * x.c + c) * x.h + line) * x.w + first * how.stride + b - how.pad,
                ((std::size_t(o) * x.c + c) * w.h + a) * w.w + b,
                ((std::size_t(i) * y.c + o) * y.h + r) * y.w + first, std::size_t(last - first));
            }
}

// What cuDNN's heuristics may put first: an algorithm that is not deterministic, one that is not there, one
// with tensor cores.
template <class Result>
cudnnStatus_t choices(int wanted, int* found, Result* results) {
  *found = std::min(wanted, 4);
  for (int i = 0; i < *found; ++i) {
    results[i] = {};
    results[i].algo = decltype(Result::algo)(i == 0 ? 0 : 1);
    results[i].status = i == 1 ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
    results[i].memory = workspace_bytes;
    results[i].determinism = i == 0 ? CUDNN_NON_DETERMINISTIC : CUDNN_DETERMINISTIC;
    results[i].mathType = i == 2 ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH;
  }
  return CUDNN_STATUS_SUCCESS;
}
bool refused(int algorithm, const void* workspace, std::size_t bytes) {
  return algorithm != 1 || !workspace || bytes < workspace_bytes;
}
bool rounds(const cudnnConvolutionStruct& how) { return how.math != CUDNN_FMA_MATH; }

template <class T>
cudnnStatus_t create(T** d) {
  return *d = new T, CUDNN_STATUS_SUCCESS;
}
template <class T>
cudnnStatus_t destroy(T* d) {
  return delete d, CUDNN_STATUS_SUCCESS;
}

}  // namespace

extern "C" {
std::size_t cudnnGetVersion() { return CUDNN_VERSION; }
const char* cudnnGetErrorString(cudnnStatus_t) { return "the twin of cuDNN refuses"; }
void cudnnGetLastErrorString(char* message, std::size_t) { *message = 0; }
cudnnStatus_t cudnnCreate(cudnnHandle_t* h) { return create(h); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t h) { return destroy(h); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s) { return h->stream = s, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* d) { return create(d); }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* d) { return create(d); }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* d) { return create(d); }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { return destroy(d); }
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w) {
  *d = {type == CUDNN_DATA_BFLOAT16, n, c, h, w};
  return format == CUDNN_TENSOR_NCHW ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int n, int c, int h, int w) {
  return cudnnSetTensor4dDescriptor(reinterpret_cast<cudnnTensorDescriptor_t>(d), format, type, n, c, h, w);
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int pad, int pad_w, int stride,
                                              int stride_w, int dilation, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
  *d = {pad, stride};
  const bool known = pad == pad_w && stride == stride_w && dilation == 1 && dilation_w == 1 &&
                     mode == CUDNN_CROSS_CORRELATION && compute == CUDNN_DATA_FLOAT;
  return known ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math) {
  return d->math = math, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, cudnnTensorDescriptor_t,
                                                     cudnnFilterDescriptor_t, cudnnConvolutionDescriptor_t,
                                                     cudnnTensorDescriptor_t, int wanted, int* found,
                                                     cudnnConvolutionFwdAlgoPerf_t* results) {
  return choices(wanted, found, results);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, cudnnTensorDescriptor_t,
                                                            cudnnTensorDescriptor_t,
                                                            cudnnConvolutionDescriptor_t,
                                                            cudnnFilterDescriptor_t, int wanted, int* found,
                                                            cudnnConvolutionBwdFilterAlgoPerf_t* results) {
  return choices(wanted, found, results);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, cudnnFilterDescriptor_t,
                                                          cudnnTensorDescriptor_t,
                                                          cudnnConvolutionDescriptor_t,
                                                          cudnnTensorDescriptor_t, int wanted, int* found,
                                                          cudnnConvolutionBwdDataAlgoPerf_t* results) {
  return choices(wanted, found, results);
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, cudnnTensorDescriptor_t,
                                                      cudnnFilterDescriptor_t, cudnnConvolutionDescriptor_t,
                                                      cudnnTensorDescriptor_t, cudnnConvolutionFwdAlgo_t,
                                                      std::size_t* bytes) {
  return *bytes = workspace_bytes, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(
    cudnnHandle_t, cudnnTensorDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t,
    cudnnFilterDescriptor_t, cudnnConvolutionBwdFilterAlgo_t, std::size_t* bytes) {
  return *bytes = workspace_bytes, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(
    cudnnHandle_t, cudnnFilterDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionDescriptor_t,
    cudnnTensorDescriptor_t, cudnnConvolutionBwdDataAlgo_t, std::size_t* bytes) {
  return *bytes = workspace_bytes, CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void*, cudnnTensorDescriptor_t xd, const void* x,
                                      cudnnFilterDescriptor_t wd, const void* w,
                                      cudnnConvolutionDescriptor_t how, cudnnConvolutionFwdAlgo_t algorithm,
                                      void* workspace, std::size_t bytes, const void*,
                                      cudnnTensorDescriptor_t yd, void* y) {
  if (refused(algorithm, workspace, bytes)) return CUDNN_STATUS_BAD_PARAM;
  queue(h->stream, [=, xs = *xd, ws = *wd, ys = *yd, conv = *how] {
    using namespace dsgd::cuda;
    spoil(workspace, workspace_bytes);
    const auto a = elements(x, xs.size(), xs.bf16, rounds(conv)),
               b = elements(w, ws.size(), ws.bf16, rounds(conv));
    std::vector<double> result(ys.size());
    each_row(xs, ws, ys, conv, [&](std::size_t from, std::size_t at, std::size_t to, std::size_t count) {
      for (std::size_t k = 0; k < count; ++k) result[to + k] += double(b[at]) * a[from + k * conv.stride];
    });
    put_elements(result, y, ys.bf16);
  });
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t h, const void*, cudnnTensorDescriptor_t xd,
                                             const void* x, cudnnTensorDescriptor_t yd, const void* dy,
                                             cudnnConvolutionDescriptor_t how,
                                             cudnnConvolutionBwdFilterAlgo_t algorithm, void* workspace,
                                             std::size_t bytes, const void*, cudnnFilterDescriptor_t wd,
                                             void* dw) {
  if (refused(algorithm, workspace, bytes)) return CUDNN_STATUS_BAD_PARAM;
  queue(h->stream, [=, xs = *xd, ws = *wd, ys = *yd, conv = *how] {
    using namespace dsgd::cuda;
    spoil(workspace, workspace_bytes);
    const auto a = elements(x, xs.size(), xs.bf16, rounds(conv)),
               b = elements(dy, ys.size(), ys.bf16, rounds(conv));
    std::vector<double> result(ws.size());
    each_row(xs, ws, ys, conv, [&](std::size_t from, std::size_t to, std::size_t at, std::size_t count) {
      double sum = 0;
      for (std::size_t k = 0; k < count; ++k) sum += double(b[at + k]) * a[from + k * conv.stride];
      result[to] += sum;
    });
    put_elements(result, dw, ws.bf16);
  });
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void*, cudnnFilterDescriptor_t wd,
                                           const void* w, cudnnTensorDescriptor_t yd, const void* dy,
                                           cudnnConvolutionDescriptor_t how,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void* workspace,
                                           std::size_t bytes, const void*, cudnnTensorDescriptor_t xd,
                                           void* dx) {
  if (refused(algorithm, workspace, bytes)) return CUDNN_STATUS_BAD_PARAM;
  queue(h->stream, [=, xs = *xd, ws = *wd, ys = *yd, conv = *how] {
    using namespace dsgd::cuda;
    spoil(workspace, workspace_bytes);
    const auto a = elements(w, ws.size(), ws.bf16, rounds(conv)),
               b = elements(dy, ys.size(), ys.bf16, rounds(conv));
    std::vector<double> result(xs.size());
    each_row(xs, ws, ys, conv, [&](std::size_t to, std::size_t at, std::size_t from, std::size_t count) {
      for (std::size_t k = 0; k < count; ++k) result[to + k * conv.stride] += double(a[at]) * b[from + k];
    });
    put_elements(result, dx, xs.bf16);
  });
  return CUDNN_STATUS_SUCCESS;
}
}  // extern "C"
