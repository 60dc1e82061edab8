// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gather.h"
#include "network.h"
#include "optimizer.h"
#include "vec.h"

namespace dsgd {

struct Loss {
  double sum = 0;            // softmax cross-entropy in nats, summed over the samples
  std::int64_t correct = 0;  // samples whose largest logit, of equal ones the first, is the label's
  Loss& operator+=(const Loss& other) {
    sum += other.sum;
    correct += other.correct;
    return *this;
  }
};

// Mean and (biased) variance of the input of batch norm over samples and pixels. One element per channel of
// the first batch norm, then of the second, and so on.
struct Moments {
  std::vector<double> mean, variance;
};

class Plan;

// The loss of a gradient that a device may still be computing. It must not outlive its Plan.
class PendingLoss {
 public:
  PendingLoss(const Loss& known) : loss_(known) {}
  PendingLoss(Plan& plan, std::uint64_t ticket) : plan_(&plan), ticket_(ticket) {}
  bool known() const { return !plan_; }
  // Blocks until the loss is known. On a GPU it throws std::logic_error if the plan has computed too many
  // other gradients since.
  Loss get();

 private:
  Loss loss_;
  Plan* plan_ = nullptr;
  std::uint64_t ticket_ = 0;
};

// A network prepared for minibatches of up to `batch` samples on one device. It owns activations, but no
// weights. After construction it allocates nothing. w, g and `at` are flat vectors in canonical order, in the
// device's space or, at the price of a copy, in the host's. x, labels, logits, dlogits and dx are in host
// memory.
class Plan {
 public:
  Plan(const Network& net, int batch);
  virtual ~Plan() = default;
  // x: n rows of the network's input, n <= batch. Returns n rows of logits, valid until the next call. Batch
  // norm uses the moments of these n samples, or `given` if it is not null.
  virtual const float* forward(ConstVec w, const float* x, int n, const Moments* given = nullptr) = 0;
  // dlogits: n rows. g <- the gradient, summed over the samples; dx <- n rows of gradients at the input,
  // unless null. Requires a preceding forward() with the same w, x and n, with unchanged contents and without
  // given moments.
  virtual void backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx = nullptr) = 0;
  // One line per layer: the implementation that was chosen.
  virtual std::vector<std::string> implementations() const = 0;
  // Copies of activations, gradients or weights per gradient that only change their layout.
  virtual int reorders() const { return 0; }

  // g <- sum over the n samples of dL(w)/dw. labels: n class indices. score() computes the loss alone; batch
  // norm uses `given` moments there, unless null.
  virtual Loss gradient(ConstVec w, const float* x, const std::uint8_t* labels, int n, Vec g);
  virtual Loss score(ConstVec w, const float* x, const std::uint8_t* labels, int n, const Moments* given);
  // The same for the samples `ids` of a set, read as gather() does. A device may keep a copy of the set,
  // which must not change from then on. It may compute asynchronously with respect to the host, in the order
  // of the calls to it and to its space. It then may call `ready` for parts of g.
  virtual PendingLoss gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                               const Augmentation& how, Vec g, const OnReady& ready = {});
  // g <- the gradient at `at`, then the step `descent` with g.
  virtual PendingLoss descend(ConstVec at, const Samples& from, std::span<const std::uint32_t> ids,
                              const Augmentation& how, Vec g, const Descent& descent);
  virtual Loss score(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                     const Moments* given);
  int batch() const { return batch_; }
  const Moments& moments() const { return moments_; }  // those that batch norm computed last

 protected:
  friend class PendingLoss;
  virtual Loss wait(std::uint64_t /*ticket*/) { return {}; }

  int batch_, classes_;
  std::vector<float> x_, dlogits_;
  std::vector<std::uint8_t> labels_;
  Moments moments_;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const Space& space() const = 0;
  virtual std::unique_ptr<Plan> plan(const Network& net, int batch) = 0;
  virtual std::string library() const { return "none"; }  // name and version of the library that computes
  // Number of samples in the pieces into which a minibatch is best cut, so that activations stay in cache.
  // With batch norm it must not be cut.
  virtual int piece(const Network&, int batch) const { return batch; }
};

// Softmax cross-entropy over n rows of `classes` logits. Writes dL/dlogits = softmax - onehot unless dlogits
// is null.
Loss softmax_cross_entropy(const float* logits, const std::uint8_t* labels, int n, int classes,
                           float* dlogits);

// Precision of the factors in matrix products: on hosts of dense layers, on GPUs also of convolutions.
// Vectors and sums are always float32. tf32 rounds factors to 11 significant bits. bf16 stores activations,
// their gradients and a copy of the weights in bfloat16.
enum class Precision { fp32, tf32, bf16 };
Precision precision(const std::string& name);  // throws std::invalid_argument

struct DeviceEntry {
  std::string name, summary;
  std::string (*why_not)(Precision);
  std::unique_ptr<Device> (*create)(Precision);
  std::string former_name = {};      // still accepted, and part of the ids of runs
  std::string (*lacks)() = nullptr;  // what this build lacks, and the remedy; empty: nothing
  // Why the device cannot be used here, and the remedy; empty if it can.
  std::string unavailable(Precision p = Precision::fp32) const { return why_not(p); }
  std::unique_ptr<Device> make(Precision p = Precision::fp32) const { return create(p); }
};
const std::vector<DeviceEntry>& all_devices();            // from the slowest, `reference`, to the fastest
const DeviceEntry* find_device(const std::string& name);  // by current or former name; nullptr if unknown
// The current name for a former one; other names are returned unchanged.
std::string device_today(const std::string& name);

// A device that computes nothing, for vectors in hollow_space(). Its losses are NaN.
std::unique_ptr<Device> make_hollow();

}  // namespace dsgd
