// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "dataset.h"
#include "vec.h"

namespace dsgd {

struct Dense {
  int units;
};  // y = W x + b
struct Conv2d {
  int filters, kernel, stride = 1, pad = 0;
  bool bias = true;
};  // cross-correlation, square kernels
// Pooling windows without padding. Pixels at the far edges that do not fill a window are ignored; with `ceil`
// they form a window that is cut off.
struct MaxPool {
  int size, stride;
  bool ceil = false;
};  // of equal maxima the first in row order gets the gradient
struct AvgPool {
  int size, stride;
  bool ceil = false;
};               // the mean of what lies in the window
struct Relu {};  // derivative 0 at 0
struct Sigmoid {};
struct Tanh {};
// y = scale * (x - mean) / sqrt(variance + epsilon) + shift, with one scale and one shift per channel (Ioffe
// & Szegedy 2015). Mean and variance are those of the minibatch over its samples and pixels, and gradients
// flow through them. Scoring uses given ones (Moments).
struct BatchNorm {
  double epsilon = 1e-5;
};
// y = x + the input of the layer `back` places before this one (He et al. 2015, option A). If that input is
// twice as large, every second pixel is taken, and so on; its missing channels count as zero.
struct Shortcut {
  int back;
};
using LayerSpec = std::variant<Dense, Conv2d, MaxPool, AvgPool, Relu, Sigmoid, Tanh, BatchNorm, Shortcut>;
template <class... F>
struct Overloaded : F... {  // std::visit(Overloaded{[](const Dense&) {}, [](const auto&) {}}, spec)
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;          // clang before 17 does not find it
std::string to_string(const LayerSpec& spec);  // "conv 5x5x20"

// A feed-forward network. The outputs of its last layer are the logits of a softmax cross-entropy.
struct Network {
  std::string name;
  Shape input;
  std::vector<LayerSpec> layers;
};

// One layer in its place: the shapes of one sample before and after it, and its parameters in the flat
// vector. `weights` elements begin at `first` ({units, inputs} or OIHW; inputs in CHW order), and `bias`
// elements follow. For batch norm these are scale and shift.
struct PlacedLayer {
  LayerSpec spec;
  Shape in, out;
  std::size_t first = 0, weights = 0, bias = 0;
};
std::vector<PlacedLayer> place(const Network& net);  // throws std::invalid_argument when shapes do not fit
std::vector<Extent> extents(const Network& net);
std::size_t parameters(const Network& net);
std::size_t normalised_channels(const Network& net);  // over all its batch norms
// Distance of the pixels of `from` that a shortcut adds to an image of shape `to`; 0 if the shapes do not
// fit.
int shortcut_stride(const Shape& from, const Shape& to);
// Floating-point operations of forward and backward pass; matrix layers only, multiply and add count as two.
double flops_per_sample(const Network& net);

// w <- Xavier initialisation (Glorot & Bengio 2010): weights from N(0, 2/(fan_in + fan_out)), biases 0,
// scales 1. Fans of convolutions as in Deeplearning4j: fan_in = channels * kernel^2, fan_out = filters *
// kernel^2 / stride^2. The same bits for the same seed on every device and rank. w: parameters(net) elements
// in host memory.
void initialise(const Network& net, std::uint64_t seed, Vec w);

// One row of the zoo. `make` takes shape and classes from the data set and throws std::invalid_argument if
// the model does not fit them.
struct ModelEntry {
  std::string name, summary;
  Network (*make)(const Shape& input, int classes);
  bool batch_norm = false;     // whether it has batch norm
  Shape images = {1, 28, 28};  // for which it was designed
};
const std::vector<ModelEntry>& all_models();
const ModelEntry* find_model(const std::string& name);  // nullptr if unknown

}  // namespace dsgd
