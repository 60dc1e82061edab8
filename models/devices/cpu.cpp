// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

#include "device.h"
#include "devices/cpu_plan.h"
#include "devices/onednn/onednn.h"
#include "kernels/chwn.h"
#include "kernels/chwn_vectors.h"
#include "kernels/dense.h"
#include "kernels/winograd.h"

namespace dsgd {

std::byte* PlanParts::memory(std::size_t bytes) {
  const std::size_t whole = (bytes + 63) / 64 * 64;
  auto* const p = static_cast<std::byte*>(std::aligned_alloc(64, std::max<std::size_t>(whole, 64)));
  if (!p) throw std::bad_alloc();
  std::memset(p, 0, std::max<std::size_t>(whole, 64));
  owned_.emplace_back(p);
  return p;
}

namespace {

std::optional<Activation> activation(const LayerSpec& spec) {
  if (std::get_if<Relu>(&spec)) return Activation::relu;
  if (std::get_if<Sigmoid>(&spec)) return Activation::sigmoid;
  if (std::get_if<Tanh>(&spec)) return Activation::tanh;
  return std::nullopt;
}

bool is_relu(const std::optional<Activation>& a) { return a == Activation::relu; }

// Whether the input of a layer goes elsewhere, too: it must then be there as it is.
std::vector<bool> shortcut_begins(const std::vector<PlacedLayer>& layers) {
  std::vector<bool> begins(layers.size());
  for (std::size_t k = 0; k < layers.size(); ++k)
    if (const auto* l = std::get_if<Shortcut>(&layers[k].spec)) begins[k - l->back] = true;
  return begins;
}

// ReLU and max-pool commute, gradients included: a window without positive values passes nothing on either
// way. ReLU is cheaper at the pooled size.
std::vector<PlacedLayer> relu_after_pool(std::vector<PlacedLayer> layers) {
  const auto begins = shortcut_begins(layers);
  for (std::size_t k = 0; k + 1 < layers.size(); ++k) {
    if (!std::get_if<Relu>(&layers[k].spec) || !std::get_if<MaxPool>(&layers[k + 1].spec) || begins[k + 1])
      continue;
    std::swap(layers[k], layers[k + 1]);
    layers[k + 1].in = layers[k + 1].out = layers[k].out;
  }
  return layers;
}

template <class Layer>
bool has(const Network& net) {
  return std::any_of(net.layers.begin(), net.layers.end(),
                     [](const LayerSpec& l) { return std::get_if<Layer>(&l) != nullptr; });
}

// Our own kernels take minibatches of whole vectors.
bool whole_vectors(int batch) { return batch % vector_width == 0; }

bool minimal_filtering(const PlacedLayer& p, const Conv2d& l, int batch) {
  const WinogradConv k{p.in.channels, p.in.height, p.in.width, l.filters, batch};
  return l.kernel == 3 && l.stride == 1 && l.pad == 1 && k.faster();
}

// The constructor walks over the layers, forward and back, and emits steps that are ready to run, in the
// plan's own memory. Only w and g are the caller's.
class CpuPlan final : public Plan {
 public:
  // `batch`: a multiple of vector_width unless there is a library.
  CpuPlan(const Network& net, int batch, Precision precision, bool with_library);
  const float* forward(ConstVec w, const float* x, int n, const Moments* given) override;
  void backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx) override;
  std::vector<std::string> implementations() const override { return implementations_; }
  int reorders() const override { return parts_.copies; }

 private:
  // Of a shortcut: to whose output its gradient goes, and what adds it to the gradient there.
  struct Done : BuiltLayer {
    std::size_t earlier = 0;  // layers that are built before; 0: the network's input
    std::function<Tensor(const Tensor& dy, const Tensor& there)> skip;
  };
  using Fused = std::optional<Activation>;

  bool own_dense(const PlacedLayer& p) const;
  bool own_convolution(const PlacedLayer& p, const Conv2d& l) const;
  BuiltLayer dense(const PlacedLayer& p, const Tensor& x, const Fused& a);
  BuiltLayer convolution(const PlacedLayer& p, const Conv2d& l, int pool, const Shape& out, const Tensor& x,
                         const Fused& a);
  BuiltLayer pooling(const PlacedLayer& p, bool max, int size, int stride, const Tensor& x, const Fused& a);
  BuiltLayer norm(const PlacedLayer& p, const BatchNorm& l, bool kept, const Tensor& x, const Tensor& added,
                  const Fused& a);
  BuiltLayer shortcut(const PlacedLayer& p, const Shape& from, const Tensor& x, const Tensor& earlier,
                      const Fused& a);
  std::function<Tensor(const Tensor&, const Tensor&)> skip(const Shape& from, const Shape& to);

  void step(Step s) { parts_.steps->push_back(std::move(s)); }
  Tensor make(Tensor::Layout layout, std::size_t size) { return parts_.make(layout, size); }
  float* floats(std::size_t n) { return reinterpret_cast<float*>(parts_.memory(n * sizeof(float))); }
  Tensor as(const Tensor& t, Tensor::Layout layout);
  Tensor as(const Tensor& t, const Tensor& wanted);
  void copy(const Tensor& from, const Tensor& to);
  void apply(Activation a, const Tensor& y);
  void undo(Activation a, const Tensor& y, const Tensor& dy);

  PlanParts parts_;
  std::unique_ptr<LayerLibrary> library_;  // or none
  Precision precision_;
  std::vector<Step> forward_, backward_, input_gradient_;  // the last only when the caller wants dx
  Tensor x_, logits_, dlogits_at_end_, dx_;
  int n_ = 0;                   // samples of this call
  bool given_ = false;          // moments_ are, in this call
  std::size_t normalised_ = 0;  // channels of the batch norms planned
  std::vector<std::string> implementations_;
};

CpuPlan::CpuPlan(const Network& net, int batch, Precision precision, bool with_library)
    : Plan(net, batch), precision_(precision) {
  parts_.batch = batch;
  parts_.steps = &forward_;
  parts_.uncounted = &input_gradient_;
  if (with_library) library_ = onednn::layers(parts_, precision);
  const auto layers = relu_after_pool(place(net));
  x_ = make(Tensor::rows, net.input.size());
  const auto begins = shortcut_begins(layers);
  std::vector<Done> done;
  std::vector<std::pair<Tensor, std::size_t>> inputs(layers.size());  // and how many are done before
  for (std::size_t k = 0; k < layers.size(); ++k) {
    const PlacedLayer& p = layers[k];
    const Tensor x = done.empty() ? x_ : done.back().y;
    inputs[k] = {x, done.size()};
    std::string name = to_string(p.spec);
    if (const auto a = activation(p.spec)) {
      const Tensor y = parts_.like(x);
      copy(x, y);
      apply(*a, y);
      done.push_back({{y, a, {}, [](const Tensor& dy) { return dy; }, ""}, 0, {}});
      implementations_.push_back(name + ": own kernel");
      continue;
    }
    const auto* shortcut_layer = std::get_if<Shortcut>(&p.spec);
    // One that adds an image as it is goes with the batch norm before.
    if (const auto* l = std::get_if<Shortcut>(k + 1 < layers.size() ? &layers[k + 1].spec : nullptr);
        l && std::get_if<BatchNorm>(&p.spec) && !begins[k + 1] && layers[k + 1 - l->back].in == p.out) {
      shortcut_layer = l;
      name += " + " + to_string(layers[++k].spec);
    }
    const std::size_t earlier = shortcut_layer ? k - shortcut_layer->back : k;
    const auto* conv = std::get_if<Conv2d>(&p.spec);
    const bool own_conv = conv && own_convolution(p, *conv);
    int pool = 1;  // of a max-pool that the convolution before it does by the way
    Shape out = p.out;
    if (const auto* l = std::get_if<MaxPool>(k + 1 < layers.size() ? &layers[k + 1].spec : nullptr);
        l && own_conv && l->size == l->stride && l->size < 16 && !l->ceil && !begins[k + 1]) {
      pool = l->size;
      out = layers[++k].out;
      name += " + " + to_string(layers[k].spec);
    }
    // The activation that follows is applied where the layer's output is written.
    const auto next = k + 1 < layers.size() && !begins[k + 1] ? activation(layers[k + 1].spec) : std::nullopt;
    if (next) name += " + " + to_string(layers[++k].spec);
    const auto add = [&](BuiltLayer built) {
      implementations_.push_back(name + ": " + built.implementation);
      done.push_back({std::move(built), 0, {}});
    };
    if (std::get_if<Dense>(&p.spec)) add(own_dense(p) ? dense(p, x, next) : library_->dense(p, x, next));
    if (conv)
      add(own_conv ? convolution(p, *conv, pool, out, x, next) : library_->convolution(p, *conv, x, next));
    if (const auto* l = std::get_if<BatchNorm>(&p.spec)) {
      const bool kept =
          shortcut_layer || (k + 1 < layers.size() && std::get_if<Shortcut>(&layers[k + 1].spec));
      add(norm(p, *l, kept, x, shortcut_layer ? inputs[earlier].first : Tensor(), next));
    }
    if (std::get_if<Shortcut>(&p.spec)) add(shortcut(p, layers[earlier].in, x, inputs[earlier].first, next));
    if (shortcut_layer) {
      done.back().earlier = inputs[earlier].second;
      done.back().skip = skip(layers[earlier].in, p.out);
    }
    if (const auto* l = std::get_if<MaxPool>(&p.spec)) add(pooling(p, true, l->size, l->stride, x, next));
    if (const auto* l = std::get_if<AvgPool>(&p.spec)) add(pooling(p, false, l->size, l->stride, x, next));
  }
  logits_ = as(done.back().y, Tensor::rows);

  Tensor dy = dlogits_at_end_ = make(Tensor::rows, classes_);
  const auto first = std::find_if(done.begin(), done.end(), [](const Done& b) { return bool(b.parameters); });
  std::vector<Tensor> skipping(done.size());  // gradients that shortcuts take to an earlier place
  const auto meet = [&](const Tensor& there, std::size_t place) {
    Tensor sum = there;
    for (std::size_t s = place; s < done.size(); ++s)
      if (done[s].skip && done[s].earlier == place) sum = done[s].skip(skipping[s], sum);
    return sum;
  };
  for (auto b = done.end(); b-- != done.begin();) {
    const std::size_t place = b - done.begin();
    parts_.steps = b >= first ? &backward_ : &input_gradient_;
    dy = meet(as(dy, b->y), place + 1);
    if (b->activation) undo(*b->activation, b->y, dy);
    if (b->parameters) b->parameters(dy);
    parts_.steps = b > first ? &backward_ : &input_gradient_;
    skipping[place] = dy;
    dy = b->data(dy);
    // What a shortcut keeps must not be changed by who comes next.
    const bool joined =
        std::any_of(done.begin(), done.end(), [&](const Done& d) { return d.skip && d.earlier == place; });
    if (b->skip && dy.data == skipping[place].data && (joined || (place > 0 && b[-1].activation))) {
      dy = parts_.like(b->y);
      copy(skipping[place], dy);
    }
  }
  dx_ = as(meet(dy, 0), Tensor::rows);
  parts_.make_scratch();
}

const float* CpuPlan::forward(ConstVec w, const float* x, int n, const Moments* given) {
  if (given) moments_ = *given;
  given_ = given;
  n_ = n;
  parts_.w = w.data;
  // Rows beyond n are zeros here and in the gradient at the end: they add nothing.
  std::copy_n(x, n * x_.size, x_.data);
  std::fill_n(x_.data + n * x_.size, (batch_ - n) * x_.size, 0.0f);
  for (const Step& s : parts_.before_forward) s();
  for (const Step& s : forward_) s();
  return logits_.data;
}

void CpuPlan::backward(ConstVec, const float* dlogits, int n, Vec g, float* dx) {
  parts_.g = g.data;
  std::copy_n(dlogits, std::size_t(n) * classes_, dlogits_at_end_.data);
  std::fill_n(dlogits_at_end_.data + std::size_t(n) * classes_, std::size_t(batch_ - n) * classes_, 0.0f);
  for (const Step& s : parts_.before_backward) s();
  for (const Step& s : backward_) s();
  if (!dx) return;
  for (const Step& s : input_gradient_) s();
  std::copy_n(dx_.data, n * dx_.size, dx);
}

bool CpuPlan::own_dense(const PlacedLayer& p) const {
  if (!library_) return true;
  const DenseProducts k{int(p.in.size()), p.out.channels, batch_};
  return precision_ == Precision::fp32 && whole_vectors(batch_) && k.faster();
}

BuiltLayer CpuPlan::dense(const PlacedLayer& p, const Tensor& input, const Fused& a) {
  const DenseProducts k{int(p.in.size()), p.out.channels, batch_, is_relu(a)};
  const std::size_t first = p.first, bias = p.first + p.weights;
  const Tensor x = as(input, Tensor::lanes), y = make(Tensor::lanes, k.units);
  step([=, &now = parts_] { k.forward(x.data, now.w + first, now.w + bias, y.data); });
  if (a && !k.relu) apply(*a, y);
  return {y, a,
          [=, this](const Tensor& dy) {
            const Tensor rows = as(input, Tensor::rows);
            step([=, &now = parts_] { k.weights(rows.data, dy.data, now.g + first, now.g + bias); });
          },
          [=, this](const Tensor& dy) {
            const Tensor dx = make(Tensor::lanes, k.inputs);
            step([=, &now = parts_] { k.data(now.w + first, dy.data, dx.data); });
            return dx;
          },
          fmt::format("own kernel {}", chwn_instructions())};
}

// Measured with AVX-512, AVX2 and less: without minimal filtering oneDNN's convolutions are the faster ones
// where channels and filters fill its vectors.
bool CpuPlan::own_convolution(const PlacedLayer& p, const Conv2d& l) const {
  if (!library_) return true;
  const bool full = p.in.channels % 16 == 0 && l.filters % 16 == 0;
  return whole_vectors(batch_) && (!full || minimal_filtering(p, l, batch_));
}

// The max-pool that follows is part of the convolution.
BuiltLayer CpuPlan::convolution(const PlacedLayer& p, const Conv2d& l, int pool, const Shape& out,
                                const Tensor& input, const Fused& a) {
  const bool relu = is_relu(a);
  const ChwnConv k{p.in.channels, p.in.height, p.in.width, l.filters, l.kernel,
                   l.stride,      l.pad,       batch_,     pool,      relu};
  const WinogradConv winograd{p.in.channels, p.in.height, p.in.width, l.filters, batch_, relu};
  const bool minimal = pool == 1 && minimal_filtering(p, l, batch_);
  const std::size_t first = p.first, bias = p.first + p.weights;
  // A convolution without bias has zeros, and nobody reads their gradient.
  float *const zeros = floats(p.bias ? 0 : l.filters), *const unread = floats(p.bias ? 0 : l.filters);
  Tensor x = as(input, Tensor::lanes);
  if (l.pad > 0 && !minimal) {
    const Tensor padded = make(Tensor::lanes, k.padded_size() / batch_);
    step([=] { k.padded(x.data, padded.data); });
    x = padded;
  }
  const Tensor y = make(Tensor::lanes, out.size());
  parts_.want_scratch((minimal ? winograd.scratch() : k.scratch()) * sizeof(float));
  const auto won = reinterpret_cast<std::uint8_t*>(parts_.memory(pool > 1 ? out.size() * batch_ : 0));
  step([=, &now = parts_] {
    const float *w = now.w + first, *b = l.bias ? now.w + bias : zeros;
    minimal ? winograd.forward(x.data, w, b, y.data, now.scratch_floats())
            : k.forward(x.data, w, b, y.data, won);
  });
  if (a && !relu) apply(*a, y);
  return {
      y, relu && pool > 1 ? std::nullopt : a,
      [=, this](const Tensor& dy) {
        step([=, &now = parts_] {
          float *dw = now.g + first, *db = l.bias ? now.g + bias : unread;
          minimal ? winograd.weights(x.data, dy.data, dw, db, now.scratch_floats())
                  : k.weights(x.data, dy.data, won, dw, db, now.scratch_floats());
        });
      },
      [=, this](const Tensor& dy) {
        const Tensor dx = make(Tensor::lanes, p.in.size()),
                     d = pool > 1 ? make(Tensor::lanes, p.out.size()) : dy;
        if (minimal) {
          step([=, &now = parts_] { winograd.data(now.w + first, dy.data, dx.data, now.scratch_floats()); });
          return dx;
        }
        if (pool > 1) step([=] { k.spread(dy.data, won, d.data); });
        // {filter, channel, kernel row and column} -> {kernel row and column, filter, channel}
        const std::size_t kernels = std::size_t(l.filters) * p.in.channels, places = l.kernel * l.kernel;
        float* const turned = floats(p.weights);
        parts_.copied();
        step([=, &now = parts_] { transpose(now.w + first, kernels, places, turned); });
        step([=] { k.data(turned, d.data, dx.data); });
        return dx;
      },
      fmt::format("own kernel {}{}", minimal ? "winograd " : "", chwn_instructions())};
}

BuiltLayer CpuPlan::pooling(const PlacedLayer& p, bool max, int size, int stride, const Tensor& input,
                            const Fused& a) {
  BuiltLayer built;
  if (library_ && input.layout != Tensor::lanes) {
    built = library_->pooling(p, max, size, stride, input);
  } else {
    if (max && size > ChwnPool::largest)
      throw std::invalid_argument(fmt::format(
          "max-pool {0}: windows are {0} x {0} (allowed: up to {1} x {1})", size, ChwnPool::largest));
    const ChwnPool k{p.in.channels, p.in.height, p.in.width, size, stride, p.out.height, p.out.width, batch_};
    const Tensor x = as(input, Tensor::lanes), y = make(Tensor::lanes, p.out.size());
    const auto won = reinterpret_cast<ChwnPool::Place*>(
        parts_.memory(max ? p.out.size() * batch_ * sizeof(ChwnPool::Place) : 0));
    step([=] { max ? k.max_forward(x.data, y.data, won) : k.mean_forward(x.data, y.data); });
    built = {y,
             {},
             {},
             [=, this](const Tensor& dy) {
               const Tensor dx = make(Tensor::lanes, x.size);
               step([=] { max ? k.max_backward(dy.data, won, dx.data) : k.mean_backward(dy.data, dx.data); });
               return dx;
             },
             "own kernel"};
  }
  if (a) apply(*a, built.y);
  built.activation = a;
  return built;
}

// One pass over each channel after the other, which stays in cache from its moments to its output. The
// gradient is changed in place unless it is `kept` for a shortcut. `added`: what a shortcut brings, or empty.
BuiltLayer CpuPlan::norm(const PlacedLayer& p, const BatchNorm& l, bool kept, const Tensor& input,
                         const Tensor& added_input, const Fused& a) {
  const bool relu = is_relu(a), alone = !added_input;
  const ChwnNorm k{p.in.channels, p.in.height * p.in.width, batch_, l.epsilon, relu},
      before{k.channels, k.pixels, k.lanes, k.epsilon, relu && alone};
  const std::size_t scale = p.first, shift = p.first + p.weights;
  const Tensor x = as(input, Tensor::lanes), y = make(Tensor::lanes, x.size);
  const Tensor added = alone ? Tensor() : as(added_input, Tensor::lanes);
  const Tensor apart = kept ? make(Tensor::lanes, x.size) : Tensor();
  const auto channels = [=, this, channel = normalised_] {
    return ChwnNorm::Channels{&moments_.mean[channel], &moments_.variance[channel], parts_.w + scale,
                              parts_.w + shift};
  };
  normalised_ += p.in.channels;
  step([=, this] { k.forward(x.data, n_, given_, channels(), added.data, y.data); });
  if (a && !relu) apply(*a, y);
  return {y, relu && alone ? std::nullopt : a,
          [=, this](const Tensor& dy) {
            const Tensor dx = kept ? apart : dy;
            step([=, this] {
              before.backward(x.data, dy.data, n_, channels(), dx.data, parts_.g + scale, parts_.g + shift);
            });
          },
          [=](const Tensor& dy) { return kept ? apart : dy; }, "own kernel"};
}

// Its gradient goes two ways: on, and by `skip`.
BuiltLayer CpuPlan::shortcut(const PlacedLayer& p, const Shape& from, const Tensor& input,
                             const Tensor& earlier_input, const Fused& a) {
  const bool relu = is_relu(a);
  const ChwnShortcut k{from, p.out, shortcut_stride(from, p.out), batch_, relu};
  const Tensor x = as(input, Tensor::lanes), y = make(Tensor::lanes, x.size),
               earlier = as(earlier_input, Tensor::lanes);
  step([=] { k.forward(x.data, earlier.data, y.data); });
  if (a && !relu) apply(*a, y);
  return {y, a, {}, [](const Tensor& dy) { return dy; }, "own kernel"};
}

std::function<Tensor(const Tensor&, const Tensor&)> CpuPlan::skip(const Shape& from, const Shape& to) {
  const ChwnShortcut k{from, to, shortcut_stride(from, to), batch_};
  return [=, this](const Tensor& dy, const Tensor& there) {
    const Tensor sum = as(there, Tensor::lanes);
    step([=] { k.backward(dy.data, sum.data); });
    return as(sum, there);
  };
}

// The same numbers in another layout.
Tensor CpuPlan::as(const Tensor& t, Tensor::Layout layout) {
  return as(t, Tensor{layout, nullptr, t.size, 0, {}});
}
Tensor CpuPlan::as(const Tensor& t, const Tensor& wanted) {
  if (t.layout == Tensor::library || wanted.layout == Tensor::library) return library_->as(t, wanted);
  if (t.layout == wanted.layout) return t;
  const Tensor to = make(wanted.layout, t.size);
  copy(t, to);
  return to;
}

void CpuPlan::copy(const Tensor& from, const Tensor& to) {
  parts_.copied();
  if (from.layout == to.layout) return step([=] { std::memcpy(to.data, from.data, from.bytes); });
  const std::size_t rows = from.layout == Tensor::rows ? batch_ : from.size,
                    columns = from.layout == Tensor::rows ? from.size : batch_;
  step([=] { transpose(from.data, rows, columns, to.data); });
}

void CpuPlan::apply(Activation a, const Tensor& y) {
  if (y.layout == Tensor::library) return library_->activate(a, y);
  step([=, n = y.size * batch_] { activate(a, y.data, n); });
}

// Turns dy, the gradient at the output y of an activation, into the one at its input, in place.
void CpuPlan::undo(Activation a, const Tensor& y, const Tensor& dy) {
  if (y.layout == Tensor::library) return library_->differentiate(a, y, dy);
  step([=, n = y.size * batch_] { differentiate(a, y.data, dy.data, n); });
}

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(Precision precision) : precision_(precision) {}
  const Space& space() const override { return host_space(); }
  std::unique_ptr<Plan> plan(const Network& net, int batch) override {
    // Where less than one half of the lanes is empty, and for layers that have only our own kernels.
    if (batch > 8 || !with_library_ || has<BatchNorm>(net) || has<Shortcut>(net))
      batch = (batch + vector_width - 1) / vector_width * vector_width;
    return std::make_unique<CpuPlan>(net, batch, precision_, with_library_);
  }
  // Some tens of images overflow the second-level cache; matrices are the better the larger. Batch norm needs
  // all samples at once.
  int piece(const Network& net, int batch) const override {
    return has<Conv2d>(net) && !has<BatchNorm>(net) ? std::min(batch, 32) : batch;
  }
  std::string library() const override { return with_library_ ? onednn::version() : "none"; }

 private:
  Precision precision_;
  bool with_library_ = onednn::missing().empty();
};

}  // namespace

std::string cpu_unavailable(Precision p) {
  if (p == Precision::tf32) return "TF32 is a format of GPUs";
  if (p == Precision::fp32) return "";
  if (const std::string why = onednn::missing(); !why.empty())
    return "bfloat16 products are oneDNN's: " + why;
  return onednn::has_bfloat16() ? "" : "this processor has no bfloat16 instructions (AVX512_BF16)";
}
std::string cpu_lacks() {
  const std::string why = onednn::missing();
  return why.empty() ? "" : "own kernels do every layer, some of which oneDNN does faster: " + why;
}
std::unique_ptr<Device> make_cpu(Precision p) { return std::make_unique<CpuDevice>(p); }

}  // namespace dsgd
