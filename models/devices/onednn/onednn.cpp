// SPDX-License-Identifier: Apache-2.0
#include "devices/onednn/onednn.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "devices/onednn/versions.h"

namespace dsgd::onednn {
namespace {

using dnnl::algorithm;
using dnnl::prop_kind;
using Tag = memory::format_tag;

memory::desc floats(const Dims& dims, Tag tag) { return {dims, memory::data_type::f32, tag}; }
memory::desc plain(const Dims& dims) { return floats(dims, dims.size() == 2 ? Tag::nc : Tag::nchw); }
memory::desc innermost(const Dims& dims) { return floats(dims, dims.size() == 2 ? Tag::ba : Tag::chwn); }

// Which layout a primitive works with decides between its implementations, some of them very slow.
template <class PrimitiveDesc>
bool fast(const PrimitiveDesc& pd) {
  return std::string(pd.impl_info_str()).find("ref") == std::string::npos;
}

algorithm forward_of(Activation a) {
  return a == Activation::relu      ? algorithm::eltwise_relu
         : a == Activation::sigmoid ? algorithm::eltwise_logistic
                                    : algorithm::eltwise_tanh;
}
algorithm backward_of(Activation a) {  // works from the outputs
  return a == Activation::relu      ? algorithm::eltwise_relu_use_dst_for_bwd
         : a == Activation::sigmoid ? algorithm::eltwise_logistic_use_dst_for_bwd
                                    : algorithm::eltwise_tanh_use_dst_for_bwd;
}

dnnl::primitive_attr attributes(const std::optional<Activation>& fused = std::nullopt) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (fused) {
    dnnl::post_ops after;
    append(after, forward_of(*fused));
    attributes.set_post_ops(after);
  }
  return attributes;
}

void sum_rows(const float* from, memory::dim rows, memory::dim columns, float* to) {
  std::fill_n(to, columns, 0.0f);
  for (memory::dim i = 0; i < rows; ++i) {
    for (memory::dim j = 0; j < columns; ++j) to[j] += from[i * columns + j];
  }
}

class Layers final : public LayerLibrary {
 public:
  Layers(PlanParts& parts, Precision precision) : parts_(parts), precision_(precision) {
    omp_set_num_threads(1);  // a rank is one thread; oneDNN plans for as many as there are at this moment
    parts.before_forward.push_back([this] {
      for (const Bound& b : weights_) b.m.set_data_handle(const_cast<float*>(parts_.w + b.first));
      for (const memory& m : scratch_) m.set_data_handle(parts_.scratch);
      scratch_.clear();  // it stays where it is
    });
    parts.before_backward.push_back([this] {
      for (const Bound& b : gradients_) b.m.set_data_handle(parts_.g + b.first);
    });
  }

  BuiltLayer dense(const PlacedLayer& p, const Tensor& x, const std::optional<Activation>& a) override;
  BuiltLayer convolution(const PlacedLayer& p, const Conv2d& l, const Tensor& x,
                         const std::optional<Activation>& a) override;
  BuiltLayer pooling(const PlacedLayer& p, bool max, int size, int stride, const Tensor& x) override;
  void activate(Activation a, const Tensor& y) override {
    const memory::desc d = described(y);
    const auto pd = plainly_.eltwise(forward_of(a), d);
    emit<dnnl::eltwise_forward>(pd, {{DNNL_ARG_SRC, of(y)}, {DNNL_ARG_DST, of(y)}});
  }
  void differentiate(Activation a, const Tensor& y, const Tensor& dy) override {
    const auto pd = plainly_.eltwise_back(backward_of(a), described(y));
    emit<dnnl::eltwise_backward>(
        pd, {{DNNL_ARG_DST, of(y)}, {DNNL_ARG_DIFF_DST, of(dy)}, {DNNL_ARG_DIFF_SRC, of(dy)}});
  }
  Tensor as(const Tensor& x, const Tensor& wanted) override {
    if (wanted.layout == Tensor::library) return as(x, described(wanted));
    const Dims dims = dims_of(described(x));
    return as(x, wanted.layout == Tensor::rows ? plain(dims) : innermost(dims));
  }

 private:
  struct Bound {
    memory m;
    std::size_t first;  // element of the flat vector
  };

  Dims dims(const Shape& s) const { return {parts_.batch, s.channels, s.height, s.width}; }

  // Rows and lanes are one layout whatever the shape of a sample; `shape` says which description is wanted.
  memory::desc described(const Tensor& t, Dims shape = {}) const {
    if (t.layout == Tensor::library) return *static_cast<const memory::desc*>(t.description.get());
    if (shape.empty()) shape = {parts_.batch, memory::dim(t.size)};
    return t.layout == Tensor::rows ? plain(shape) : innermost(shape);
  }
  memory of(const Tensor& t, const Dims& shape = {}) const { return {described(t, shape), engine_, t.data}; }
  memory of(const Tensor& t, const memory::desc& as_desc) const { return {as_desc, engine_, t.data}; }

  memory room(const memory::desc& d) { return {d, engine_, parts_.memory(d.get_size())}; }
  Tensor make(const memory::desc& d) {
    const Dims shape = dims_of(d);
    std::size_t size = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) size *= std::size_t(shape[i]);
    const std::size_t bytes = d.get_size();
    auto* const data = reinterpret_cast<float*>(parts_.memory(bytes));
    if (d == plain(shape)) return {Tensor::rows, data, size, bytes, nullptr};
    if (d == innermost(shape)) return {Tensor::lanes, data, size, bytes, nullptr};
    return {Tensor::library, data, size, bytes, std::make_shared<memory::desc>(d)};
  }

  // The same numbers in another layout.
  Tensor as(const Tensor& x, const memory::desc& wanted) {
    const Dims shape = dims_of(wanted);
    if (x.layout == Tensor::library && dims_of(described(x)) != shape)
      return as(as(x, plain(dims_of(described(x)))), wanted);
    const memory::desc is = described(x, shape);
    if (is == wanted) return x;
    const Tensor to = make(wanted);
    copy(of(x, is), of(to, wanted));
    return to;
  }
  void copy(const memory& from, const memory& to) {
    parts_.copied();
    const dnnl::reorder::primitive_desc pd(engine_, from.get_desc(), engine_, to.get_desc(), plain_);
    emit<dnnl::reorder>(pd, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  }

  memory bind(std::vector<Bound>& to, const memory::desc& d, std::size_t first) {
    to.push_back({memory(d, engine_, nullptr), first});
    return to.back().m;
  }
  // A convolution without has zeros, and nobody reads their gradient.
  memory bind_bias(std::vector<Bound>& to, const PlacedLayer& p) {
    const auto d = floats({p.out.channels}, Tag::x);
    return p.bias ? bind(to, d, p.first + p.weights) : room(d);
  }

  template <class Primitive>
  void emit(const typename Primitive::primitive_desc& pd,
            std::initializer_list<std::pair<int, memory>> arguments) {
    std::vector<dnnl_exec_arg_t> list;
    std::vector<memory> kept;
    for (const auto& [index, m] : arguments) {
      if (!m) continue;
      kept.push_back(m);
      list.push_back({index, m.get()});
    }
    if (const auto d = pd.scratchpad_desc(); d.get_size() > 0) {
      parts_.want_scratch(d.get_size());
      scratch_.emplace_back(d, engine_, nullptr);
      kept.push_back(scratch_.back());
      list.push_back({DNNL_ARG_SCRATCHPAD, kept.back().get()});
    }
    // The C function: the C++ one builds such a list at every call.
    parts_.steps->push_back(
        [this, primitive = Primitive(pd), list = std::move(list), kept = std::move(kept)] {
          dnnl::error::wrap_c_api(
              dnnl_primitive_execute(primitive.get(), stream_.get(), int(list.size()), list.data()),
              "oneDNN could not run a layer");
        });
  }

  PlanParts& parts_;
  Precision precision_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::primitive_attr plain_ = attributes();
  Describe plainly_{engine_, plain_};
  std::vector<Bound> weights_, gradients_;
  std::vector<memory> scratch_;
};

std::string report(const char* forward, const char* weights, const char* data) {
  return fmt::format("forward {}{}{}, data {}", forward, *weights ? ", weights " : "", weights, data);
}

// Products with the flat vector's own matrices, {units, inputs}, or with a copy of them in bfloat16. oneDNN's
// inner product gains less by blocked weights than their reorders cost, and with plain ones it allocates at
// every call.
BuiltLayer Layers::dense(const PlacedLayer& p, const Tensor& input, const std::optional<Activation>& a) {
  using dnnl::matmul;
  const memory::dim rows = parts_.batch, inputs = memory::dim(p.in.size()), units = p.out.channels;
  const auto type = precision_ == Precision::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const auto matrix = [&](memory::dim m, memory::dim n, Tag tag = Tag::ab) {
    return memory::desc({m, n}, type, tag);
  };
  const auto canonical = plain({units, inputs}), bd = plain({1, units});
  const auto xd = matrix(rows, inputs), yd = matrix(rows, units), wd = matrix(units, inputs);
  const auto attributes_with = attributes(a);
  const auto f = Describe(engine_, attributes_with).of<matmul>(xd, matrix(inputs, units, Tag::ba), bd, yd);
  const auto g = plainly_.of<matmul>(matrix(units, rows, Tag::ba), xd, canonical);
  const auto d = plainly_.of<matmul>(yd, wd, xd);
  const Tensor x = as(input, xd), y = make(yd);
  const std::size_t first = p.first, bias = p.first + p.weights;
  memory copied;
  if (wd != canonical) {
    copied = room(wd);
    copy(bind(weights_, canonical, first), copied);
  }
  const auto weights = [=, this](const memory::desc& as_desc) {
    return copied ? memory(as_desc, engine_, copied.get_data_handle()) : bind(weights_, as_desc, first);
  };
  emit<matmul>(f, {{DNNL_ARG_SRC, of(x, xd)},
                   {DNNL_ARG_WEIGHTS, weights(f.weights_desc())},
                   {DNNL_ARG_BIAS, bind(weights_, bd, bias)},
                   {DNNL_ARG_DST, of(y, yd)}});
  return {
      y, a,
      [=, this](const Tensor& dy) {
        emit<matmul>(g, {{DNNL_ARG_SRC, of(dy, g.src_desc())},
                         {DNNL_ARG_WEIGHTS, of(x, xd)},
                         {DNNL_ARG_DST, bind(gradients_, canonical, first)}});
        const Tensor whole = as(dy, plain({rows, units}));
        parts_.steps->push_back([=, &parts = parts_] { sum_rows(whole.data, rows, units, parts.g + bias); });
      },
      [=, this](const Tensor& dy) {
        const Tensor dx = make(xd);
        emit<matmul>(
            d, {{DNNL_ARG_SRC, of(dy, yd)}, {DNNL_ARG_WEIGHTS, weights(wd)}, {DNNL_ARG_DST, of(dx, xd)}});
        return dx;
      },
      report(f.impl_info_str(), g.impl_info_str(), d.impl_info_str())};
}

BuiltLayer Layers::convolution(const PlacedLayer& p, const Conv2d& l, const Tensor& input,
                               const std::optional<Activation>& a) {
  using Forward = dnnl::convolution_forward;
  using Weights = dnnl::convolution_backward_weights;
  using Data = dnnl::convolution_backward_data;
  const auto direct = algorithm::convolution_direct;
  const Dims kernels{l.filters, p.in.channels, l.kernel, l.kernel}, strides{l.stride, l.stride},
      pad{l.pad, l.pad};
  const auto wd = floats(kernels, Tag::any), bd = floats({l.filters}, Tag::x);
  const auto attributes_with = attributes(a);
  const Describe with_activation(engine_, attributes_with);
  // Channels last is the fastest layout unless there are next to no channels; `any` is what oneDNN would
  // take. A layout that suits no fast implementation ends in oneDNN's reference loops, a thousand times
  // slower.
  const bool image = p.in.channels < 4;
  Forward::primitive_desc f;
  Weights::primitive_desc g;
  for (const Tag tag : {image ? Tag::any : Tag::nhwc, image ? Tag::nhwc : Tag::any, Tag::nchw}) {
    const auto xd = floats(dims(p.in), tag), yd = floats(dims(p.out), tag);
    f = with_activation.of<Forward>(prop_kind::forward_training, direct, xd, wd, bd, yd, strides, pad, pad);
    g = plainly_.back<Weights>(f, direct, f.src_desc(), wd, bd, f.dst_desc(), strides, pad, pad);
    if (fast(f) && fast(g)) break;
  }
  auto d = plainly_.back<Data>(f, direct, f.src_desc(), wd, f.dst_desc(), strides, pad, pad);
  for (const Tag tag : {Tag::nhwc, Tag::nchw}) {
    if (fast(d)) break;
    const auto xd = floats(dims(p.in), tag), yd = floats(dims(p.out), tag);
    d = plainly_.back<Data>(f, direct, xd, wd, yd, strides, pad, pad);
  }
  const Tensor x = as(input, f.src_desc()), y = make(f.dst_desc());
  const std::size_t first = p.first;
  // The flat vector's kernels in the layout that a primitive wants.
  const auto weights = [=, this](const memory::desc& wanted) {
    const memory w = bind(weights_, plain(kernels), first);
    if (wanted == plain(kernels)) return w;
    const memory to = room(wanted);
    copy(w, to);
    return to;
  };
  emit<Forward>(f, {{DNNL_ARG_SRC, of(x, f.src_desc())},
                    {DNNL_ARG_WEIGHTS, weights(f.weights_desc())},
                    {DNNL_ARG_BIAS, bind_bias(weights_, p)},
                    {DNNL_ARG_DST, of(y, f.dst_desc())}});
  return {y, a,
          [=, this](const Tensor& dy) {
            const memory canonical = bind(gradients_, plain(kernels), first);
            const auto own = g.diff_weights_desc();
            const memory dw = own == plain(kernels) ? canonical : room(own);
            emit<Weights>(g, {{DNNL_ARG_SRC, of(x, g.src_desc())},
                              {DNNL_ARG_DIFF_DST, of(dy, g.diff_dst_desc())},
                              {DNNL_ARG_DIFF_WEIGHTS, dw},
                              {DNNL_ARG_DIFF_BIAS, bind_bias(gradients_, p)}});
            if (own != plain(kernels)) copy(dw, canonical);
          },
          [=, this](const Tensor& dy) {
            const Tensor dx = make(d.diff_src_desc());
            emit<Data>(d, {{DNNL_ARG_DIFF_DST, of(as(dy, d.diff_dst_desc()), d.diff_dst_desc())},
                           {DNNL_ARG_WEIGHTS, weights(d.weights_desc())},
                           {DNNL_ARG_DIFF_SRC, of(dx, d.diff_src_desc())}});
            return dx;
          },
          report(f.impl_info_str(), g.impl_info_str(), d.impl_info_str())};
}

BuiltLayer Layers::pooling(const PlacedLayer& p, bool max, int size, int stride, const Tensor& input) {
  const auto kind = max ? algorithm::pooling_max : algorithm::pooling_avg_exclude_padding;
  const Dims window{size, size}, strides{stride, stride}, none{0, 0};
  const Dims beyond{(p.out.height - 1) * stride + size - p.in.height,  // negative: left out
                    (p.out.width - 1) * stride + size - p.in.width};
  const bool rows_of_units =
      input.layout == Tensor::library && dims_of(described(input)).size() == 2;  // of a dense layer
  const Tensor x = rows_of_units ? as(input, plain({parts_.batch, memory::dim(input.size)})) : input;
  const auto xd = described(x, dims(p.in));
  const auto f = plainly_.pooling(kind, xd, floats(dims(p.out), Tag::any), strides, window, none, beyond);
  const auto d = plainly_.pooling_back(f, kind, xd, f.dst_desc(), strides, window, none, beyond);
  const Tensor y = make(f.dst_desc());
  const memory largest = max ? room(f.workspace_desc()) : memory();
  emit<dnnl::pooling_forward>(
      f, {{DNNL_ARG_SRC, of(x, xd)}, {DNNL_ARG_DST, of(y, f.dst_desc())}, {DNNL_ARG_WORKSPACE, largest}});
  return {y,
          {},
          {},
          [=, this](const Tensor& dy) {
            const Tensor dx = make(xd);
            emit<dnnl::pooling_backward>(d, {{DNNL_ARG_DIFF_DST, of(dy, f.dst_desc())},
                                             {DNNL_ARG_DIFF_SRC, of(dx, xd)},
                                             {DNNL_ARG_WORKSPACE, largest}});
            return dx;
          },
          report(f.impl_info_str(), "", d.impl_info_str())};
}

}  // namespace

std::string missing() {
  const char* const said = std::getenv("DSGD_ONEDNN");
  return said && std::string_view(said) == off ? "DSGD_ONEDNN=off does without oneDNN" : "";
}
std::string version() {
  const auto* v = dnnl::version();
  return fmt::format("oneDNN {}.{}.{}", v->major, v->minor, v->patch);
}
bool has_bfloat16() {
  const auto needed = unsigned(dnnl::cpu_isa::avx512_core_bf16);
  return (unsigned(dnnl::get_effective_cpu_isa()) & needed) == needed;
}
std::unique_ptr<LayerLibrary> layers(PlanParts& parts, Precision precision) {
  return std::make_unique<Layers>(parts, precision);
}

}  // namespace dsgd::onednn
