// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

// Hides the difference between oneDNN 2 (from 2.6 on) and oneDNN 3: how primitives are described.
namespace dsgd::onednn {

using dnnl::memory;
using Dims = memory::dims;

inline Dims dims_of(const memory::desc& d) {
#if DNNL_VERSION_MAJOR >= 3
  return d.get_dims();
#else
  return d.dims();
#endif
}

inline void append(dnnl::post_ops& ops, dnnl::algorithm a) {
#if DNNL_VERSION_MAJOR >= 3
  ops.append_eltwise(a, 0, 0);
#else
  ops.append_eltwise(1, a, 0, 0);
#endif
}

// Describes primitives for one engine with the same attributes. `forward` is the hint that a backward
// primitive needs.
class Describe {
 public:
  Describe(const dnnl::engine& engine, const dnnl::primitive_attr& attributes)
      : engine_(engine), attributes_(attributes) {}

  template <class Primitive, class... Operands>
  typename Primitive::primitive_desc of(const Operands&... operands) const {
#if DNNL_VERSION_MAJOR >= 3
    return typename Primitive::primitive_desc(engine_, operands..., attributes_);
#else
    return typename Primitive::primitive_desc(typename Primitive::desc(operands...), attributes_, engine_);
#endif
  }
  template <class Primitive, class Forward, class... Operands>
  typename Primitive::primitive_desc back(const Forward& forward, const Operands&... operands) const {
#if DNNL_VERSION_MAJOR >= 3
    return typename Primitive::primitive_desc(engine_, operands..., forward, attributes_);
#else
    return typename Primitive::primitive_desc(typename Primitive::desc(operands...), attributes_, engine_,
                                              forward);
#endif
  }

  dnnl::pooling_forward::primitive_desc pooling(dnnl::algorithm kind, const memory::desc& x,
                                                const memory::desc& y, const Dims& strides,
                                                const Dims& window, const Dims& before,
                                                const Dims& after) const {
    const auto training = dnnl::prop_kind::forward_training;
#if DNNL_VERSION_MAJOR >= 3
    return of<dnnl::pooling_forward>(training, kind, x, y, strides, window, Dims{0, 0}, before, after);
#else
    return of<dnnl::pooling_forward>(training, kind, x, y, strides, window, before, after);
#endif
  }
  dnnl::pooling_backward::primitive_desc pooling_back(const dnnl::pooling_forward::primitive_desc& forward,
                                                      dnnl::algorithm kind, const memory::desc& x,
                                                      const memory::desc& y, const Dims& strides,
                                                      const Dims& window, const Dims& before,
                                                      const Dims& after) const {
#if DNNL_VERSION_MAJOR >= 3
    return back<dnnl::pooling_backward>(forward, kind, x, y, strides, window, Dims{0, 0}, before, after);
#else
    return back<dnnl::pooling_backward>(forward, kind, x, y, strides, window, before, after);
#endif
  }

  dnnl::eltwise_forward::primitive_desc eltwise(dnnl::algorithm a, const memory::desc& d) const {
    const auto training = dnnl::prop_kind::forward_training;
#if DNNL_VERSION_MAJOR >= 3
    return of<dnnl::eltwise_forward>(training, a, d, d, 0.0f, 0.0f);
#else
    return of<dnnl::eltwise_forward>(training, a, d);
#endif
  }
  dnnl::eltwise_backward::primitive_desc eltwise_back(dnnl::algorithm a, const memory::desc& d) const {
#if DNNL_VERSION_MAJOR >= 3
    return back<dnnl::eltwise_backward>(eltwise(a, d), a, d, d, d, 0.0f, 0.0f);
#else
    return back<dnnl::eltwise_backward>(eltwise(a, d), a, d, d);
#endif
  }

 private:
  const dnnl::engine& engine_;
  const dnnl::primitive_attr& attributes_;
};

}  // namespace dsgd::onednn
