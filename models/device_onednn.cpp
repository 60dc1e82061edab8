#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <utility>

#include "models/chwn.h"
#include "models/dense.h"
#include "models/device.h"
#include "models/winograd.h"

namespace dsgd {
namespace {

using dnnl::algorithm;
using dnnl::memory;
using dnnl::prop_kind;
using Tag = memory::format_tag;
using Dims = memory::dims;

memory::desc floats(const Dims& dims, Tag tag) { return {dims, memory::data_type::f32, tag}; }
memory::desc plain(const Dims& dims) { return floats(dims, dims.size() == 2 ? Tag::nc : Tag::nchw); }
memory::desc innermost(const Dims& dims) { return floats(dims, dims.size() == 2 ? Tag::ba : Tag::chwn); }
memory::desc bytes(std::size_t n) { return {{memory::dim(n)}, memory::data_type::u8, Tag::x}; }

float* data(const memory& m) { return static_cast<float*>(m.get_data_handle()); }

void sum_rows(const float* from, memory::dim rows, memory::dim columns, float* to) {
  std::fill_n(to, columns, 0.0f);
  for (memory::dim i = 0; i < rows; ++i) {
    for (memory::dim j = 0; j < columns; ++j) to[j] += from[i * columns + j];
  }
}

// Which layout a primitive works with decides between its implementations, some of them very slow.
template <class PrimitiveDesc>
bool fast(const PrimitiveDesc& pd) {
  return std::string(pd.impl_info_str()).find("ref") == std::string::npos;
}

struct Activation {
  algorithm forward, backward;  // backward works from the outputs
};
std::optional<Activation> activation(const LayerSpec& spec) {
  if (std::get_if<Relu>(&spec)) return {{algorithm::eltwise_relu, algorithm::eltwise_relu_use_dst_for_bwd}};
  if (std::get_if<Sigmoid>(&spec)) {
    return {{algorithm::eltwise_logistic, algorithm::eltwise_logistic_use_dst_for_bwd}};
  }
  if (std::get_if<Tanh>(&spec)) return {{algorithm::eltwise_tanh, algorithm::eltwise_tanh_use_dst_for_bwd}};
  return std::nullopt;
}

bool is_relu(const std::optional<Activation>& a) { return a && a->forward == algorithm::eltwise_relu; }

dnnl::primitive_attr attributes(const std::optional<Activation>& fused = std::nullopt) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (fused) {
    dnnl::post_ops after;
    after.append_eltwise(1, fused->forward, 0, 0);
    attributes.set_post_ops(after);
  }
  return attributes;
}

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

// Whether images are better kept with the minibatch innermost, in vectors of 16 samples.
bool own_kernels(int batch) { return batch % 16 == 0; }

bool minimal_filtering(const PlacedLayer& p, const Conv2d& l, int batch) {
  const WinogradConv k{p.in.channels, p.in.height, p.in.width, l.filters, batch};
  return l.kernel == 3 && l.stride == 1 && l.pad == 1 && k.faster();
}
// Measured with AVX-512, AVX2 and less: without minimal filtering oneDNN's convolutions are the faster ones
// where channels and filters fill its vectors.
bool own_convolution(const PlacedLayer& p, const Conv2d& l, int batch) {
  const bool full = p.in.channels % 16 == 0 && l.filters % 16 == 0;
  return own_kernels(batch) && (!full || minimal_filtering(p, l, batch));
}

// The constructor walks over the layers, forward and back, and emits steps that are ready to run: primitives
// with their arguments, in the plan's own memory. Only w and g are the caller's; they are bound at every
// call.
class OnednnPlan final : public Plan {
 public:
  OnednnPlan(const Network& net, int batch, Precision precision, const dnnl::engine& engine);
  const float* forward(ConstVec w, const float* x, int n, const Moments* given) override;
  void backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx) override;
  std::vector<std::string> implementations() const override { return implementations_; }
  int reorders() const override { return reorders_; }

 private:
  using Steps = std::vector<std::function<void()>>;
  struct Bound {
    memory m;
    std::size_t first;  // element of the flat vector
  };
  // What is left to emit for a layer on the way back, given the gradient at its output.
  struct Backward {
    memory y;
    std::optional<Activation> activation;           // applied in place to y
    std::function<void(const memory&)> parameters;  // empty for layers without
    std::function<memory(const memory&)> data;      // returns the gradient at the layer's input
    // Of a shortcut: to whose output it goes, and what adds its share to the gradient there.
    std::size_t earlier = 0;  // layers whose `Backward` comes before; 0: the network's input
    std::function<memory(const memory& dy, const memory& there)> skip;
  };
  Backward dense(const PlacedLayer& p, const memory& x, const std::optional<Activation>& a);
  Backward own_dense(const PlacedLayer& p, const DenseProducts& k, const memory& x,
                     const std::optional<Activation>& a);
  Backward convolution(const PlacedLayer& p, const Conv2d& l, const memory& x,
                       const std::optional<Activation>& a);
  Backward chwn_convolution(const PlacedLayer& p, const Conv2d& l, int pool, const Shape& out,
                            const memory& x, const std::optional<Activation>& a);
  Backward chwn_pooling(const PlacedLayer& p, bool max, int size, int stride, const memory& x,
                        const std::optional<Activation>& a);
  Backward chwn_norm(const PlacedLayer& p, const BatchNorm& l, bool kept, const memory& x,
                     const memory& added, const std::optional<Activation>& a);
  Backward chwn_shortcut(const PlacedLayer& p, const Shape& earlier_shape, const memory& x,
                         const memory& earlier, const std::optional<Activation>& a);
  std::function<memory(const memory&, const memory&)> skip(const Shape& from, const Shape& to);
  Backward pooling(const PlacedLayer& p, algorithm kind, int size, int stride, const memory& x,
                   const std::optional<Activation>& a);
  Backward elementwise(const Activation& a, const memory& x, const memory& y);
  memory through(const Activation& a, const memory& y, const memory& dy);

  template <class Primitive>
  void emit(const typename Primitive::primitive_desc& pd, std::initializer_list<std::pair<int, memory>> args);
  memory make(const memory::desc& d);
  memory as(memory from, const memory::desc& wanted);
  void reorder(const memory& from, const memory& to);
  memory bind(std::vector<Bound>& to, const memory::desc& d, std::size_t first);
  memory bind_bias(std::vector<Bound>& to, const PlacedLayer& p);
  memory alias(const memory& m, const memory::desc& d) { return {d, engine_, m.get_data_handle()}; }
  void report(const std::string& forward, const std::string& weights, const std::string& data) {
    implementations_.back() +=
        ": forward " + forward + (weights.empty() ? "" : ", weights " + weights) + ", data " + data;
  }
  Dims dims(const Shape& s) const { return {batch_, s.channels, s.height, s.width}; }

  Precision precision_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  Steps forward_, backward_, input_gradient_;  // the last only when the caller wants dx
  Steps* steps_ = &forward_;                   // where emitted steps go
  memory x_, logits_, dlogits_at_end_, dx_;
  int n_ = 0;                   // samples of this call
  bool given_ = false;          // moments_ are, in this call
  std::size_t normalised_ = 0;  // channels of the batch norms planned
  std::vector<Bound> weights_, gradients_;
  std::vector<memory> kept_, scratch_;
  std::vector<std::string> implementations_;
  int reorders_ = 0;
};

OnednnPlan::OnednnPlan(const Network& net, int batch, Precision precision, const dnnl::engine& engine)
    : Plan(net, batch), precision_(precision), engine_(engine), stream_(engine) {
  const auto layers = relu_after_pool(place(net));
  x_ = make(plain(dims(net.input)));
  const auto begins = shortcut_begins(layers);
  std::vector<Backward> done;
  std::vector<std::pair<memory, std::size_t>> inputs(layers.size());  // and how many are done before
  for (std::size_t k = 0; k < layers.size(); ++k) {
    const PlacedLayer& p = layers[k];
    const memory x = done.empty() ? x_ : done.back().y;
    inputs[k] = {x, done.size()};
    implementations_.push_back(to_string(p.spec));
    if (const auto a = activation(p.spec)) {
      done.push_back(elementwise(*a, x, make(x.get_desc())));
      continue;
    }
    const auto* shortcut = std::get_if<Shortcut>(&p.spec);
    // One that adds an image as it is goes with the batch norm before.
    if (const auto* l = std::get_if<Shortcut>(k + 1 < layers.size() ? &layers[k + 1].spec : nullptr);
        l && std::get_if<BatchNorm>(&p.spec) && !begins[k + 1] && layers[k + 1 - l->back].in == p.out) {
      shortcut = l;
      implementations_.back() += " + " + to_string(layers[++k].spec);
    }
    const std::size_t earlier = shortcut ? k - shortcut->back : k;
    const auto* conv = std::get_if<Conv2d>(&p.spec);
    const bool own_conv = conv && own_convolution(p, *conv, batch_);
    int pool = 1;  // of a max-pool that the convolution before it does by the way
    Shape out = p.out;
    if (const auto* l = std::get_if<MaxPool>(k + 1 < layers.size() ? &layers[k + 1].spec : nullptr);
        l && own_conv && l->size == l->stride && l->size < 16 && !l->ceil && !begins[k + 1]) {
      pool = l->size;
      out = layers[++k].out;
      implementations_.back() += " + " + to_string(layers[k].spec);
    }
    // The activation that follows is applied where the layer's output is written.
    const auto next = k + 1 < layers.size() && !begins[k + 1] ? activation(layers[k + 1].spec) : std::nullopt;
    if (next) implementations_.back() += " + " + to_string(layers[++k].spec);
    const bool chwn = own_kernels(batch_) && x.get_desc() == innermost(dims(p.in));
    if (std::get_if<Dense>(&p.spec)) {
      const DenseProducts own{int(p.in.size()), p.out.channels, batch_, is_relu(next)};
      const bool whole = precision_ == Precision::fp32;
      done.push_back(whole && own_kernels(batch_) && own.faster() ? own_dense(p, own, x, next)
                                                                  : dense(p, x, next));
    }
    if (conv) {
      done.push_back(own_conv ? chwn_convolution(p, *conv, pool, out, x, next)
                              : convolution(p, *conv, x, next));
    }
    if (const auto* l = std::get_if<BatchNorm>(&p.spec)) {
      const bool kept = shortcut || (k + 1 < layers.size() && std::get_if<Shortcut>(&layers[k + 1].spec));
      done.push_back(chwn_norm(p, *l, kept, x, shortcut ? inputs[earlier].first : memory(), next));
    }
    if (std::get_if<Shortcut>(&p.spec))
      done.push_back(chwn_shortcut(p, layers[earlier].in, x, inputs[earlier].first, next));
    if (shortcut) {
      done.back().earlier = inputs[earlier].second;
      done.back().skip = skip(layers[earlier].in, p.out);
    }
    if (const auto* l = std::get_if<MaxPool>(&p.spec)) {
      done.push_back(chwn && l->size < 16 ? chwn_pooling(p, true, l->size, l->stride, x, next)
                                          : pooling(p, algorithm::pooling_max, l->size, l->stride, x, next));
    }
    if (const auto* l = std::get_if<AvgPool>(&p.spec)) {
      done.push_back(chwn ? chwn_pooling(p, false, l->size, l->stride, x, next)
                          : pooling(p, algorithm::pooling_avg_exclude_padding, l->size, l->stride, x, next));
    }
  }
  logits_ = as(done.back().y, plain({batch_, classes_}));

  memory dy = dlogits_at_end_ = make(logits_.get_desc());
  const auto first =
      std::find_if(done.begin(), done.end(), [](const Backward& b) { return bool(b.parameters); });
  std::vector<memory> skipping(done.size());  // gradients that shortcuts take to an earlier place
  const auto meet = [&](const memory& there, std::size_t place) {
    memory sum = there;
    for (std::size_t s = place; s < done.size(); ++s)
      if (done[s].skip && done[s].earlier == place) sum = done[s].skip(skipping[s], sum);
    return sum;
  };
  for (auto b = done.end(); b-- != done.begin();) {
    const std::size_t place = b - done.begin();
    steps_ = b >= first ? &backward_ : &input_gradient_;
    dy = meet(as(dy, b->y.get_desc()), place + 1);
    if (b->activation) dy = through(*b->activation, b->y, dy);
    if (b->parameters) b->parameters(dy);
    steps_ = b > first ? &backward_ : &input_gradient_;
    skipping[place] = dy;
    dy = b->data(dy);
    // What a shortcut keeps must not be changed by who comes next.
    const bool joined = std::any_of(done.begin(), done.end(),
                                    [&](const Backward& d) { return d.skip && d.earlier == place; });
    if (b->skip && dy.get() == skipping[place].get() && (joined || (place > 0 && b[-1].activation))) {
      dy = make(b->y.get_desc());
      reorder(skipping[place], dy);
    }
  }
  dx_ = as(meet(dy, 0), x_.get_desc());

  std::size_t most = 0;
  for (const auto& m : scratch_) most = std::max(most, m.get_desc().get_size());
  const memory shared = make(bytes(most));
  for (auto& m : scratch_) m.set_data_handle(shared.get_data_handle());
}

const float* OnednnPlan::forward(ConstVec w, const float* x, int n, const Moments* given) {
  if (given) moments_ = *given;
  given_ = given;
  n_ = n;
  // Rows beyond n are zeros here and in the gradient at the end: they add nothing.
  const std::size_t row = x_.get_desc().get_size() / batch_;
  auto* to = static_cast<std::byte*>(x_.get_data_handle());
  std::memcpy(to, x, n * row);
  std::memset(to + n * row, 0, (batch_ - n) * row);
  for (auto& b : weights_) b.m.set_data_handle(const_cast<float*>(w.data + b.first));
  for (const auto& step : forward_) step();
  return static_cast<const float*>(logits_.get_data_handle());
}

void OnednnPlan::backward(ConstVec, const float* dlogits, int n, Vec g, float* dx) {
  const std::size_t row = classes_ * sizeof(float);
  auto* to = static_cast<std::byte*>(dlogits_at_end_.get_data_handle());
  std::memcpy(to, dlogits, n * row);
  std::memset(to + n * row, 0, (batch_ - n) * row);
  for (auto& b : gradients_) b.m.set_data_handle(g.data + b.first);
  for (const auto& step : backward_) step();
  if (!dx) return;
  for (const auto& step : input_gradient_) step();
  std::memcpy(dx, dx_.get_data_handle(), n * (dx_.get_desc().get_size() / batch_));
}

// Products with the flat vector's own matrices, {units, inputs}, or with a copy of them in bfloat16. oneDNN's
// inner product gains less by blocked weights than their reorders cost, and with plain ones it allocates at
// every call.
OnednnPlan::Backward OnednnPlan::dense(const PlacedLayer& p, const memory& input,
                                       const std::optional<Activation>& a) {
  using dnnl::matmul;
  const memory::dim rows = batch_, inputs = memory::dim(p.in.size()), units = p.out.channels;
  const auto type = precision_ == Precision::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const auto matrix = [&](memory::dim m, memory::dim n, Tag tag = Tag::ab) {
    return memory::desc({m, n}, type, tag);
  };
  const auto canonical = plain({units, inputs}), bd = plain({1, units});
  const auto xd = matrix(rows, inputs), yd = matrix(rows, units), wd = matrix(units, inputs);
  const matmul::primitive_desc f({xd, matrix(inputs, units, Tag::ba), bd, yd}, attributes(a), engine_);
  const matmul::primitive_desc g({matrix(units, rows, Tag::ba), xd, canonical}, attributes(), engine_);
  const matmul::primitive_desc d({yd, wd, xd}, attributes(), engine_);
  report(f.impl_info_str(), g.impl_info_str(), d.impl_info_str());
  const memory x = as(input, xd), y = make(yd);
  const std::size_t first = p.first, bias = p.first + p.weights;
  const memory copied = as(bind(weights_, canonical, first), wd);
  const auto weights = [=, this](const memory::desc& as_desc) {
    return wd == canonical ? bind(weights_, as_desc, first) : alias(copied, as_desc);
  };
  emit<matmul>(f, {{DNNL_ARG_SRC, x},
                   {DNNL_ARG_WEIGHTS, weights(f.weights_desc())},
                   {DNNL_ARG_BIAS, bind(weights_, bd, bias)},
                   {DNNL_ARG_DST, y}});
  return {y, a,
          [=, this](const memory& dy) {
            emit<matmul>(g, {{DNNL_ARG_SRC, alias(dy, g.src_desc())},
                             {DNNL_ARG_WEIGHTS, x},
                             {DNNL_ARG_DST, bind(gradients_, canonical, first)}});
            const memory db = bind(gradients_, bd, bias), whole = as(dy, plain({rows, units}));
            steps_->push_back([=] { sum_rows(data(whole), rows, units, data(db)); });
          },
          [=, this](const memory& dy) {
            const memory dx = make(xd);
            emit<matmul>(d, {{DNNL_ARG_SRC, dy}, {DNNL_ARG_WEIGHTS, weights(wd)}, {DNNL_ARG_DST, dx}});
            return dx;
          }};
}

OnednnPlan::Backward OnednnPlan::own_dense(const PlacedLayer& p, const DenseProducts& k, const memory& input,
                                           const std::optional<Activation>& a) {
  const auto xd = innermost({batch_, k.inputs});
  const std::size_t first = p.first, bias = p.first + p.weights;
  const auto wd = plain({k.units, k.inputs}), bd = plain({1, k.units});
  const memory w = bind(weights_, wd, first), b = bind(weights_, bd, bias);
  const memory x = as(input, xd), y = make(innermost({batch_, k.units}));
  report(fmt::format("own kernel {}", chwn_instructions()), "own kernel", "own kernel");
  steps_->push_back([=] { k.forward(data(x), data(w), data(b), data(y)); });
  if (a && !k.relu) elementwise(*a, y, y);
  return {y, a,
          [=, this](const memory& dy) {
            const memory rows = as(input, plain({batch_, k.inputs})), dw = bind(gradients_, wd, first),
                         db = bind(gradients_, bd, bias);
            steps_->push_back([=] { k.weights(data(rows), data(dy), data(dw), data(db)); });
          },
          [=, this](const memory& dy) {
            const memory dx = make(xd);
            steps_->push_back([=] { k.data(data(w), data(dy), data(dx)); });
            return dx;
          }};
}

OnednnPlan::Backward OnednnPlan::convolution(const PlacedLayer& p, const Conv2d& l, const memory& input,
                                             const std::optional<Activation>& a) {
  using Forward = dnnl::convolution_forward;
  using Weights = dnnl::convolution_backward_weights;
  using Data = dnnl::convolution_backward_data;
  const auto direct = algorithm::convolution_direct;
  const Dims kernels{l.filters, p.in.channels, l.kernel, l.kernel}, strides{l.stride, l.stride},
      pad{l.pad, l.pad};
  const auto wd = floats(kernels, Tag::any), bd = floats({l.filters}, Tag::x);
  // Channels last is the fastest layout unless there are next to no channels; `any` is what oneDNN would
  // take. A layout that suits no fast implementation ends in oneDNN's reference loops, a thousand times
  // slower.
  const bool image = p.in.channels < 4;
  Forward::primitive_desc f;
  Weights::primitive_desc g;
  for (const Tag tag : {image ? Tag::any : Tag::nhwc, image ? Tag::nhwc : Tag::any, Tag::nchw}) {
    const auto xd = floats(dims(p.in), tag), yd = floats(dims(p.out), tag);
    f = {{prop_kind::forward_training, direct, xd, wd, bd, yd, strides, pad, pad}, attributes(a), engine_};
    g = {{direct, f.src_desc(), wd, bd, f.dst_desc(), strides, pad, pad}, attributes(), engine_, f};
    if (fast(f) && fast(g)) break;
  }
  Data::primitive_desc d({direct, f.src_desc(), wd, f.dst_desc(), strides, pad, pad}, attributes(), engine_,
                         f);
  for (const Tag tag : {Tag::nhwc, Tag::nchw}) {
    if (fast(d)) break;
    const auto xd = floats(dims(p.in), tag), yd = floats(dims(p.out), tag);
    d = {{direct, xd, wd, yd, strides, pad, pad}, attributes(), engine_, f};
  }
  report(f.impl_info_str(), g.impl_info_str(), d.impl_info_str());
  const memory x = as(input, f.src_desc()), y = make(f.dst_desc()),
               w = bind(weights_, plain(kernels), p.first);
  const std::size_t first = p.first;
  emit<Forward>(f, {{DNNL_ARG_SRC, x},
                    {DNNL_ARG_WEIGHTS, as(w, f.weights_desc())},
                    {DNNL_ARG_BIAS, bind_bias(weights_, p)},
                    {DNNL_ARG_DST, y}});
  return {y, a,
          [=, this](const memory& dy) {
            const memory canonical = bind(gradients_, plain(kernels), first);
            const memory dw =
                g.diff_weights_desc() == plain(kernels) ? canonical : make(g.diff_weights_desc());
            emit<Weights>(g, {{DNNL_ARG_SRC, x},
                              {DNNL_ARG_DIFF_DST, dy},
                              {DNNL_ARG_DIFF_WEIGHTS, dw},
                              {DNNL_ARG_DIFF_BIAS, bind_bias(gradients_, p)}});
            reorder(dw, canonical);
          },
          [=, this](const memory& dy) {
            const memory dx = make(d.diff_src_desc());
            emit<Data>(d, {{DNNL_ARG_DIFF_DST, as(dy, d.diff_dst_desc())},
                           {DNNL_ARG_WEIGHTS, as(w, d.weights_desc())},
                           {DNNL_ARG_DIFF_SRC, dx}});
            return dx;
          }};
}

// Our own kernels, whose vectors are full whatever the number of channels. The max-pool that follows is part
// of the convolution.
OnednnPlan::Backward OnednnPlan::chwn_convolution(const PlacedLayer& p, const Conv2d& l, int pool,
                                                  const Shape& out, const memory& input,
                                                  const std::optional<Activation>& a) {
  const bool relu = is_relu(a);
  const ChwnConv k{p.in.channels, p.in.height, p.in.width, l.filters, l.kernel,
                   l.stride,      l.pad,       batch_,     pool,      relu};
  const WinogradConv winograd{p.in.channels, p.in.height, p.in.width, l.filters, batch_, relu};
  const bool minimal = pool == 1 && minimal_filtering(p, l, batch_);
  const auto pixels = innermost(dims(p.in)), outputs = innermost(dims(p.out));
  const Dims kernels{l.filters, p.in.channels, l.kernel, l.kernel};
  const std::size_t first = p.first;
  const memory w = bind(weights_, plain(kernels), first), b = bind_bias(weights_, p);
  memory x = as(input, pixels);
  if (l.pad > 0 && !minimal) {
    const memory padded = make(bytes(k.padded_size() * sizeof(float)));
    steps_->push_back([=] { k.padded(data(x), data(padded)); });
    x = padded;
  }
  const memory y = make(innermost(dims(out)));
  const std::size_t room = minimal ? winograd.scratch() : k.scratch();
  const memory scratch = scratch_.emplace_back(bytes(room * sizeof(float)), engine_, nullptr);
  const memory winners = make(bytes(pool > 1 ? out.size() * batch_ : 0));
  const auto won = static_cast<std::uint8_t*>(winners.get_data_handle());
  report(fmt::format("own kernel {}{}", minimal ? "winograd " : "", chwn_instructions()), "own kernel",
         "own kernel");
  steps_->push_back([=] {
    minimal ? winograd.forward(data(x), data(w), data(b), data(y), data(scratch))
            : k.forward(data(x), data(w), data(b), data(y), won);
  });
  if (a && !relu) elementwise(*a, y, y);
  return {y, relu && pool > 1 ? std::nullopt : a,
          [=, this](const memory& dy) {
            const memory dw = bind(gradients_, plain(kernels), first), db = bind_bias(gradients_, p);
            steps_->push_back([=] {
              minimal ? winograd.weights(data(x), data(dy), data(dw), data(db), data(scratch))
                      : k.weights(data(x), data(dy), won, data(dw), data(db), data(scratch));
            });
          },
          [=, this](const memory& dy) {
            const memory dx = make(pixels), d = pool > 1 ? make(outputs) : dy;
            if (minimal) {
              steps_->push_back([=] { winograd.data(data(w), data(dy), data(dx), data(scratch)); });
              return dx;
            }
            if (pool > 1) steps_->push_back([=] { k.spread(data(dy), won, data(d)); });
            const memory::dim C = p.in.channels, K = l.kernel;
            const memory turned =
                as(w, {kernels, memory::data_type::f32, Dims{C, 1, K * l.filters * C, l.filters * C}});
            steps_->push_back([=] { k.data(data(turned), data(d), data(dx)); });
            return dx;
          }};
}

OnednnPlan::Backward OnednnPlan::chwn_pooling(const PlacedLayer& p, bool max, int size, int stride,
                                              const memory& x, const std::optional<Activation>& a) {
  const ChwnPool k{p.in.channels, p.in.height, p.in.width, size, stride, p.out.height, p.out.width, batch_};
  const memory y = make(innermost(dims(p.out))), winners = make(bytes(max ? p.out.size() * batch_ : 0));
  const auto won = static_cast<std::uint8_t*>(winners.get_data_handle());
  report("own kernel", "", "own kernel");
  steps_->push_back([=] { max ? k.max_forward(data(x), data(y), won) : k.mean_forward(data(x), data(y)); });
  if (a) elementwise(*a, y, y);
  return {y, a, {}, [=, this](const memory& dy) {
            const memory dx = make(x.get_desc());
            steps_->push_back(
                [=] { max ? k.max_backward(data(dy), won, data(dx)) : k.mean_backward(data(dy), data(dx)); });
            return dx;
          }};
}

// One pass over each channel after the other, which stays in cache from its moments to its output. The
// gradient is changed in place unless it is `kept` for a shortcut. `added`: what a shortcut brings, or empty.
OnednnPlan::Backward OnednnPlan::chwn_norm(const PlacedLayer& p, const BatchNorm& l, bool kept,
                                           const memory& input, const memory& added_input,
                                           const std::optional<Activation>& a) {
  const bool relu = is_relu(a), alone = !added_input;
  const ChwnNorm k{p.in.channels, p.in.height * p.in.width, batch_, l.epsilon, relu},
      before{k.channels, k.pixels, k.lanes, k.epsilon, relu && alone};
  const auto per_channel = plain({1, p.in.channels});
  const std::size_t first = p.first, second = p.first + p.weights;
  const memory x = as(input, innermost(dims(p.in))), y = make(x.get_desc());
  const memory added = alone ? memory() : as(added_input, x.get_desc());
  const memory apart = kept ? make(x.get_desc()) : memory();
  const memory scale = bind(weights_, per_channel, first), shift = bind(weights_, per_channel, second);
  const auto channels = [=, this, channel = normalised_] {
    return ChwnNorm::Channels{&moments_.mean[channel], &moments_.variance[channel], data(scale), data(shift)};
  };
  normalised_ += p.in.channels;
  report("own kernel", "own kernel", "own kernel");
  steps_->push_back(
      [=, this] { k.forward(data(x), n_, given_, channels(), alone ? nullptr : data(added), data(y)); });
  if (a && !relu) elementwise(*a, y, y);
  return {y, relu && alone ? std::nullopt : a,
          [=, this](const memory& dy) {
            const memory dx = kept ? apart : dy, dscale = bind(gradients_, per_channel, first),
                         dshift = bind(gradients_, per_channel, second);
            steps_->push_back([=, this] {
              before.backward(data(x), data(dy), n_, channels(), data(dx), data(dscale), data(dshift));
            });
          },
          [=](const memory& dy) { return kept ? apart : dy; }};
}

// Its gradient goes two ways: on, and by `skip`.
OnednnPlan::Backward OnednnPlan::chwn_shortcut(const PlacedLayer& p, const Shape& from, const memory& input,
                                               const memory& earlier_input,
                                               const std::optional<Activation>& a) {
  const bool relu = is_relu(a);
  const ChwnShortcut k{from, p.out, shortcut_stride(from, p.out), batch_, relu};
  const memory x = as(input, innermost(dims(p.out))), y = make(x.get_desc()),
               earlier = as(earlier_input, innermost(dims(from)));
  report("own kernel", "", "own kernel");
  steps_->push_back([=] { k.forward(data(x), data(earlier), data(y)); });
  if (a && !relu) elementwise(*a, y, y);
  return {y, a, {}, [](const memory& dy) { return dy; }};
}

std::function<memory(const memory&, const memory&)> OnednnPlan::skip(const Shape& from, const Shape& to) {
  const ChwnShortcut k{from, to, shortcut_stride(from, to), batch_};
  return [=, this](const memory& dy, const memory& there) {
    const memory sum = as(there, innermost(dims(from)));
    steps_->push_back([=] { k.backward(data(dy), data(sum)); });
    return as(sum, there.get_desc());
  };
}

OnednnPlan::Backward OnednnPlan::pooling(const PlacedLayer& p, algorithm kind, int size, int stride,
                                         const memory& input, const std::optional<Activation>& a) {
  using Forward = dnnl::pooling_forward;
  using Data = dnnl::pooling_backward;
  const Dims window{size, size}, strides{stride, stride}, none{0, 0};
  const Dims beyond{(p.out.height - 1) * stride + size - p.in.height,  // negative: left out
                    (p.out.width - 1) * stride + size - p.in.width};
  const memory x = input.get_desc().dims().size() == 4 ? input : as(input, plain(dims(p.in)));
  const auto xd = x.get_desc();
  const Forward::primitive_desc f(
      {prop_kind::forward_training, kind, xd, floats(dims(p.out), Tag::any), strides, window, none, beyond},
      attributes(), engine_);
  const Data::primitive_desc d({kind, xd, f.dst_desc(), strides, window, none, beyond}, attributes(), engine_,
                               f);
  report(f.impl_info_str(), "", d.impl_info_str());
  const memory y = make(f.dst_desc());
  const memory largest = kind == algorithm::pooling_max ? make(f.workspace_desc()) : memory();
  emit<Forward>(f, {{DNNL_ARG_SRC, x}, {DNNL_ARG_DST, y}, {DNNL_ARG_WORKSPACE, largest}});
  if (a) elementwise(*a, y, y);
  return {y, a, {}, [=, this](const memory& dy) {
            const memory dx = make(xd);
            emit<Data>(d, {{DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_SRC, dx}, {DNNL_ARG_WORKSPACE, largest}});
            return dx;
          }};
}

OnednnPlan::Backward OnednnPlan::elementwise(const Activation& a, const memory& x, const memory& y) {
  using Forward = dnnl::eltwise_forward;
  emit<Forward>({{prop_kind::forward_training, a.forward, x.get_desc()}, attributes(), engine_},
                {{DNNL_ARG_SRC, x}, {DNNL_ARG_DST, y}});
  return {y, a, {}, [](const memory& dy) { return dy; }};
}

// Turns dy, the gradient at the output y of an activation, into the one at its input, in place.
memory OnednnPlan::through(const Activation& a, const memory& y, const memory& dy) {
  using Forward = dnnl::eltwise_forward;
  using Data = dnnl::eltwise_backward;
  const auto d = y.get_desc();
  const Forward::primitive_desc f({prop_kind::forward_training, a.backward, d}, attributes(), engine_);
  emit<Data>({{a.backward, d, d}, attributes(), engine_, f},
             {{DNNL_ARG_DST, y}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_SRC, dy}});
  return dy;
}

template <class Primitive>
void OnednnPlan::emit(const typename Primitive::primitive_desc& pd,
                      std::initializer_list<std::pair<int, memory>> args) {
  std::vector<dnnl_exec_arg_t> list;
  for (const auto& [index, m] : args) {
    if (!m) continue;
    kept_.push_back(m);
    list.push_back({index, m.get()});
  }
  if (const auto d = pd.scratchpad_desc(); d.get_size() > 0) {
    scratch_.emplace_back(d, engine_, nullptr);
    list.push_back({DNNL_ARG_SCRATCHPAD, scratch_.back().get()});
  }
  // The C function: the C++ one builds such a list at every call.
  steps_->push_back([this, primitive = Primitive(pd), list = std::move(list)] {
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(primitive.get(), stream_.get(), int(list.size()), list.data()),
        "oneDNN could not run a layer");
  });
}

memory OnednnPlan::make(const memory::desc& d) {
  memory m(d, engine_);
  if (d.get_size() > 0) std::memset(m.get_data_handle(), 0, d.get_size());
  kept_.push_back(m);
  return m;
}

// The same elements in another layout: the one place that decides on reorders. Rows {N, CHW} and images
// {N, C, H, W} share the plain layout and the one with the minibatch innermost.
memory OnednnPlan::as(memory from, const memory::desc& wanted) {
  const Dims before = from.get_desc().dims();
  if (before != wanted.dims()) {
    const auto layout = from.get_desc() == innermost(before) ? innermost : plain;
    from = alias(as(from, layout(before)), layout(wanted.dims()));
  }
  if (from.get_desc() == wanted) return from;
  const memory to = make(wanted);
  reorder(from, to);
  return to;
}

void OnednnPlan::reorder(const memory& from, const memory& to) {
  if (from.get() == to.get()) return;
  if (steps_ != &input_gradient_) ++reorders_;
  emit<dnnl::reorder>({engine_, from.get_desc(), engine_, to.get_desc(), attributes()},
                      {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

memory OnednnPlan::bind(std::vector<Bound>& to, const memory::desc& d, std::size_t first) {
  to.push_back({memory(d, engine_, nullptr), first});
  return to.back().m;
}

// A convolution without has zeros, and nobody reads their gradient.
memory OnednnPlan::bind_bias(std::vector<Bound>& to, const PlacedLayer& p) {
  const auto d = floats({p.out.channels}, Tag::x);
  return p.bias ? bind(to, d, p.first + p.weights) : make(d);
}

class OnednnDevice final : public Device {
 public:
  explicit OnednnDevice(Precision precision) : precision_(precision) {}
  const Space& space() const override { return host_space(); }
  std::unique_ptr<Plan> plan(const Network& net, int batch) override {
    omp_set_num_threads(1);  // a rank is one thread; oneDNN plans for as many as there are at this moment
    // Where less than one half of the lanes is empty, and for layers that have only our own kernels.
    if (batch > 8 || has<BatchNorm>(net) || has<Shortcut>(net)) batch = (batch + 15) / 16 * 16;
    return std::make_unique<OnednnPlan>(net, batch, precision_, engine_);
  }
  // Some tens of images overflow the second-level cache; matrices are the better the larger. Batch norm needs
  // all samples at once.
  int piece(const Network& net, int batch) const override {
    return images(net) && !has<BatchNorm>(net) ? std::min(batch, 32) : batch;
  }
  std::string library() const override {
    const auto* v = dnnl::version();
    return fmt::format("oneDNN {}.{}.{}", v->major, v->minor, v->patch);
  }

 private:
  template <class Layer>
  static bool has(const Network& net) {
    return std::any_of(net.layers.begin(), net.layers.end(),
                       [](const LayerSpec& l) { return std::get_if<Layer>(&l) != nullptr; });
  }
  static bool images(const Network& net) { return has<Conv2d>(net); }
  Precision precision_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
};

}  // namespace

std::string onednn_unavailable(Precision p) {
  if (p == Precision::tf32) return "TF32 is a format of GPUs";
  const auto needed = unsigned(dnnl::cpu_isa::avx512_core_bf16);
  if (p == Precision::fp32 || (unsigned(dnnl::get_effective_cpu_isa()) & needed) == needed) return "";
  return "this processor has no bfloat16 instructions (AVX512_BF16)";
}
std::unique_ptr<Device> make_onednn(Precision p) { return std::make_unique<OnednnDevice>(p); }

}  // namespace dsgd
