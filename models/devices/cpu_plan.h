// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device.h"
#include "kernels/elementwise.h"
#include "network.h"

// What the processor's device (device_cpu.cpp) shares with a library that does some of its layers (onednn.h).
namespace dsgd {

// A minibatch between two layers: `size` numbers for each of `batch` samples. Samples beyond those in use are
// zero.
struct Tensor {
  enum Layout {
    rows,    // {sample, CHW}, as gather() writes it
    lanes,   // {CHW, sample}, for the kernels of chwn.h
    library  // known to the library alone
  };
  Layout layout = rows;
  float* data = nullptr;                    // 64-byte aligned; in a library's layout opaque
  std::size_t size = 0, bytes = 0;          // numbers per sample; bytes in all
  std::shared_ptr<const void> description;  // of a library's layout
  explicit operator bool() const { return data != nullptr; }
};

using Step = std::function<void()>;

// What the steps of a plan share, and where new ones are appended. A plan's constructor builds the layers
// once. Building a layer allocates; its steps do not.
struct PlanParts {
  int batch = 0;
  const float* w = nullptr;  // flat vector and gradient of the current call
  float* g = nullptr;
  std::byte* scratch = nullptr;        // for one step at a time; allocated when all layers are built
  std::vector<Step>* steps = nullptr;  // the list to which new steps are appended
  std::vector<Step> before_forward, before_backward;  // run at the start of every call, when w and g are set
  int copies = 0;                                     // steps that only change a layout
  const std::vector<Step>* uncounted = nullptr;       // list of steps whose copies are not counted

  // Zeroed memory in whole cache lines that lives as long as the plan.
  std::byte* memory(std::size_t bytes);
  Tensor make(Tensor::Layout layout, std::size_t size) {
    const std::size_t bytes = size * batch * sizeof(float);
    return {layout, reinterpret_cast<float*>(memory(bytes)), size, bytes, nullptr};
  }
  Tensor like(const Tensor& t) {
    return {t.layout, reinterpret_cast<float*>(memory(t.bytes)), t.size, t.bytes, t.description};
  }
  float* scratch_floats() const { return reinterpret_cast<float*>(scratch); }
  void want_scratch(std::size_t bytes) { scratch_size_ = std::max(scratch_size_, bytes); }
  void make_scratch() { scratch = memory(scratch_size_); }
  void copied() { copies += steps != uncounted; }

 private:
  std::size_t scratch_size_ = 0;
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<std::byte, Free>> owned_;
};

// A layer whose forward pass is built. parameters() and data() build its backward pass, given the gradient dy
// at its output, in the layout of y.
struct BuiltLayer {
  Tensor y;
  std::optional<Activation> activation;           // of y; the backward pass must begin with its derivative
  std::function<void(const Tensor&)> parameters;  // gradient of the weights; empty for layers without
  std::function<Tensor(const Tensor&)> data;      // returns the gradient at the input; may overwrite dy
  std::string implementation;
};

// Layers of a library. They take inputs in any layout and choose the layout of their outputs.
class LayerLibrary {
 public:
  virtual ~LayerLibrary() = default;
  virtual BuiltLayer dense(const PlacedLayer& p, const Tensor& x, const std::optional<Activation>& a) = 0;
  virtual BuiltLayer convolution(const PlacedLayer& p, const Conv2d& l, const Tensor& x,
                                 const std::optional<Activation>& a) = 0;
  virtual BuiltLayer pooling(const PlacedLayer& p, bool max, int size, int stride, const Tensor& x) = 0;
  // For tensors in the library's layouts: y <- a(y), and dy <- dy * a'(y).
  virtual void activate(Activation a, const Tensor& y) = 0;
  virtual void differentiate(Activation a, const Tensor& y, const Tensor& dy) = 0;
  // x in the layout of `wanted`; a copy if x has another layout.
  virtual Tensor as(const Tensor& x, const Tensor& wanted) = 0;
};

}  // namespace dsgd
