// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace dsgd {
namespace {
constexpr int least_scored = 32;  // samples at a time: with fewer, layers are several times slower
}

Model::Model(const Network& net, Device& device, int batch)
    : plan_(device.plan(net, device.piece(net, batch))),
      name_(net.name),
      input_(net.input),
      batch_(batch),
      channels_(normalised_channels(net)),
      population_{std::vector<double>(channels_), std::vector<double>(channels_)} {
  if (batch < least_scored) scorer_ = device.plan(net, device.piece(net, least_scored));
  ids_.resize((scorer_ ? scorer_ : plan_)->batch());
  if (plan_->batch() < batch) part_ = Vector(device.space(), parameters(net));
}

PendingLoss Model::begin_gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                                  const Augmentation& how, const OnReady& ready) {
  check(from, ids);
  if (ids.empty()) {
    fill(0, g);
    return Loss{};
  }
  const std::size_t most = plan_->batch();
  if (ids.size() <= most) return plan_->gradient(w, from, ids, how, g, ready);
  Loss loss;
  for (std::size_t first = 0; first < ids.size(); first += most) {
    const auto piece = ids.subspan(first, std::min(most, ids.size() - first));
    const Vec part = first == 0 ? g : part_;
    loss += plan_->gradient(w, from, piece, how, part).get();
    if (first > 0) axpy(1, part, g);
  }
  return loss;
}

PendingLoss Model::begin_descent(ConstVec at, const Samples& from, std::span<const std::uint32_t> ids, Vec g,
                                 const Augmentation& how, const Descent& descent) {
  check(from, ids);
  if (!ids.empty() && ids.size() <= std::size_t(plan_->batch()))
    return plan_->descend(at, from, ids, how, g, descent);
  const PendingLoss loss = begin_gradient(at, from, ids, g, how);
  descent.make(g);
  return loss;
}

void Model::observe(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids, Statistics& into) {
  check(from, ids);
  if (ids.empty() || !channels_) return;
  plan_->score(w, from, ids, nullptr);
  const auto n = double(ids.size());
  into[0] += n;
  for (std::size_t c = 0; c < channels_; ++c) {
    const double mean = plan_->moments().mean[c];
    into[1 + c] += n * mean;
    into[1 + channels_ + c] += n * (plan_->moments().variance[c] + mean * mean);
  }
}

Loss Model::score(ConstVec w, const Samples& from, std::size_t first, std::size_t last,
                  const Statistics& known) {
  check(from, {});
  if (channels_ && (known.size() != 1 + 2 * channels_ || !(known[0] > 0)))
    throw std::invalid_argument(
        fmt::format("{} has batch norm: it is scored with statistics of its weights "
                    "over training samples (Model::observe)",
                    name_));
  for (std::size_t c = 0; c < channels_; ++c) {
    const double mean = known[1 + c] / known[0], variance = known[1 + channels_ + c] / known[0] - mean * mean;
    population_.mean[c] = mean;
    population_.variance[c] = variance < 0 ? 0 : variance;
  }
  Plan& scorer = *(scorer_ ? scorer_ : plan_);
  Loss loss;
  while (first < last) {
    const std::size_t count = std::min<std::size_t>(scorer.batch(), last - first);
    std::iota(ids_.begin(), ids_.begin() + std::ptrdiff_t(count), std::uint32_t(first));
    loss += scorer.score(w, from, {ids_.data(), count}, channels_ ? &population_ : nullptr);
    first += count;
  }
  return loss;
}

void Model::check(const Samples& from, std::span<const std::uint32_t> ids) const {
  if (ids.size() > std::size_t(batch_))
    throw std::invalid_argument(fmt::format("{} samples for a model made for {}", ids.size(), batch_));
  if (from.shape != input_)
    throw std::invalid_argument(fmt::format("the model was made for samples of {}, these are {}",
                                            to_string(input_), to_string(from.shape)));
}

}  // namespace dsgd
