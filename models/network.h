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
// Windows without padding. What does not fill a window at the far edges is left out, or with `ceil` has a
// window of its own that is cut off there.
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
// y = scale * (x - mean) / sqrt(variance + epsilon) + shift, a scale and a shift for every channel (Ioffe &
// Szegedy 2015). Mean and variance are those of the minibatch over its samples and pixels, and gradients go
// through them; who scores a model gives others (Moments).
struct BatchNorm {
  double epsilon = 1e-5;
};
// y = x + the input of the layer `back` places before this one, of which every second pixel is taken where it
// is twice as large (and so on), and whose missing channels are zero (He et al. 2015, option A).
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

// A feed-forward net that ends in softmax cross-entropy over its last layer's outputs, the logits.
struct Network {
  std::string name;
  Shape input;
  std::vector<LayerSpec> layers;
};

// One layer in its place: shapes of one sample before and after, and its parameters in the flat vector:
// weights ({units, inputs} or OIHW; inputs in CHW order) from `first` on, then bias. Of batch norm these are
// scale and shift.
struct PlacedLayer {
  LayerSpec spec;
  Shape in, out;
  std::size_t first = 0, weights = 0, bias = 0;
};
std::vector<PlacedLayer> place(const Network& net);  // throws std::invalid_argument when shapes do not fit
std::vector<Extent> extents(const Network& net);
std::size_t parameters(const Network& net);
std::size_t normalised_channels(const Network& net);  // of all its batch norms
// How far apart the pixels of `from` are that a shortcut adds to an image of shape `to`; 0: it cannot.
int shortcut_stride(const Shape& from, const Shape& to);
// Forward + backward, multiply and add counted as two; matrix layers only.
double flops_per_sample(const Network& net);

// Xavier: weights from N(0, 2/(fan_in + fan_out)), biases 0, scales 1 (Glorot & Bengio 2010; convolution fans
// as in Deeplearning4j: fan_in = channels * kernel^2, fan_out = filters * kernel^2 / stride^2). The same for
// the same seed on every device and rank. w: host memory, parameters(net) elements.
void initialise(const Network& net, std::uint64_t seed, Vec w);

// The zoo: input shape and classes come from the data set. `make` throws std::invalid_argument when the model
// does not fit them.
struct ModelEntry {
  std::string name, summary;
  Network (*make)(const Shape& input, int classes);
  bool batch_norm = false;     // whether there is any in it
  Shape images = {1, 28, 28};  // that it was made for
};
const std::vector<ModelEntry>& all_models();
const ModelEntry* find_model(const std::string& name);  // nullptr when unknown

}  // namespace dsgd
