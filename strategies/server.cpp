// SPDX-License-Identifier: Apache-2.0
#include "server.h"

#include <algorithm>

#include "uniform.h"

namespace dsgd {

Shard::Shard(const Options& settings, Rule& rule, Vec w)
    : settings_(settings),
      rule_(rule),
      w_(w),
      sums_(rule.arrivals() > 1 || rule.batch() > 0),
      sum_(*w.space, sums_ ? w.size : 0),
      outstanding_(settings.workers),
      pushes_(settings.workers) {
  for (int k = 0; k < settings.workers && rule.repeats(); ++k) last_.push_back({Vector(*w.space, w.size)});
}

std::optional<Shard::Reply> Shard::pull(int worker, std::int64_t want, What what) {
  if (used_ < what.least) return std::nullopt;
  std::optional<Portion> work = Portion{position_, 0, {}};
  if (want > 0) work = rule_.batch() ? grant_of_batch(worker, want) : grant(worker, want);
  if (!work) return std::nullopt;
  if (what.w) rule_.sent(worker, w_);
  return Reply{version_, used_, work->position, work->count, rule_.number()};
}

std::optional<Shard::Portion> Shard::grant(int worker, std::int64_t want) {
  const std::int64_t count = spent_ ? 0 : std::min(want, settings_.budget - granted_);
  // The first shard's grants count; what is left by another one's own order says nothing about the worker.
  if ((count > 0 || !settings_.first) && !rule_.admit(worker, used_)) return std::nullopt;
  spent_ = count == 0;
  const Portion portion{position_, count, {}};
  granted_ += count;
  position_ += count;
  outstanding_[worker] += count;
  return portion;
}

// What nobody works on any more, what is new, or a copy. Portions that a worker had are done by now or lost.
std::optional<Shard::Portion> Shard::grant_of_batch(int worker, std::int64_t want) {
  if (!settings_.first) return Portion{};
  release(worker);
  const auto fewest = std::min_element(out_.begin(), out_.end(), [](const Portion& a, const Portion& b) {
    return a.workers.size() < b.workers.size();
  });
  const std::int64_t fresh = std::min({want, rule_.batch() - handed_out_, settings_.budget - granted_});
  const bool orphan = fewest != out_.end() && fewest->workers.empty();
  if (!orphan && fresh > 0) {
    out_.push_back({position_ + handed_out_, fresh, {worker}});
    handed_out_ += fresh;
    granted_ += fresh;
    return out_.back();
  }
  if (!orphan && granted_ >= settings_.budget) return Portion{};
  if (fewest == out_.end() || int(fewest->workers.size()) > rule_.backups()) return std::nullopt;
  fewest->workers.push_back(worker);
  return *fewest;
}

void Shard::release(int worker) {
  for (Portion& portion : out_) std::erase(portion.workers, worker);
}

bool Shard::lost(int worker) {
  if (settings_.drop == 0 || uniform(settings_.seed, worker, pushes_[worker]++) >= settings_.drop)
    return false;
  ++dropped_;
  return true;
}

void Shard::push(int worker, std::int64_t version, std::int64_t samples, ConstVec g, const Origin& from) {
  outstanding_[worker] = std::max<std::int64_t>(outstanding_[worker] - samples, 0);
  if (lost(worker)) return;
  if (rule_.batch()) {
    if (from.used != used_ || !done_.insert(from.position).second) {
      ++late_;
      return;
    }
    std::erase_if(out_, [&](const Portion& p) { return p.position == from.position; });
  }
  if (!last_.empty() && g.data != last_[worker].g.data()) {
    copy(g, last_[worker].g);
    last_[worker].version = version;
  }
  take({.worker = worker,
        .samples = samples,
        .version = version,
        .tau = version_ - version,
        .g = g,
        .number = from.number});
}

void Shard::push_again(int worker, std::int64_t samples) {
  const Last& last = last_.at(worker);
  if (last.version >= 0) return push(worker, last.version, samples, last.g.view());
  outstanding_[worker] = std::max<std::int64_t>(outstanding_[worker] - samples, 0);
  ++dropped_;
}

void Shard::take(const Arrival& arrival) {
  const std::int64_t tau = arrival.tau;
  if (staleness_.size() <= std::size_t(tau)) staleness_.resize(2 * tau + 2);
  ++staleness_[tau];
  ++arrivals_;
  ++summed_;
  unapplied_samples_ += arrival.samples;

  Arrival update = arrival;
  update.scale = float(rule_.weight(tau));
  if (sums_) {  // update = (1/c) * sum over c arrivals of weight(tau)*g
    axpy(update.scale, arrival.g, sum_);
    update.g = sum_.view();
    update.number = number_ += arrival.number;
    update.samples = unapplied_samples_;
    update.scale = 1.0f / float(rule_.batch() ? rule_.batch() : summed_);
  }
  if (rule_.batch() ? unapplied_samples_ == rule_.batch() : summed_ >= rule_.arrivals()) {
    rule_.apply(w_, update, used_);
    if (sums_) fill(0, sum_);
    number_ = 0;
    summed_ = 0;
    ++version_;
    used_ += unapplied_samples_;
    unapplied_samples_ = 0;
    done_.clear();
    handed_out_ = 0;
    if (!rule_.same_batch()) position_ += rule_.batch();
    if (updated) updated(*this);
  }
  if (arrived) arrived(*this);
}

std::int64_t Shard::leave(int worker) {
  const std::int64_t back = spent_ || rule_.batch() ? 0 : outstanding_[worker];
  granted_ -= back;
  outstanding_[worker] = 0;
  release(worker);
  rule_.left(worker);
  finish(worker);
  return back;
}

}  // namespace dsgd
