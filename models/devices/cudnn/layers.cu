// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include <algorithm>

#include "devices/cudnn/layers.h"
#include "gpu_space.h"
#include "vec_formulas.h"

// A host's compiler makes the same kernels of this source with loops instead of grids: a test holds them
// against the reference where there is no GPU.
#ifdef __CUDACC__
#define DSGD_KERNEL __device__
#else
#include <cmath>
#include <functional>
#define DSGD_KERNEL
#endif

namespace dsgd::cuda {
#ifndef __CUDACC__
void on_host(cudaStream_t stream, std::function<void()> kernel);  // does it, at once or in the stream's order
#endif
namespace {

#ifndef __CUDACC__
using std::max;
using std::min;
#endif

constexpr int threads = 256;
using Index = std::uint32_t;  // of an element of a minibatch; the plan sees to it that it suffices

DSGD_KERNEL float get(float x) { return x; }
DSGD_KERNEL float get(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
DSGD_KERNEL T put(float x);
template <>
DSGD_KERNEL float put<float>(float x) {
  return x;
}
template <>
DSGD_KERNEL __nv_bfloat16 put<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);  // to the nearest
}

// f(i) for i < n, a thread each.
#ifdef __CUDACC__
template <class F>
__global__ void each_kernel(Index n, F f) {
  const Index i = Index(blockIdx.x) * threads + threadIdx.x;
  if (i < n) f(i);
}
template <class F>
void each(cudaStream_t stream, Index n, F f) {
  if (n == 0) return;
  each_kernel<<<(n - 1) / threads + 1, threads, 0, stream>>>(n, f);
  DSGD_CHECK(cudaGetLastError());
}
#else
template <class F>
void each(cudaStream_t stream, Index n, F f) {
  on_host(stream, [=] {
    for (Index i = 0; i < n; ++i) f(i);
  });
}
#endif

DSGD_KERNEL float activated(Act act, float x) {
  switch (act) {
    case Act::relu:
      return x <= 0 ? 0 : x;
    case Act::sigmoid:
      return 1 / (1 + expf(-x));
    case Act::tanh:
      return tanhf(x);
    default:
      return x;
  }
}
DSGD_KERNEL float derivative(Act act, float y) {  // as a function of the value
  switch (act) {
    case Act::relu:
      return y > 0;
    case Act::sigmoid:
      return y * (1 - y);
    case Act::tanh:
      return 1 - y * y;
    default:
      return 1;
  }
}

// Element i of a channel, over all samples.
DSGD_KERNEL Index element_of(Image image, int c, Index i) {
  const Index pixels = Index(image.height) * image.width;
  return (i / pixels * image.channels + c) * pixels + i % pixels;
}

// term(channel, e, sums) adds element e of a channel to `count` sums: of the step's samples or, without a
// step, of all n. A channel's elements are shared by `splits` blocks; what each finds goes to `parts`.
#ifdef __CUDACC__
// Sums of the block's values, in the same order every time, in its first thread.
template <int count>
__device__ void sum_of_block(double (&values)[count]) {
  __shared__ double sums[count][threads];
  for (int k = 0; k < count; ++k) sums[k][threadIdx.x] = values[k];
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half)
      for (int k = 0; k < count; ++k) sums[k][threadIdx.x] += sums[k][threadIdx.x + half];
  }
  __syncthreads();
  for (int k = 0; k < count; ++k) values[k] = sums[k][0];
}
template <int count, class Term>
__global__ void channel_kernel(Image image, const Step* step, int n, Term term, double* parts) {
  const int c = int(blockIdx.y), splits = int(gridDim.x);
  const Index all = Index(step ? step->n : n) * image.height * image.width;
  double sums[count] = {};
  for (Index i = Index(blockIdx.x) * threads + threadIdx.x; i < all; i += Index(splits) * threads)
    term(c, element_of(image, c, i), sums);
  sum_of_block(sums);
  if (threadIdx.x == 0)
    for (int k = 0; k < count; ++k) parts[(Index(c) * splits + blockIdx.x) * count + k] = sums[k];
}
template <int count, class Term>
void channel_parts(cudaStream_t stream, int splits, Image image, const Step* step, int n, Term term,
                   double* parts) {
  channel_kernel<count>
      <<<dim3(unsigned(splits), unsigned(image.channels)), threads, 0, stream>>>(image, step, n, term, parts);
  DSGD_CHECK(cudaGetLastError());
}
#else
template <int count, class Term>
void channel_parts(cudaStream_t stream, int splits, Image image, const Step* step, int n, Term term,
                   double* parts) {
  on_host(stream, [=] {
    const Index all = Index(step ? step->n : n) * image.height * image.width;
    for (int c = 0; c < image.channels; ++c)
      for (int s = 0; s < splits; ++s) {
        double sums[count] = {};
        for (Index i = Index(s); i < all; i += Index(splits)) term(c, element_of(image, c, i), sums);
        for (int k = 0; k < count; ++k) parts[(Index(c) * splits + s) * count + k] = sums[k];
      }
  });
}
#endif
// finish(channel, sums), a thread each.
template <int count, class Finish>
void channel_sums(cudaStream_t stream, int channels, int splits, const double* parts, Finish finish) {
  each(stream, Index(channels), [=] DSGD_KERNEL(Index c) {
    double sums[count] = {};
    for (int s = 0; s < splits; ++s)
      for (int k = 0; k < count; ++k) sums[k] += parts[(c * splits + s) * count + k];
    finish(int(c), sums);
  });
}

constexpr int most_splits = 64;
int splits_of(int batch, Image image) {
  const Index elements = Index(batch) * image.height * image.width;
  return int(std::clamp<Index>(elements / (8 * threads), 1, most_splits));
}

// Element e of what a shortcut adds to `image`: every stride-th pixel of `from`, missing channels 0.
template <class T>
DSGD_KERNEL float taken(Image image, Image from, int stride, const T* earlier, Index e) {
  const int x = int(e % image.width), y = int(e / image.width % image.height);
  const Index pixels = Index(image.height) * image.width, row = e / pixels;
  const int c = int(row % image.channels);
  if (c >= from.channels) return 0;
  return get(
      earlier[((row / image.channels * from.channels + c) * from.height + Index(y) * stride) * from.width +
              Index(x) * stride]);
}

template <class T>
class TypedKernels final : public Kernels {
 public:
  TypedKernels(cudaStream_t stream, int batch) : stream_(stream), batch_(batch) {}
  void gather(const Step* step, const std::uint8_t* pixels, const std::uint8_t* all_labels,
              const Samples::Affine* affine, Image image, void* x, std::uint8_t* labels) const override;
  void take(const Step* step, const float* rows, std::size_t row, void* x) const override;
  void give(const void* x, std::size_t n, float* to) const override;
  void pack(const Piece* pieces, int count, const float* w, void* to) const override;
  void unpack(const Piece* pieces, int count, const void* from, float* g) const override;
  void pool(Image in, Image out, Window window, const float* bias, Act act, const void* x,
            void* y) const override;
  void pool_back(Image in, Image out, Window window, const void* x, const void* dy, void* dx) const override;
  void bias(Image image, const float* bias, Act act, void* y) const override;
  void act_back(Act act, std::size_t row, const void* y, void* dy) const override;
  void bias_back(Image image, const void* dy, double* parts, float* db) const override;
  std::size_t parts_size(int channels) const override;
  void moments(const Step* step, Image image, const void* x, double* parts, double* moments) const override;
  void norm(Image image, double epsilon, const double* moments, const float* scale, const float* shift,
            const void* x, const void* earlier, Image from, int stride, Act act, void* y) const override;
  void norm_sums(const Step* step, Image image, double epsilon, const double* moments, const void* x,
                 const void* dy, double* parts, double* sums, float* dscale, float* dshift) const override;
  void norm_back(const Step* step, Image image, double epsilon, const double* moments, const float* scale,
                 const double* sums, const void* x, const void* dy, void* dx) const override;
  void shortcut(Image image, Image from, int stride, const void* x, const void* earlier, Act act,
                void* y) const override;
  void shortcut_back(Image image, Image from, int stride, const void* dy, void* there) const override;
  void loss(const Step* step, const float* logits, const std::uint8_t* labels, int classes, void* dlogits,
            void* parts, Scored* slots, std::uint64_t* done) const override;
  std::size_t loss_size() const override;
  void descend(const Step* step, const Descent& descent, const float* g) const override;

 private:
  cudaStream_t stream_;
  int batch_;
};

}  // namespace

template <class T>
void TypedKernels<T>::gather(const Step* step, const std::uint8_t* pixels, const std::uint8_t* all_labels,
                             const Samples::Affine* affine, Image image, void* x,
                             std::uint8_t* labels) const {
  const Index size = image.size();
  each(stream_, batch_ * size, [=, to = static_cast<T*>(x)] DSGD_KERNEL(Index e) {
    const Index i = e / size, at = e % size;
    if (i >= Index(step->n)) {
      to[e] = put<T>(0);
      return;
    }
    const Pick pick = step->picks[i];
    if (at == 0) labels[i] = all_labels[pick.id];
    const int column = int(at % image.width), line = int(at / image.width % image.height),
              c = int(at / (Index(image.width) * image.height));
    const int from_line = line + pick.down,
              from_column = (pick.flip ? image.width - 1 - column : column) + pick.right;
    const bool inside =
        from_line >= 0 && from_line < image.height && from_column >= 0 && from_column < image.width;
    const std::uint8_t p = inside ? pixels[std::size_t(pick.id) * size +
                                           (Index(c) * image.height + from_line) * image.width + from_column]
                                  : 0;
    to[e] = put<T>(float(p) * affine[c].scale + affine[c].shift);
  });
}

template <class T>
void TypedKernels<T>::take(const Step* step, const float* rows, std::size_t row, void* x) const {
  each(stream_, batch_ * row, [=, to = static_cast<T*>(x)] DSGD_KERNEL(Index e) {
    to[e] = put<T>(e / row < Index(step->n) ? rows[e] : 0);
  });
}

template <class T>
void TypedKernels<T>::give(const void* x, std::size_t n, float* to) const {
  each(stream_, n, [=, from = static_cast<const T*>(x)] DSGD_KERNEL(Index e) { to[e] = get(from[e]); });
}

namespace {

// f(from, to) for every element of the pieces.
#ifdef __CUDACC__
template <class F>
__global__ void pieces_kernel(const Piece* pieces, F f) {
  const Piece piece = pieces[blockIdx.y];
  for (std::size_t i = blockIdx.x * threads + threadIdx.x; i < piece.count; i += gridDim.x * threads)
    f(piece.from + i, piece.to + i);
}
template <class F>
void each_of_pieces(cudaStream_t stream, const Piece* pieces, int count, F f) {
  if (count == 0) return;
  pieces_kernel<<<dim3(64, unsigned(count)), threads, 0, stream>>>(pieces, f);
  DSGD_CHECK(cudaGetLastError());
}
#else
template <class F>
void each_of_pieces(cudaStream_t stream, const Piece* pieces, int count, F f) {
  on_host(stream, [=] {
    for (const Piece* p = pieces; p != pieces + count; ++p)
      for (std::size_t i = 0; i < p->count; ++i) f(p->from + i, p->to + i);
  });
}
#endif

}  // namespace

template <class T>
void TypedKernels<T>::pack(const Piece* pieces, int count, const float* w, void* to) const {
  each_of_pieces(
      stream_, pieces, count,
      [=, to = static_cast<T*>(to)] DSGD_KERNEL(std::size_t a, std::size_t b) { to[b] = put<T>(w[a]); });
}

template <class T>
void TypedKernels<T>::unpack(const Piece* pieces, int count, const void* from, float* g) const {
  each_of_pieces(stream_, pieces, count,
                 [=, from = static_cast<const T*>(from)] DSGD_KERNEL(std::size_t a, std::size_t b) {
                   g[a] = get(from[b]);
                 });
}

template <class T>
void TypedKernels<T>::pool(Image in, Image out, Window window, const float* bias, Act act, const void* x,
                           void* y) const {
  each(stream_, batch_ * out.size(),
       [=, x = static_cast<const T*>(x), y = static_cast<T*>(y)] DSGD_KERNEL(Index e) {
         const int column = int(e % out.width), line = int(e / out.width % out.height);
         const Index plane = e / (Index(out.width) * out.height);
         const int rows = min(window.size, in.height - line * window.stride),
                   columns = min(window.size, in.width - column * window.stride);
         const T* from =
             x + (plane * in.height + Index(line) * window.stride) * in.width + Index(column) * window.stride;
         float value = window.max ? -INFINITY : 0;
         for (int i = 0; i < rows; ++i)
           for (int j = 0; j < columns; ++j) {
             const float one = get(from[Index(i) * in.width + j]);
             if (!window.max)
               value += one;
             else
               value = one <= value ? value : one;
           }
         if (!window.max) value /= float(rows * columns);
         if (bias) value += bias[plane % out.channels];
         y[e] = put<T>(activated(act, value));
       });
}

template <class T>
void TypedKernels<T>::pool_back(Image in, Image out, Window window, const void* x, const void* dy,
                                void* dx) const {
  each(stream_, batch_ * in.size(),
       [=, x = static_cast<const T*>(x), dy = static_cast<const T*>(dy),
        dx = static_cast<T*>(dx)] DSGD_KERNEL(Index e) {
         const int column = int(e % in.width), line = int(e / in.width % in.height);
         const Index plane = e / (Index(in.width) * in.height);
         const int size = window.size, stride = window.stride;
         const auto first = [&](int at) { return at < size ? 0 : (at - size) / stride + 1; };
         const int last_r = min(line / stride, out.height - 1), last_k = min(column / stride, out.width - 1);
         float sum = 0;
         for (int r = first(line); r <= last_r; ++r)
           for (int k = first(column); k <= last_k; ++k) {
             const int rows = min(size, in.height - r * stride), columns = min(size, in.width - k * stride);
             const float d = get(dy[(plane * out.height + r) * out.width + k]);
             if (!window.max) {
               sum += d / float(rows * columns);
               continue;
             }
             // The first of the largest takes it all.
             const T* from = x + (plane * in.height + Index(r) * stride) * in.width + Index(k) * stride;
             const int own = (line - r * stride) * size + column - k * stride;
             const float value = get(x[e]);
             bool wins = true;
             for (int i = 0; i < rows && wins; ++i)
               for (int j = 0; j < columns && wins; ++j) {
                 const float other = get(from[Index(i) * in.width + j]);
                 wins = i * size + j < own ? other < value : other <= value;
               }
             if (wins) sum += d;
           }
         dx[e] = put<T>(sum);
       });
}

template <class T>
void TypedKernels<T>::bias(Image image, const float* bias, Act act, void* y) const {
  const Index pixels = Index(image.height) * image.width;
  each(stream_, batch_ * image.size(), [=, y = static_cast<T*>(y)] DSGD_KERNEL(Index e) {
    const float value = get(y[e]) + (bias ? bias[e / pixels % image.channels] : 0);
    y[e] = put<T>(activated(act, value));
  });
}

template <class T>
void TypedKernels<T>::act_back(Act act, std::size_t row, const void* y, void* dy) const {
  each(stream_, batch_ * row,
       [=, y = static_cast<const T*>(y), dy = static_cast<T*>(dy)] DSGD_KERNEL(Index e) {
         dy[e] = put<T>(get(dy[e]) * derivative(act, get(y[e])));
       });
}

template <class T>
std::size_t TypedKernels<T>::parts_size(int channels) const {
  return Index(2) * channels * most_splits;
}

template <class T>
void TypedKernels<T>::bias_back(Image image, const void* dy, double* parts, float* db) const {
  const int splits = splits_of(batch_, image);
  channel_parts<1>(
      stream_, splits, image, nullptr, batch_,
      [dy = static_cast<const T*>(dy)] DSGD_KERNEL(int, Index e, double(&sums)[1]) { sums[0] += get(dy[e]); },
      parts);
  channel_sums<1>(stream_, image.channels, splits, parts,
                  [=] DSGD_KERNEL(int c, const double(&sums)[1]) { db[c] = float(sums[0]); });
}

template <class T>
void TypedKernels<T>::moments(const Step* step, Image image, const void* x, double* parts,
                              double* moments) const {
  const int splits = splits_of(batch_, image), channels = image.channels;
  const Index pixels = Index(image.height) * image.width;
  // Sums of distances from the channel's first element: squares of those lose nothing that matters.
  channel_parts<2>(
      stream_, splits, image, step, batch_,
      [=, x = static_cast<const T*>(x)] DSGD_KERNEL(int c, Index e, double(&sums)[2]) {
        const double d = double(get(x[e])) - double(get(x[c * pixels]));
        sums[0] += d;
        sums[1] += d * d;
      },
      parts);
  channel_sums<2>(stream_, channels, splits, parts,
                  [=, x = static_cast<const T*>(x)] DSGD_KERNEL(int c, const double(&sums)[2]) {
                    const double count = double(step->n) * double(pixels), mean = sums[0] / count,
                                 variance = sums[1] / count - mean * mean;
                    moments[2 * c] = double(get(x[c * pixels])) + mean;
                    moments[2 * c + 1] = variance > 0 ? variance : 0;
                  });
}

template <class T>
void TypedKernels<T>::norm(Image image, double epsilon, const double* moments, const float* scale,
                           const float* shift, const void* x, const void* earlier, Image from, int stride,
                           Act act, void* y) const {
  const Index pixels = Index(image.height) * image.width;
  each(stream_, batch_ * image.size(),
       [=, x = static_cast<const T*>(x), y = static_cast<T*>(y),
        earlier = static_cast<const T*>(earlier)] DSGD_KERNEL(Index e) {
         const int c = int(e / pixels % image.channels);
         const double mean = moments[2 * c], root = sqrt(moments[2 * c + 1] + epsilon);
         float value = scale[c] * float((double(get(x[e])) - mean) / root) + shift[c];
         if (earlier) value += taken(image, from, stride, earlier, e);
         y[e] = put<T>(activated(act, value));
       });
}

template <class T>
void TypedKernels<T>::norm_sums(const Step* step, Image image, double epsilon, const double* moments,
                                const void* x, const void* dy, double* parts, double* sums, float* dscale,
                                float* dshift) const {
  const int splits = splits_of(batch_, image), channels = image.channels;
  channel_parts<2>(
      stream_, splits, image, step, batch_,
      [=, x = static_cast<const T*>(x), dy = static_cast<const T*>(dy)] DSGD_KERNEL(int c, Index e,
                                                                                    double(&all)[2]) {
        const double d = get(dy[e]);
        all[0] += d;
        all[1] += d * (double(get(x[e])) - moments[2 * c]);
      },
      parts);
  channel_sums<2>(stream_, channels, splits, parts, [=] DSGD_KERNEL(int c, const double(&all)[2]) {
    const double dz = all[1] / sqrt(moments[2 * c + 1] + epsilon);
    sums[2 * c] = all[0];
    sums[2 * c + 1] = dz;
    dshift[c] = float(all[0]);
    dscale[c] = float(dz);
  });
}

template <class T>
void TypedKernels<T>::norm_back(const Step* step, Image image, double epsilon, const double* moments,
                                const float* scale, const double* sums, const void* x, const void* dy,
                                void* dx) const {
  const Index pixels = Index(image.height) * image.width, size = image.size();
  each(stream_, batch_ * size,
       [=, x = static_cast<const T*>(x), dy = static_cast<const T*>(dy),
        dx = static_cast<T*>(dx)] DSGD_KERNEL(Index e) {
         if (e / size >= Index(step->n)) {
           dx[e] = put<T>(0);
           return;
         }
         const int c = int(e / pixels % image.channels);
         const double count = double(step->n) * double(pixels), root = sqrt(moments[2 * c + 1] + epsilon),
                      z = (double(get(x[e])) - moments[2 * c]) / root;
         dx[e] = put<T>(float(double(scale[c]) / root *
                              (double(get(dy[e])) - sums[2 * c] / count - z * sums[2 * c + 1] / count)));
       });
}

template <class T>
void TypedKernels<T>::shortcut(Image image, Image from, int stride, const void* x, const void* earlier,
                               Act act, void* y) const {
  each(stream_, batch_ * image.size(),
       [=, x = static_cast<const T*>(x), earlier = static_cast<const T*>(earlier),
        y = static_cast<T*>(y)] DSGD_KERNEL(Index e) {
         y[e] = put<T>(activated(act, get(x[e]) + taken(image, from, stride, earlier, e)));
       });
}

template <class T>
void TypedKernels<T>::shortcut_back(Image image, Image from, int stride, const void* dy, void* there) const {
  each(stream_, batch_ * from.size(),
       [=, dy = static_cast<const T*>(dy), there = static_cast<T*>(there)] DSGD_KERNEL(Index e) {
         const int column = int(e % from.width), line = int(e / from.width % from.height);
         if (column % stride || line % stride) return;
         const Index row = e / (Index(from.width) * from.height), c = row % from.channels;
         const Index at =
             ((row / from.channels * image.channels + c) * image.height + line / stride) * image.width +
             column / stride;
         there[e] = put<T>(get(there[e]) + get(dy[at]));
       });
}

namespace {

constexpr int loss_threads = 128;

struct LossParts {
  unsigned finished;  // blocks; 0 between launches
  Scored of_block[1];
};

// Row i of the minibatch.
template <class T>
DSGD_KERNEL Scored loss_of_row(int i, int n, const float* z, int label, int classes, T* d) {
  if (i >= n) {
    for (int k = 0; d && k < classes; ++k) d[k] = put<T>(0);
    return {0, 0};
  }
  double largest = z[0], sum = 0;
  for (int k = 1; k < classes; ++k) largest = largest < z[k] ? z[k] : largest;
  bool correct = true;  // stays false for logits that are not numbers
  for (int k = 0; k < classes; ++k) {
    sum += exp(z[k] - largest);
    correct = correct && (k < label ? z[k] < z[label] : z[k] <= z[label]);
  }
  for (int k = 0; d && k < classes; ++k) d[k] = put<T>(float(exp(z[k] - largest) / sum - (k == label)));
  return {log(sum) + largest - z[label], correct};
}

#ifdef __CUDACC__
// A thread a row; the block that ends last adds up what all of them found, in their order.
template <class T>
__global__ void loss_kernel(const Step* step, const float* logits, const std::uint8_t* labels, int batch,
                            int classes, T* dlogits, LossParts* parts, Scored* slots, std::uint64_t* done) {
  __shared__ Scored own[loss_threads];
  const int i = int(blockIdx.x) * loss_threads + int(threadIdx.x);
  const Index row = Index(i) * classes;
  own[threadIdx.x] = Scored{0, 0};
  if (i < batch)
    own[threadIdx.x] =
        loss_of_row(i, step->n, logits + row, labels[i], classes, dlogits ? dlogits + row : nullptr);
  __syncthreads();
  if (threadIdx.x > 0) return;
  Scored all{0, 0};
  for (const Scored& one : own) all = {all.loss + one.loss, all.correct + one.correct};
  parts->of_block[blockIdx.x] = all;
  __threadfence();
  if (atomicAdd(&parts->finished, 1u) < gridDim.x - 1) return;
  __threadfence();
  all = {0, 0};
  for (unsigned b = 0; b < gridDim.x; ++b) {
    const volatile Scored& one = parts->of_block[b];
    all = {all.loss + one.loss, all.correct + one.correct};
  }
  parts->finished = 0;
  volatile Scored& slot = slots[step->slot];
  slot.loss = all.loss;
  slot.correct = all.correct;
  __threadfence_system();
  *static_cast<volatile std::uint64_t*>(done) = step->ticket;
}
template <class T>
void judge(cudaStream_t stream, const Step* step, const float* logits, const std::uint8_t* labels, int batch,
           int classes, T* dlogits, void* parts, Scored* slots, std::uint64_t* done) {
  loss_kernel<<<unsigned((batch - 1) / loss_threads + 1), loss_threads, 0, stream>>>(
      step, logits, labels, batch, classes, dlogits, static_cast<LossParts*>(parts), slots, done);
  DSGD_CHECK(cudaGetLastError());
}
#else
template <class T>
void judge(cudaStream_t stream, const Step* step, const float* logits, const std::uint8_t* labels, int batch,
           int classes, T* dlogits, void*, Scored* slots, std::uint64_t* done) {
  on_host(stream, [=] {
    Scored all{0, 0};
    for (int i = 0; i < batch; ++i) {
      const Index row = Index(i) * classes;
      const Scored one =
          loss_of_row(i, step->n, logits + row, labels[i], classes, dlogits ? dlogits + row : nullptr);
      all = {all.loss + one.loss, all.correct + one.correct};
    }
    slots[step->slot] = all;
    *done = step->ticket;
  });
}
#endif

}  // namespace

template <class T>
std::size_t TypedKernels<T>::loss_size() const {
  return sizeof(LossParts) + (std::size_t(batch_) / loss_threads + 1) * sizeof(Scored);
}

template <class T>
void TypedKernels<T>::loss(const Step* step, const float* logits, const std::uint8_t* labels, int classes,
                           void* dlogits, void* parts, Scored* slots, std::uint64_t* done) const {
  judge(stream_, step, logits, labels, batch_, classes, static_cast<T*>(dlogits), parts, slots, done);
}

template <class T>
void TypedKernels<T>::descend(const Step* step, const Descent& descent, const float* g) const {
  using Rule = OptimizerSettings::Rule;
  const auto n = Index(descent.w.size);
  float *const w = descent.w.data, *const s = descent.state, *const v = s + n;
  switch (descent.rule) {
    case Rule::sgd:
      return each(stream_, n, [=] DSGD_KERNEL(Index i) { formula::sgd(step->update, w[i], g[i]); });
    case Rule::momentum:
      return each(stream_, n,
                  [=] DSGD_KERNEL(Index i) { formula::momentum(step->update, w[i], g[i], s[i]); });
    case Rule::nesterov:
      return each(stream_, n,
                  [=] DSGD_KERNEL(Index i) { formula::nesterov(step->update, w[i], g[i], s[i]); });
    case Rule::adagrad:
      return each(stream_, n, [=] DSGD_KERNEL(Index i) { formula::adagrad(step->update, w[i], g[i], s[i]); });
    default:
      return each(stream_, n,
                  [=] DSGD_KERNEL(Index i) { formula::adam(step->adam, w[i], g[i], s[i], v[i]); });
  }
}

#ifndef __CUDACC__
#define make_kernels make_kernels_on_host
#endif
std::unique_ptr<Kernels> make_kernels(cudaStream_t stream, Type type, int batch) {
  if (type == Type::f32) return std::make_unique<TypedKernels<float>>(stream, batch);
  return std::make_unique<TypedKernels<__nv_bfloat16>>(stream, batch);
}

}  // namespace dsgd::cuda
