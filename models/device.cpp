// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace dsgd {

Plan::Plan(const Network& net, int batch) : batch_(batch), classes_(int(place(net).back().out.size())) {
  if (batch < 1) throw std::invalid_argument(fmt::format("{}: a minibatch of {} samples", net.name, batch));
  x_.resize(std::size_t(batch) * net.input.size());
  labels_.resize(batch);
  dlogits_.resize(std::size_t(batch) * classes_);
  const std::size_t channels = normalised_channels(net);
  moments_ = {std::vector<double>(channels), std::vector<double>(channels)};
}

Loss Plan::gradient(ConstVec w, const float* x, const std::uint8_t* labels, int n, Vec g) {
  const float* logits = forward(w, x, n);
  const Loss loss = softmax_cross_entropy(logits, labels, n, classes_, dlogits_.data());
  backward(w, dlogits_.data(), n, g);
  return loss;
}

Loss Plan::score(ConstVec w, const float* x, const std::uint8_t* labels, int n, const Moments* given) {
  return softmax_cross_entropy(forward(w, x, n, given), labels, n, classes_, nullptr);
}

PendingLoss Plan::gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                           const Augmentation& how, Vec g, const OnReady&) {
  gather(from, ids, x_.data(), labels_.data(), how);
  return gradient(w, x_.data(), labels_.data(), int(ids.size()), g);
}

PendingLoss Plan::descend(ConstVec at, const Samples& from, std::span<const std::uint32_t> ids,
                          const Augmentation& how, Vec g, const Descent& descent) {
  const PendingLoss loss = gradient(at, from, ids, how, g);
  descent.make(g);
  return loss;
}

Loss Plan::score(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, const Moments* given) {
  gather(from, ids, x_.data(), labels_.data());
  return score(w, x_.data(), labels_.data(), int(ids.size()), given);
}

Loss PendingLoss::get() {
  if (plan_) loss_ = plan_->wait(ticket_);
  plan_ = nullptr;
  return loss_;
}

Loss softmax_cross_entropy(const float* logits, const std::uint8_t* labels, int n, int classes,
                           float* dlogits) {
  Loss loss;
  for (int i = 0; i < n; ++i) {
    const float* z = logits + std::size_t(i) * classes;
    const int label = labels[i];
    const double largest = *std::max_element(z, z + classes);
    double sum = 0;
    for (int k = 0; k < classes; ++k) sum += std::exp(z[k] - largest);
    loss.sum += std::log(sum) + largest - z[label];
    bool correct = true;  // stays false for logits that are not numbers
    for (int k = 0; k < classes; ++k) correct = correct && (k < label ? z[k] < z[label] : z[k] <= z[label]);
    loss.correct += correct;
    if (!dlogits) continue;
    float* d = dlogits + std::size_t(i) * classes;
    for (int k = 0; k < classes; ++k) d[k] = float(std::exp(z[k] - largest) / sum - (k == label));
  }
  return loss;
}

Precision precision(const std::string& name) {
  if (name == "fp32") return Precision::fp32;
  if (name == "tf32") return Precision::tf32;
  if (name == "bf16") return Precision::bf16;
  throw std::invalid_argument("unknown precision " + name + " (allowed: fp32, tf32, bf16)");
}

std::unique_ptr<Device> make_reference(Precision);
std::string reference_unavailable(Precision p) {
  return p == Precision::fp32 ? "" : "it is the specification, in double precision";
}
std::unique_ptr<Device> make_cpu(Precision);
std::string cpu_unavailable(Precision);
std::string cpu_lacks();
#ifdef DSGD_HAVE_CUDA
std::unique_ptr<Device> make_cudnn(Precision);
std::string cudnn_unavailable(Precision);
#else
std::unique_ptr<Device> make_cudnn(Precision) { return nullptr; }
std::string cudnn_unavailable(Precision) {
  return "built without CUDA; install the toolkit (from 12.8 on) and cuDNN 9 and build again";
}
#endif

const std::vector<DeviceEntry>& all_devices() {
  static const std::vector<DeviceEntry> devices{
      {"reference", "plain loops, the specification", reference_unavailable, make_reference},
      {"cpu", "the host's processor by own kernels and oneDNN, one thread", cpu_unavailable, make_cpu,
       "onednn", cpu_lacks},
      {"cudnn", "a GPU by cuDNN and cuBLASLt", cudnn_unavailable, make_cudnn},
  };
  return devices;
}

const DeviceEntry* find_device(const std::string& name) {
  for (const auto& d : all_devices()) {
    if (d.name == name || (!d.former_name.empty() && d.former_name == name)) return &d;
  }
  return nullptr;
}

std::string device_today(const std::string& name) {
  const DeviceEntry* const known = find_device(name);
  return known ? known->name : name;
}

}  // namespace dsgd
