#include "strategies/server.h"

#include <algorithm>

namespace dsgd {

Shard::Shard(const Settings& settings, Rule& rule, Vec w)
    : settings_(settings), rule_(rule), w_(w), sum_(*w.space, rule.arrivals() > 1 ? w.size : 0) {}

std::optional<Shard::Reply> Shard::pull(int worker, std::int64_t want) {
  const bool spent = granted_ >= settings_.budget;
  if (!spent && !rule_.admit(worker, used_)) return std::nullopt;
  const Reply reply{version_, used_, granted_, std::min(want, settings_.budget - granted_)};
  granted_ += reply.granted;
  rule_.sent(worker, w_);
  return reply;
}

void Shard::push(int worker, std::int64_t version, std::int64_t samples, ConstVec g) {
  const std::int64_t tau = version_ - version;
  if (staleness_.size() <= std::size_t(tau)) staleness_.resize(2 * tau + 2);
  ++staleness_[tau];
  ++arrivals_;
  unapplied_samples_ += samples;

  const int c = rule_.arrivals();
  Arrival update{worker, samples, version, tau, g, float(rule_.weight(tau))};
  if (c > 1) {  // update = (1/c) * sum over c arrivals of weight(tau)*g
    axpy(update.scale, g, sum_);
    update.g = sum_.view();
    update.scale = 1.0f / float(c);
    update.samples = unapplied_samples_;
  }
  if (++summed_ == c) {
    rule_.apply(w_, update, used_);
    if (c > 1) fill(0, sum_);
    summed_ = 0;
    ++version_;
    used_ += unapplied_samples_;
    unapplied_samples_ = 0;
    if (updated) updated(*this);
  }
  if (arrived) arrived(*this);
}

}  // namespace dsgd
