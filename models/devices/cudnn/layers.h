// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "dataset.h"
#include "optimizer.h"

// The kernels of the GPU device: what cuDNN and cuBLASLt have no call for, or only one that is worth less
// than doing several things in one pass. All are deterministic and may be captured in a graph. Activations
// and their gradients are rows of a minibatch of fixed size, NCHW, of type `Type`; rows beyond Step::n have
// gradient 0.
namespace dsgd::cuda {

enum class Type { f32, bf16 };
constexpr std::size_t size_of(Type t) { return t == Type::f32 ? 4 : 2; }
enum class Act { none, relu, sigmoid, tanh };

// What a step is about: written by the host before it, read by the kernels.
struct Pick {
  std::uint32_t id;
  std::int8_t down, right;  // Crop
  std::uint8_t flip, changed;
};
struct Step {
  std::int32_t n;  // samples
  std::uint32_t slot;
  std::uint64_t ticket;
  Space::Update update;  // of the weights
  Space::Adam adam;      // the same where the rule is adam or adamw
  Pick picks[1];         // one for each sample
  static std::size_t size(int batch) { return sizeof(Step) + std::size_t(batch) * sizeof(Pick); }
};
// What it gives, in memory of the host.
struct Scored {
  double loss;
  std::int64_t correct;
};

// A piece of the flat vector and where its copy of type `Type` is.
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
  // x <- samples of a set, as gather() of datasets/gather.h makes them; rows beyond n are 0. affine: one for
  // each channel.
  virtual void gather(const Step* step, const std::uint8_t* pixels, const std::uint8_t* all_labels,
                      const Samples::Affine* affine, Image image, void* x, std::uint8_t* labels) const = 0;
  // x <- rows of float32, labels stay; rows beyond n are 0.
  virtual void take(const Step* step, const float* rows, std::size_t row, void* x) const = 0;
  virtual void give(const void* x, std::size_t n, float* to) const = 0;  // n elements of type `Type`

  virtual void pack(const Piece* pieces, int count, const float* w, void* to) const = 0;
  virtual void unpack(const Piece* pieces, int count, const void* from,
                      float* g) const = 0;  // back to where they came from

  // y <- act(pooled x + bias); bias: float32, null: none. Of a window of 1 in place.
  virtual void pool(Image in, Image out, Window window, const float* bias, Act act, const void* x,
                    void* y) const = 0;
  // dx <- what the windows pass back of dy.
  virtual void pool_back(Image in, Image out, Window window, const void* x, const void* dy,
                         void* dx) const = 0;
  virtual void bias(Image image, const float* bias, Act act, void* y) const = 0;       // y <- act(y + bias)
  virtual void act_back(Act act, std::size_t row, const void* y, void* dy) const = 0;  // dy <- dy * act'
  // db <- sums of dy over samples and pixels. `parts`: parts_size() doubles.
  virtual void bias_back(Image image, const void* dy, double* parts, float* db) const = 0;
  virtual std::size_t parts_size(int channels) const = 0;

  // moments: mean, variance of every channel. Over the n samples of the step.
  virtual void moments(const Step* step, Image image, const void* x, double* parts,
                       double* moments) const = 0;
  // y <- act(scale * (x - mean) / sqrt(variance + epsilon) + shift + earlier), the last as a shortcut takes
  // it.
  virtual void norm(Image image, double epsilon, const double* moments, const float* scale,
                    const float* shift, const void* x, const void* earlier, Image from, int stride, Act act,
                    void* y) const = 0;
  // dscale, dshift and sums (2 doubles a channel) of the n samples.
  virtual void norm_sums(const Step* step, Image image, double epsilon, const double* moments, const void* x,
                         const void* dy, double* parts, double* sums, float* dscale, float* dshift) const = 0;
  virtual void norm_back(const Step* step, Image image, double epsilon, const double* moments,
                         const float* scale, const double* sums, const void* x, const void* dy,
                         void* dx) const = 0;

  // y <- act(x + earlier); back: there <- there + dy, there the gradient of what a shortcut takes.
  virtual void shortcut(Image image, Image from, int stride, const void* x, const void* earlier, Act act,
                        void* y) const = 0;
  virtual void shortcut_back(Image image, Image from, int stride, const void* dy, void* there) const = 0;

  // Softmax cross-entropy of the n rows; dlogits (null: none) of type `Type`. Writes the outcome to slot
  // `step->slot` and after that the ticket to *done, both in memory of the host. `parts`: loss_size() bytes,
  // zeros at birth.
  virtual void loss(const Step* step, const float* logits, const std::uint8_t* labels, int classes,
                    void* dlogits, void* parts, Scored* slots, std::uint64_t* done) const = 0;
  virtual std::size_t loss_size() const = 0;

  // descent.make(g), with the step's constants in place of its own.
  virtual void descend(const Step* step, const Descent& descent, const float* g) const = 0;
};
std::unique_ptr<Kernels> make_kernels(cudaStream_t stream, Type type, int batch);

}  // namespace dsgd::cuda
