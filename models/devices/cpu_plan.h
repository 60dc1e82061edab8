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

// A minibatch between two layers: `size` numbers of each of `batch` samples, zero beyond the samples in use.
struct Tensor {
  enum Layout {
    rows,    // {sample, CHW}, as gather() writes it
    lanes,   // {CHW, sample}, for the kernels of chwn.h
    library  // known to the library alone
  };
  Layout layout = rows;
  float* data = nullptr;                    // 64-byte aligned; of a library's layout: whatever it keeps there
  std::size_t size = 0, bytes = 0;          // of a sample; of all
  std::shared_ptr<const void> description;  // of a library's layout
  explicit operator bool() const { return data != nullptr; }
};

using Step = std::function<void()>;

// What the steps of a plan share, and where new ones go. Layers are built once, in a plan's constructor;
// building a layer allocates, its steps do not.
struct PlanParts {
  int batch = 0;
  const float* w = nullptr;  // the flat vector and its gradient, those of this call
  float* g = nullptr;
  std::byte* scratch = nullptr;                       // for any one step; there when all layers are built
  std::vector<Step>* steps = nullptr;                 // where they go
  std::vector<Step> before_forward, before_backward;  // of every call: w and g are there
  int copies = 0;                                     // steps that only change a layout
  const std::vector<Step>* uncounted = nullptr;       // whose copies do not count

  // Memory for the plan's life, zeroed, in whole cache lines.
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

// A layer whose way forward is built: its output, and how its way back is built, given the gradient dy at its
// output in the layout of y.
struct BuiltLayer {
  Tensor y;
  std::optional<Activation> activation;           // of y, whose derivative comes first on the way back
  std::function<void(const Tensor&)> parameters;  // the gradient of its weights; empty for layers without
  std::function<Tensor(const Tensor&)> data;      // returns the gradient at its input; may change dy in place
  std::string implementation;
};

// Layers by a library. They take inputs in any layout and leave outputs in the one that they like best.
class LayerLibrary {
 public:
  virtual ~LayerLibrary() = default;
  virtual BuiltLayer dense(const PlacedLayer& p, const Tensor& x, const std::optional<Activation>& a) = 0;
  virtual BuiltLayer convolution(const PlacedLayer& p, const Conv2d& l, const Tensor& x,
                                 const std::optional<Activation>& a) = 0;
  virtual BuiltLayer pooling(const PlacedLayer& p, bool max, int size, int stride, const Tensor& x) = 0;
  // Of tensors in the library's own layouts: y <- a(y), and dy <- dy * a'(y).
  virtual void activate(Activation a, const Tensor& y) = 0;
  virtual void differentiate(Activation a, const Tensor& y, const Tensor& dy) = 0;
  // x in the layout of `wanted`, copied where it has another.
  virtual Tensor as(const Tensor& x, const Tensor& wanted) = 0;
};

}  // namespace dsgd
