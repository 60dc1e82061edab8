// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace dsgd {

// Where vectors live and who does arithmetic on them: the host's memory or a GPU's. Operations are
// element-wise over float32, in index order, without fused multiply-add, so that every host and GPU gives the
// same bits (dot: every host). A GPU does them in the order of the calls, which return at once; dot,
// through_host and to_host wait.
class Space {
 public:
  virtual ~Space() = default;
  virtual float* allocate(std::size_t n) const = 0;  // 64-byte aligned, zero-filled
  virtual void release(float* data) const = 0;
  virtual bool host() const { return false; }  // elements can be read and written through their addresses
  virtual void wait() const {}                 // until all that was asked for is done
  // f(first, at, count) for one portion of x after the other: elements from `first` on, as `count` floats at
  // `at` in the host's memory. `read`: they are x's; `write`: x's become what f leaves there. A host has all
  // of them in one portion, in place. A GPU's are in pinned memory: while f has one, those behind it are on
  // their way to the host and those before it on their way back. f uses no other vector of this space.
  enum class Way { read, write, both };
  using Portion = std::function<void(std::size_t first, float* at, std::size_t count)>;
  virtual void through_host(float* x, std::size_t n, Way way, const Portion& f) const = 0;
  void to_host(const float* x, float* y, std::size_t n) const;           // y <- x, y in the host's memory
  void from_host(const float* x, float* y, std::size_t n) const;         // y <- x, x in the host's memory
  virtual void fill(float a, float* y, std::size_t n) const = 0;         // y <- a
  virtual void copy(const float* x, float* y, std::size_t n) const = 0;  // y <- x
  virtual void scale(float a, float* y, std::size_t n) const = 0;        // y <- a*y
  virtual void axpy(float a, const float* x, float* y, std::size_t n) const = 0;  // y <- y + a*x
  virtual double dot(const float* x, const float* y, std::size_t n) const = 0;    // in double precision
  // Optimizer updates, one pass each. The gradient is d = scale*g + l2*w (see optimizer.h for the rules).
  struct Update {
    float scale, l2, rate, momentum, epsilon;
  };
  virtual void sgd(const Update& u, float* w, const float* g, std::size_t n) const = 0;
  virtual void momentum(const Update& u, float* w, const float* g, float* v, std::size_t n) const = 0;
  virtual void nesterov(const Update& u, float* w, const float* g, float* v, std::size_t n) const = 0;
  virtual void adagrad(const Update& u, float* w, const float* g, float* s, std::size_t n) const = 0;
  struct Adam {
    float scale, l2, shrink, beta1, fresh1, beta2, fresh2, rate, root, epsilon;
  };
  // m <- beta1*m + fresh1*d;  v <- beta2*v + fresh2*d^2;
  // w <- w - shrink*w - rate * m / (root*sqrt(v) + epsilon)
  virtual void adam(const Adam& u, float* w, const float* g, float* m, float* v, std::size_t n) const = 0;
  // Gradients corrected by a strategy, one pass each.
  struct Compensation {
    float lambda, decay, epsilon;
  };
  // d <- g + lambda_t * g^2 * (w - old), lambda_t = lambda or, where there is an s, lambda / sqrt(s +
  // epsilon) after s <- decay*s + (1 - decay)*g^2.
  virtual void compensate(const Compensation& c, const float* g, const float* w, const float* old, float* s,
                          float* d, std::size_t n) const = 0;
  struct Deviation {
    float gamma, beta, epsilon;
    bool inverse;
  };
  // d <- g / v after m <- gamma*m + (1 - gamma)*g^2, b <- gamma*b + (1 - gamma)*g, v <- beta*v + (1 -
  // beta)*s, s = sqrt(m - b^2 + epsilon) or its inverse.
  virtual void divide_by_deviation(const Deviation& u, const float* g, float* m, float* b, float* v, float* d,
                                   std::size_t n) const = 0;
  // d <- g / (m + epsilon) after m <- gamma*m + (1 - gamma)*|g|.
  virtual void divide_by_magnitude(float gamma, float epsilon, const float* g, float* m, float* d,
                                   std::size_t n) const = 0;
};

// The host's memory. Stateless: one instance serves everybody.
const Space& host_space();

// Vectors that have a size and no elements, for runs that find their time alone: operations do nothing, dot
// is 0, and whoever looks at an element ends the process.
const Space& hollow_space();

// Views of consecutive elements in one space. They own nothing and are cheap to copy.
struct ConstVec {
  const float* data = nullptr;
  std::size_t size = 0;
  const Space* space = nullptr;
  ConstVec part(std::size_t first, std::size_t count) const { return {data + first, count, space}; }
};
struct Vec {
  float* data = nullptr;
  std::size_t size = 0;
  const Space* space = nullptr;
  Vec part(std::size_t first, std::size_t count) const { return {data + first, count, space}; }
  operator ConstVec() const { return {data, size, space}; }
};

inline bool hollow(ConstVec v) { return v.space == &hollow_space(); }
inline void fill(float a, Vec y) { y.space->fill(a, y.data, y.size); }
// Also between spaces, one of which is the host's.
inline void copy(ConstVec x, Vec y) {
  if (x.space == y.space)
    y.space->copy(x.data, y.data, y.size);
  else if (y.space->host())
    x.space->to_host(x.data, y.data, y.size);
  else
    y.space->from_host(x.data, y.data, y.size);
}
inline void scale(float a, Vec y) { y.space->scale(a, y.data, y.size); }
inline void axpy(float a, ConstVec x, Vec y) { y.space->axpy(a, x.data, y.data, y.size); }
// As copy() and then scale() or axpy(), to the bit, in one pass where both are in the host's memory.
void copy_scaled(float a, ConstVec x, Vec y);           // y <- a*x
void copy_sum(ConstVec x, float a, ConstVec g, Vec y);  // y <- x + a*g; y may be x
inline double dot(ConstVec x, ConstVec y) { return x.space->dot(x.data, y.data, x.size); }
inline void compensate(const Space::Compensation& c, ConstVec g, ConstVec w, ConstVec old, Vec s, Vec d) {
  d.space->compensate(c, g.data, w.data, old.data, s.size ? s.data : nullptr, d.data, d.size);
}
inline void divide_by_deviation(const Space::Deviation& u, ConstVec g, Vec m, Vec b, Vec v, Vec d) {
  d.space->divide_by_deviation(u, g.data, m.data, b.data, v.data, d.data, d.size);
}
inline void divide_by_magnitude(float gamma, float epsilon, ConstVec g, Vec m, Vec d) {
  d.space->divide_by_magnitude(gamma, epsilon, g.data, m.data, d.data, d.size);
}

// From here on numbers below 2^-126 count as zero, in this thread and those that it starts; false: the
// processor cannot. Else gradients of a saturated model, which are full of them, take many times as long.
bool flush_subnormals();

// For who wants a vector that a GPU fills from its end on before all of it is there.
struct OnReady {
  std::size_t grain = 0;  // elements, at least so many more at each call; 0: nobody wants to know
  // Elements from `first` on are complete where the GPU has come to `event`, a cudaEvent_t.
  std::function<void(std::size_t first, void* event)> call;
};

// Owns the elements of one vector, zero at birth.
class Vector {
 public:
  Vector() = default;
  Vector(const Space& space, std::size_t n) : view_{space.allocate(n), n, &space} {}
  Vector(Vector&& other) noexcept : view_(other.view_) { other.view_ = {}; }
  Vector& operator=(Vector&& other) noexcept;
  ~Vector();
  operator Vec() { return view_; }
  operator ConstVec() const { return view_; }
  Vec view() const { return view_; }
  float* data() const { return view_.data; }
  std::size_t size() const { return view_.size; }

 private:
  Vec view_;
};

// One named piece of the flat vector, e.g. the kernels of a convolution. Canonical order: row-major, OIHW
// kernels, {units, inputs} matrices.
struct Extent {
  int layer = 0;     // index in Network::layers
  std::string name;  // "weights", "bias", "scale" or "shift"
  std::vector<int> shape;
  std::size_t first = 0, count = 0;  // elements [first, first + count) of the flat vector
};

}  // namespace dsgd
