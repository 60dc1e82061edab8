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
  double sum = 0;            // softmax cross-entropy, natural logarithm, summed over the samples
  std::int64_t correct = 0;  // samples whose largest logit (of equal ones the first) is the label's
  Loss& operator+=(const Loss& other) {
    sum += other.sum;
    correct += other.correct;
    return *this;
  }
};

// Mean and variance (divided by their number) of what reaches batch norm, over samples and pixels: an element
// for every channel of the first batch norm, then of the second, and so on.
struct Moments {
  std::vector<double> mean, variance;
};

class Plan;

// The loss of a gradient that a device may still be at work on.
class PendingLoss {
 public:
  PendingLoss(const Loss& known) : loss_(known) {}
  PendingLoss(Plan& plan, std::uint64_t ticket) : plan_(&plan), ticket_(ticket) {}
  bool known() const { return !plan_; }
  Loss get();  // waits for it

 private:
  Loss loss_;
  Plan* plan_ = nullptr;
  std::uint64_t ticket_ = 0;
};

// A network prepared for minibatches of up to `batch` samples on one device. Owns activations, never weights.
// Nothing allocates after construction. Vectors are in canonical order, in the device's space or, copied to
// and fro, in the host's memory; x, labels, logits, dlogits and dx are in the host's.
class Plan {
 public:
  Plan(const Network& net, int batch);
  virtual ~Plan() = default;
  // x: n rows of the network's input, n <= batch. Returns n rows of logits, valid until the next call. Batch
  // norm takes the moments of these n samples, or `given` ones.
  virtual const float* forward(ConstVec w, const float* x, int n, const Moments* given = nullptr) = 0;
  // After forward with the same w, x and n and no given moments, all of it still in place: dlogits (n rows)
  // -> g, overwritten with the sum over the samples; dx (n rows) too unless null.
  virtual void backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx = nullptr) = 0;
  // Which implementation each layer got, one line each.
  virtual std::vector<std::string> implementations() const = 0;
  // Copies of activations, gradients or weights that a gradient makes only to have them in another layout.
  virtual int reorders() const { return 0; }

  // g <- sum over the n samples of dL(w)/dw. labels: n class indices.
  virtual Loss gradient(ConstVec w, const float* x, const std::uint8_t* labels, int n, Vec g);
  virtual Loss score(ConstVec w, const float* x, const std::uint8_t* labels, int n, const Moments* given);
  // The same of the samples `ids` of a set, read as gather() does. A device may keep a copy of the set, which
  // must not change then; it may be at work when this returns, in the order of the calls and with its
  // space's. Then it may have told `ready` of parts of g, as often as it likes.
  virtual PendingLoss gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                               const Augmentation& how, Vec g, const OnReady& ready = {});
  // The same gradient, and then the step `descent` with that g.
  virtual PendingLoss descend(ConstVec at, const Samples& from, std::span<const std::uint32_t> ids,
                              const Augmentation& how, Vec g, const Descent& descent);
  virtual Loss score(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                     const Moments* given);
  int batch() const { return batch_; }
  const Moments& moments() const { return moments_; }  // that batch norm took last

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
  virtual std::string library() const { return "none"; }  // name and version of what does the arithmetic
  // The best size of the pieces into which a minibatch of `batch` samples is cut (they stay in cache); with
  // batch norm it stays whole.
  virtual int piece(const Network&, int batch) const { return batch; }
};

// softmax cross-entropy over n rows of `classes` logits; writes dL/dlogits = softmax - onehot unless dlogits
// is null.
Loss softmax_cross_entropy(const float* logits, const std::uint8_t* labels, int n, int classes,
                           float* dlogits);

// What is multiplied: on hosts by dense layers, on GPUs by convolutions, too. Vectors and sums are float32 in
// any case: fp32 is float32 throughout, tf32 rounds factors to 11 significant bits, bf16 takes activations,
// their gradients and a copy of the weights in bfloat16.
enum class Precision { fp32, tf32, bf16 };
Precision precision(const std::string& name);  // throws std::invalid_argument

struct DeviceEntry {
  std::string name, summary;
  std::string (*why_not)(Precision);
  std::unique_ptr<Device> (*create)(Precision);
  std::string former_name = {};      // still understood, and what runs' ids are made of
  std::string (*lacks)() = nullptr;  // empty, or what this build does without and how to mend that
  // Empty when it can be used here, else the reason and what to do.
  std::string unavailable(Precision p = Precision::fp32) const { return why_not(p); }
  std::unique_ptr<Device> make(Precision p = Precision::fp32) const { return create(p); }
};
const std::vector<DeviceEntry>& all_devices();            // from the specification to the fastest
const DeviceEntry* find_device(const std::string& name);  // by either name; nullptr when unknown
std::string device_today(const std::string& name);        // for a former name today's, others as they are

// Computes nothing, of vectors in hollow_space(): for runs that find their time alone. Losses are not
// numbers.
std::unique_ptr<Device> make_hollow();

}  // namespace dsgd
