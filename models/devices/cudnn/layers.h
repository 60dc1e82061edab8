// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "dataset.h"
#include "optimizer.h"

// The GPU device's own kernels: operations that cuDNN and cuBLASLt lack, or that are faster fused into one
// pass. All are deterministic and may be captured in a CUDA graph. Activations and their gradients are rows
// of a minibatch of fixed size, NCHW, of type `Type`. The gradients of rows beyond Step::n are 0.
namespace dsgd::cuda {

enum class Type { f32, bf16 };
constexpr std::size_t size_of(Type t) { return t == Type::f32 ? 4 : 2; }
enum class Act { none, relu, sigmoid, tanh };

// The input of a step: the host writes it before the step, and kernels read it.
struct Pick {
  std::uint32_t id;
  std::int8_t down, right;  // as in Crop
  std::uint8_t flip, changed;
};
struct Step {
  std::int32_t n;  // samples
  std::uint32_t slot;
  std::uint64_t ticket;
  Space::Update update;  // of the weights
  Space::Adam adam;      // instead of `update` for adam and adamw
  Pick picks[1];         // one per sample
  static std::size_t size(int batch) { return sizeof(Step) + std::size_t(batch) * sizeof(Pick); }
};
// The result of a step, in host memory.
struct Scored {
  double loss;
  std::int64_t correct;
};

// A piece of the flat vector, and the place of its copy of type `Type`.
struct Piece {
  std::size_t from, to, count;
};

struct Image {  // of one sample
  int channels, height, width;
  std::size_t size() const { return std::size_t(channels) * height * width; }
};
struct Window {
  int size, stride;
  bool max;  // or the mean
};

class Kernels {
 public:
  virtual ~Kernels() = default;
  // x <- samples of a set, as gather() of datasets/gather.h makes them; rows beyond n are 0. affine: one per
  // channel.
  virtual void gather(const Step* step, const std::uint8_t* pixels, const std::uint8_t* all_labels,
                      const Samples::Affine* affine, Image image, void* x, std::uint8_t* labels) const = 0;
  // x <- rows of float32, without labels; rows beyond n are 0.
  virtual void take(const Step* step, const float* rows, std::size_t row, void* x) const = 0;
  virtual void give(const void* x, std::size_t n, float* to) const = 0;  // to <- n elements of x, as float32

  virtual void pack(const Piece* pieces, int count, const float* w, void* to) const = 0;
  virtual void unpack(const Piece* pieces, int count, const void* from,
                      float* g) const = 0;  // back to where they came from

  // y <- act(pooled x + bias). bias: float32, or null. With a window of 1 it works in place.
  virtual void pool(Image in, Image out, Window window, const float* bias, Act act, const void* x,
                    void* y) const = 0;
  // dx <- the gradient of the pooling, from dy.
  virtual void pool_back(Image in, Image out, Window window, const void* x, const void* dy,
                         void* dx) const = 0;
  virtual void bias(Image image, const float* bias, Act act, void* y) const = 0;       // y <- act(y + bias)
  virtual void act_back(Act act, std::size_t row, const void* y, void* dy) const = 0;  // dy <- dy * act'
  // db <- sums of dy over samples and pixels. parts: parts_size() doubles of scratch memory.
  virtual void bias_back(Image image, const void* dy, double* parts, float* db) const = 0;
  virtual std::size_t parts_size(int channels) const = 0;

  // moments <- mean and variance of every channel over the n samples of the step.
  virtual void moments(const Step* step, Image image, const void* x, double* parts,
                       double* moments) const = 0;
  // y <- act(scale * (x - mean) / sqrt(variance + epsilon) + shift + earlier). `earlier` is read as a
  // shortcut reads it; null: none.
  virtual void norm(Image image, double epsilon, const double* moments, const float* scale,
                    const float* shift, const void* x, const void* earlier, Image from, int stride, Act act,
                    void* y) const = 0;
  // dscale, dshift and sums (2 doubles per channel) <- sums over the n samples, for norm_back().
  virtual void norm_sums(const Step* step, Image image, double epsilon, const double* moments, const void* x,
                         const void* dy, double* parts, double* sums, float* dscale, float* dshift) const = 0;
  virtual void norm_back(const Step* step, Image image, double epsilon, const double* moments,
                         const float* scale, const double* sums, const void* x, const void* dy,
                         void* dx) const = 0;

  // y <- act(x + earlier). shortcut_back(): there <- there + dy, where `there` is the gradient at `earlier`.
  virtual void shortcut(Image image, Image from, int stride, const void* x, const void* earlier, Act act,
                        void* y) const = 0;
  virtual void shortcut_back(Image image, Image from, int stride, const void* dy, void* there) const = 0;

  // Softmax cross-entropy of the n rows. dlogits: of type `Type`, or null. Writes the result to
  // slots[step->slot] and then the ticket to *done, both in host memory. parts: loss_size() bytes, initially
  // zero.
  virtual void loss(const Step* step, const float* logits, const std::uint8_t* labels, int classes,
                    void* dlogits, void* parts, Scored* slots, std::uint64_t* done) const = 0;
  virtual std::size_t loss_size() const = 0;

  // descent.make(g), but with the constants of `step`.
  virtual void descend(const Step* step, const Descent& descent, const float* g) const = 0;
};
std::unique_ptr<Kernels> make_kernels(cudaStream_t stream, Type type, int batch);

}  // namespace dsgd::cuda
