// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "device.h"

namespace dsgd {
namespace {

// The specification of every layer: plain loops over one sample (over all of them where samples meet), CHW
// order, all arithmetic in double precision.
//   forward(layer, p, w, x, y)               y <- layer(x)
//   backward(layer, p, w, x, y, dy, dw, dx)  dw += dL/dw, dx += dL/dx, where dy = dL/dy
// w and dw are the layer's part of the flat vector: weights, then bias.

void forward(const Dense& l, const PlacedLayer& p, const float* w, const double* x, double* y) {
  const std::size_t inputs = p.in.size();
  const float* bias = w + p.weights;
  for (int u = 0; u < l.units; ++u) {
    y[u] = bias[u];
    for (std::size_t i = 0; i < inputs; ++i) y[u] += w[u * inputs + i] * x[i];
  }
}

void backward(const Dense& l, const PlacedLayer& p, const float* w, const double* x, const double*,
              const double* dy, double* dw, double* dx) {
  const std::size_t inputs = p.in.size();
  double* dbias = dw + p.weights;
  for (int u = 0; u < l.units; ++u) {
    dbias[u] += dy[u];
    for (std::size_t i = 0; i < inputs; ++i) {
      dw[u * inputs + i] += dy[u] * x[i];
      dx[i] += w[u * inputs + i] * dy[u];
    }
  }
}

std::size_t at(const Shape& s, int channel, int row, int column) {
  return (std::size_t(channel) * s.height + row) * s.width + column;
}

// f(output, weight, input) for the indices of every product of a convolution.
template <class F>
void each_product(const Conv2d& l, const PlacedLayer& p, F f) {
  for (int o = 0; o < l.filters; ++o)
    for (int i = 0; i < p.in.channels; ++i)
      for (int kr = 0; kr < l.kernel; ++kr)
        for (int kc = 0; kc < l.kernel; ++kc)
          for (int r = 0; r < p.out.height; ++r)
            for (int c = 0; c < p.out.width; ++c) {
              const int row = r * l.stride + kr - l.pad, column = c * l.stride + kc - l.pad;
              if (row < 0 || row >= p.in.height || column < 0 || column >= p.in.width) continue;
              f(at(p.out, o, r, c), at({p.in.channels, l.kernel, l.kernel}, o * p.in.channels + i, kr, kc),
                at(p.in, i, row, column));
            }
}

void forward(const Conv2d& l, const PlacedLayer& p, const float* w, const double* x, double* y) {
  const std::size_t pixels = p.out.size() / l.filters;
  for (std::size_t k = 0; k < p.out.size(); ++k) y[k] = l.bias ? w[p.weights + k / pixels] : 0;
  each_product(l, p,
               [&](std::size_t out, std::size_t weight, std::size_t in) { y[out] += w[weight] * x[in]; });
}

void backward(const Conv2d& l, const PlacedLayer& p, const float* w, const double* x, const double*,
              const double* dy, double* dw, double* dx) {
  const std::size_t pixels = p.out.size() / l.filters;
  for (std::size_t k = 0; l.bias && k < p.out.size(); ++k) dw[p.weights + k / pixels] += dy[k];
  each_product(l, p, [&](std::size_t out, std::size_t weight, std::size_t in) {
    dw[weight] += dy[out] * x[in];
    dx[in] += w[weight] * dy[out];
  });
}

// f(output, input, size of the window) for every output of a pooling layer and the inputs in its window, in
// row order.
template <class Pool, class F>
void each_input(const Pool& l, const PlacedLayer& p, F f) {
  for (int c = 0; c < p.out.channels; ++c)
    for (int r = 0; r < p.out.height; ++r)
      for (int k = 0; k < p.out.width; ++k) {
        const int rows = std::min(l.size, p.in.height - r * l.stride),
                  columns = std::min(l.size, p.in.width - k * l.stride);
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < columns; ++j)
            f(at(p.out, c, r, k), at(p.in, c, r * l.stride + i, k * l.stride + j), rows * columns);
      }
}

void forward(const MaxPool& l, const PlacedLayer& p, const float*, const double* x, double* y) {
  std::fill_n(y, p.out.size(), -INFINITY);
  each_input(l, p, [&](std::size_t out, std::size_t in, int) { y[out] = x[in] <= y[out] ? y[out] : x[in]; });
}

void backward(const MaxPool& l, const PlacedLayer& p, const float*, const double* x, const double* y,
              const double* dy, double*, double* dx) {
  std::size_t done = p.out.size();  // the output whose maximum was found last
  each_input(l, p, [&](std::size_t out, std::size_t in, int) {
    if (out == done || x[in] != y[out]) return;
    dx[in] += dy[out];
    done = out;
  });
}

void forward(const AvgPool& l, const PlacedLayer& p, const float*, const double* x, double* y) {
  std::fill_n(y, p.out.size(), 0.0);
  each_input(l, p, [&](std::size_t out, std::size_t in, int size) { y[out] += x[in] / size; });
}

void backward(const AvgPool& l, const PlacedLayer& p, const float*, const double*, const double*,
              const double* dy, double*, double* dx) {
  each_input(l, p, [&](std::size_t out, std::size_t in, int size) { dx[in] += dy[out] / size; });
}

// Activations: the value, and the derivative as a function of the value.
double value(Relu, double x) { return x <= 0 ? 0 : x; }
double value(Sigmoid, double x) { return 1 / (1 + std::exp(-x)); }
double value(Tanh, double x) { return std::tanh(x); }
double derivative(Relu, double y) { return y > 0; }
double derivative(Sigmoid, double y) { return y * (1 - y); }
double derivative(Tanh, double y) { return 1 - y * y; }

template <class Activation>
void forward(Activation l, const PlacedLayer& p, const float*, const double* x, double* y) {
  for (std::size_t i = 0; i < p.in.size(); ++i) y[i] = value(l, x[i]);
}

template <class Activation>
void backward(Activation l, const PlacedLayer& p, const float*, const double*, const double* y,
              const double* dy, double*, double* dx) {
  for (std::size_t i = 0; i < p.in.size(); ++i) dx[i] += dy[i] * derivative(l, y[i]);
}

// f(output, pixel of the earlier image) for every sum of a shortcut.
template <class F>
void each_sum(const Shape& from, const Shape& to, F f) {
  const int stride = shortcut_stride(from, to);
  for (int c = 0; c < from.channels; ++c)
    for (int r = 0; r < to.height; ++r)
      for (int k = 0; k < to.width; ++k) f(at(to, c, r, k), at(from, c, r * stride, k * stride));
}

// f(channel, element) for all elements of n samples.
template <class F>
void each_element(const Shape& s, int n, F f) {
  const std::size_t pixels = s.size() / s.channels;
  for (std::size_t e = 0; e < n * s.size(); ++e) f(e / pixels % s.channels, e);
}

void moments(const PlacedLayer& p, int n, const double* x, double* mean, double* variance) {
  const double count = double(n) * p.in.height * p.in.width;
  std::fill_n(mean, p.in.channels, 0.0);
  std::fill_n(variance, p.in.channels, 0.0);
  each_element(p.in, n, [&](std::size_t c, std::size_t e) { mean[c] += x[e] / count; });
  each_element(p.in, n, [&](std::size_t c, std::size_t e) {
    variance[c] += (x[e] - mean[c]) * (x[e] - mean[c]) / count;
  });
}

void forward(const BatchNorm& l, const PlacedLayer& p, const float* w, int n, const double* x,
             const double* mean, const double* variance, double* y) {
  each_element(p.in, n, [&](std::size_t c, std::size_t e) {
    y[e] = w[c] * (x[e] - mean[c]) / std::sqrt(variance[c] + l.epsilon) + w[p.weights + c];
  });
}

// z = (x - mean) / sqrt(variance + epsilon) also depends on x by its moments: moving all of x, or all of it
// away from the mean, does not change it. So dL/dx is what is left of dL/dz without its parts along 1 and z.
void backward(const BatchNorm& l, const PlacedLayer& p, const float* w, int n, const double* x,
              const double* mean, const double* variance, const double* dy, double* dw, double* dx) {
  const double count = double(n) * p.in.height * p.in.width;
  const auto z = [&](std::size_t c, std::size_t e) {
    return (x[e] - mean[c]) / std::sqrt(variance[c] + l.epsilon);
  };
  double *dscale = dw, *dshift = dw + p.weights;
  each_element(p.in, n, [&](std::size_t c, std::size_t e) {
    dscale[c] += dy[e] * z(c, e);
    dshift[c] += dy[e];
  });
  each_element(p.in, n, [&](std::size_t c, std::size_t e) {
    dx[e] +=
        w[c] / std::sqrt(variance[c] + l.epsilon) * (dy[e] - dshift[c] / count - z(c, e) * dscale[c] / count);
  });
}

class ReferencePlan final : public Plan {
 public:
  ReferencePlan(const Network& net, int batch) : Plan(net, batch), layers_(place(net)), dw_(parameters(net)) {
    const auto rows = [&](const Shape& s) { return std::vector<double>(s.size() * batch); };
    y_.push_back(rows(net.input));
    dy_.push_back(rows(net.input));
    std::size_t channel = 0;
    for (const auto& p : layers_) {
      y_.push_back(rows(p.out));
      dy_.push_back(rows(p.out));
      channel_.push_back(channel);
      if (std::get_if<BatchNorm>(&p.spec)) channel += p.in.channels;
    }
    logits_.resize(y_.back().size());
  }

  const float* forward(ConstVec w, const float* x, int n, const Moments* given) override {
    if (given) moments_ = *given;
    std::copy_n(x, n * layers_.front().in.size(), y_[0].begin());
    for (std::size_t k = 0; k < layers_.size(); ++k) {
      const PlacedLayer& p = layers_[k];
      const float* own = w.data + p.first;
      double *in = row(y_, k), *out = row(y_, k + 1);
      const auto norm = [&](const BatchNorm& l) {
        const std::size_t c = channel_[k];
        if (!given) dsgd::moments(p, n, in, &moments_.mean[c], &moments_.variance[c]);
        dsgd::forward(l, p, own, n, in, &moments_.mean[c], &moments_.variance[c], out);
      };
      const auto shortcut = [&](const Shortcut& l) {
        const std::size_t from = k - l.back;
        std::copy_n(in, n * p.in.size(), out);
        for (int i = 0; i < n; ++i) {
          each_sum(layers_[from].in, p.out,
                   [&, x = row(y_, from, i), y = row(y_, k + 1, i)](std::size_t to, std::size_t of) {
                     y[to] += x[of];
                   });
        }
      };
      const auto each = [&](const auto& l) {
        for (int i = 0; i < n; ++i) dsgd::forward(l, p, own, row(y_, k, i), row(y_, k + 1, i));
      };
      std::visit(Overloaded{norm, shortcut, each}, p.spec);
    }
    std::copy_n(y_.back().begin(), std::size_t(n) * classes_, logits_.begin());
    return logits_.data();
  }

  void backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx) override {
    std::fill(dw_.begin(), dw_.end(), 0.0);
    for (auto& dy : dy_) std::fill(dy.begin(), dy.end(), 0.0);
    std::copy_n(dlogits, std::size_t(n) * classes_, dy_.back().begin());
    for (std::size_t k = layers_.size(); k-- > 0;) {
      const PlacedLayer& p = layers_[k];
      const float* own = w.data + p.first;
      double* dw = dw_.data() + p.first;
      const auto norm = [&](const BatchNorm& l) {
        const std::size_t c = channel_[k];
        dsgd::backward(l, p, own, n, row(y_, k), &moments_.mean[c], &moments_.variance[c], row(dy_, k + 1),
                       dw, row(dy_, k));
      };
      const auto shortcut = [&](const Shortcut& l) {
        const std::size_t from = k - l.back;
        for (int i = 0; i < n; ++i) {
          double *dy = row(dy_, k + 1, i), *past = row(dy_, from, i), *in = row(dy_, k, i);
          for (std::size_t e = 0; e < p.in.size(); ++e) in[e] += dy[e];
          each_sum(layers_[from].in, p.out, [&](std::size_t to, std::size_t of) { past[of] += dy[to]; });
        }
      };
      const auto each = [&](const auto& l) {
        for (int i = 0; i < n; ++i) {
          dsgd::backward(l, p, own, row(y_, k, i), row(y_, k + 1, i), row(dy_, k + 1, i), dw, row(dy_, k, i));
        }
      };
      std::visit(Overloaded{norm, shortcut, each}, p.spec);
    }
    std::copy(dw_.begin(), dw_.end(), g.data);
    if (dx) std::copy_n(dy_[0].begin(), n * layers_.front().in.size(), dx);
  }

  std::vector<std::string> implementations() const override {
    std::vector<std::string> lines;
    for (const auto& p : layers_) lines.push_back(to_string(p.spec) + ": plain loops");
    return lines;
  }

 private:
  // Sample i of what goes into layer k (and comes out of layer k - 1).
  double* row(std::vector<std::vector<double>>& all, std::size_t k, int i = 0) const {
    return all[k].data() + i * (all[k].size() / batch_);
  }

  std::vector<PlacedLayer> layers_;
  std::vector<std::size_t> channel_;  // the first one of a batch norm in moments_
  std::vector<std::vector<double>> y_, dy_;
  std::vector<double> dw_;
  std::vector<float> logits_;
};

class ReferenceDevice final : public Device {
 public:
  const Space& space() const override { return host_space(); }
  std::unique_ptr<Plan> plan(const Network& net, int batch) override {
    return std::make_unique<ReferencePlan>(net, batch);
  }
};

}  // namespace

std::unique_ptr<Device> make_reference(Precision) { return std::make_unique<ReferenceDevice>(); }

}  // namespace dsgd
