// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace dsgd {

// A memory that holds vectors, the host's or a GPU's, and the arithmetic on them. Operations are element-wise
// on float32 and without fused multiply-add, so every host and GPU computes the same bits (dot: every host).
// On a GPU they run in the order of the calls, asynchronously with respect to the host. Only dot,
// through_host, to_host, from_host and wait block.
class Space {
 public:
  virtual ~Space() = default;
  virtual float* allocate(std::size_t n) const = 0;  // 64-byte aligned zeros; release() frees them
  virtual void release(float* data) const = 0;
  virtual bool host() const { return false; }  // whether the host may access elements through their addresses
  virtual void wait() const {}                 // blocks until all queued operations are done
  // Calls f(first, at, count) for consecutive portions of x: the `count` elements from `first` on are at
  // `at`, in the host's memory. With `read`, f finds x's values there; with `write`, what f leaves there
  // becomes x's. The host's space calls f once, in place. A GPU's goes through pinned memory: while f works
  // on one portion, the next ones are copied to the host and the previous ones back. It returns after the
  // last f; later operations of the space see all of x. f must not use other vectors of this space.
  enum class Way { read, write, both };
  using Portion = std::function<void(std::size_t first, float* at, std::size_t count)>;
  virtual void through_host(float* x, std::size_t n, Way way, const Portion& f) const = 0;
  void to_host(const float* x, float* y, std::size_t n) const;  // y <- x, y in the host's memory
  void from_host(const float* x, float* y,
                 std::size_t n) const;  // y <- x, x in the host's memory and free for reuse on return
  virtual void fill(float a, float* y, std::size_t n) const = 0;                  // y <- a
  virtual void copy(const float* x, float* y, std::size_t n) const = 0;           // y <- x
  virtual void scale(float a, float* y, std::size_t n) const = 0;                 // y <- a*y
  virtual void axpy(float a, const float* x, float* y, std::size_t n) const = 0;  // y <- y + a*x
  virtual double dot(const float* x, const float* y, std::size_t n) const = 0;    // in double precision
  // Optimizer updates, one pass over the vectors each. The gradient is d = scale*g + l2*w; optimizer.h has
  // the rules.
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
  // Corrections of gradients for asynchronous strategies, one pass each: dc_asgd (Zheng et al. 2017) and
  // fasgd (Odena 2016).
  struct Compensation {
    float lambda, decay, epsilon;
  };
  // d <- g + lambda_t * g^2 * (w - old). Without s, lambda_t = lambda.
  // With s: s <- decay*s + (1 - decay)*g^2, lambda_t = lambda / sqrt(s + epsilon).
  virtual void compensate(const Compensation& c, const float* g, const float* w, const float* old, float* s,
                          float* d, std::size_t n) const = 0;
  struct Deviation {
    float gamma, beta, epsilon;
    bool inverse;
  };
  // m <- gamma*m + (1 - gamma)*g^2;  b <- gamma*b + (1 - gamma)*g;
  // v <- beta*v + (1 - beta)*s, s = sqrt(m - b^2 + epsilon) or its inverse;  d <- g / v.
  virtual void divide_by_deviation(const Deviation& u, const float* g, float* m, float* b, float* v, float* d,
                                   std::size_t n) const = 0;
  // m <- gamma*m + (1 - gamma)*|g|;  d <- g / (m + epsilon).
  virtual void divide_by_magnitude(float gamma, float epsilon, const float* g, float* m, float* d,
                                   std::size_t n) const = 0;
};

// The host's memory. It has no state; all calls return the same object.
const Space& host_space();

// The space of hollow vectors, which have a size and no elements, for runs that only simulate time.
// Operations do nothing and dot is 0. Access to an element crashes the process.
const Space& hollow_space();

// Views of consecutive elements in one space. They own nothing, are cheap to copy, and are valid as long as
// the Vector, or Group::vector, behind them.
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
// Also copies between a GPU's space and the host's.
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
// The same bits as copy() followed by scale() or axpy(), but one pass if both vectors are in host memory.
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

// Makes this thread, and threads that it starts later, treat numbers below 2^-126 as zero. Otherwise
// gradients of a saturated model, which are full of them, take many times as long. Returns false if the
// processor does not support it.
bool flush_subnormals();

// A callback for vectors that a GPU fills from the end to the beginning.
struct OnReady {
  std::size_t grain = 0;  // elements between two calls, at least; 0: no calls
  // Elements from `first` on are complete once the GPU has reached `event`, a cudaEvent_t. It is called on
  // the host, after the work was queued.
  std::function<void(std::size_t first, void* event)> call;
};

// Owns the elements of one vector, which start as zeros. Movable, not copyable.
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
