#include "strategies/server.h"

#include <algorithm>

#include "strategies/random.h"

namespace dsgd {

Shard::Shard(const Settings& settings, Rule& rule, Vec w)
    : settings_(settings),
      rule_(rule),
      w_(w),
      sums_(rule.arrivals() > 1),
      sum_(*w.space, sums_ ? w.size : 0),
      outstanding_(settings.workers),
      pushes_(settings.workers) {}

std::optional<Shard::Reply> Shard::pull(int worker, std::int64_t want) {
  const std::int64_t granted = spent_ ? 0 : std::min(want, settings_.budget - granted_);
  if (granted > 0 && !rule_.admit(worker, used_)) return std::nullopt;
  spent_ = granted == 0;
  const Reply reply{version_, used_, position_, granted};
  granted_ += granted;
  position_ += granted;
  outstanding_[worker] += granted;
  rule_.sent(worker, w_);
  return reply;
}

void Shard::push(int worker, std::int64_t version, std::int64_t samples, ConstVec g) {
  outstanding_[worker] = std::max<std::int64_t>(outstanding_[worker] - samples, 0);
  if (settings_.drop > 0 && uniform(settings_.seed, worker, pushes_[worker]++) < settings_.drop) {
    ++dropped_;
    return;
  }
  const std::int64_t tau = version_ - version;
  if (staleness_.size() <= std::size_t(tau)) staleness_.resize(2 * tau + 2);
  ++staleness_[tau];
  ++arrivals_;
  unapplied_samples_ += samples;

  Arrival update{worker, samples, version, tau, g, float(rule_.weight(tau))};
  ++summed_;
  if (sums_) {  // update = (1/c) * sum over c arrivals of weight(tau)*g
    axpy(update.scale, g, sum_);
    update.g = sum_.view();
    update.scale = 1.0f / float(summed_);
    update.samples = unapplied_samples_;
  }
  if (summed_ >= rule_.arrivals()) {
    rule_.apply(w_, update, used_);
    if (sums_) fill(0, sum_);
    summed_ = 0;
    ++version_;
    used_ += unapplied_samples_;
    unapplied_samples_ = 0;
    if (updated) updated(*this);
  }
  if (arrived) arrived(*this);
}

std::int64_t Shard::leave(int worker) {
  const std::int64_t back = spent_ ? 0 : outstanding_[worker];
  granted_ -= back;
  outstanding_[worker] = 0;
  rule_.left(worker);
  return back;
}

}  // namespace dsgd
