// SPDX-License-Identifier: Apache-2.0
#include "sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "random.h"

namespace dsgd {
namespace {

constexpr std::uint64_t order_purpose = 'o', draw_purpose = 'd';
constexpr std::uint64_t cut_stream = std::numeric_limits<std::uint64_t>::max();

// The k-th of P even parts of n things begins here.
std::int64_t even(std::int64_t n, std::int64_t k, std::int64_t parts) { return n * k / parts; }

const Sampler::Options& checked(const Sampler::Options& s) {
  if (s.samples == 0 || s.samples > std::numeric_limits<std::uint32_t>::max() || s.workers < 1 ||
      s.worker < 0 || s.worker >= s.workers || s.minibatch < 1)
    throw std::invalid_argument(
        fmt::format("sampler: {} samples, worker {} of {}, minibatch {}: expected 1 to {} samples, a worker "
                    "from 0 to workers - 1, a minibatch of at least 1",
                    s.samples, s.worker, s.workers, s.minibatch, std::numeric_limits<std::uint32_t>::max()));
  return s;
}

}  // namespace

void shuffled(std::uint64_t seed, std::uint64_t stream, std::span<std::uint32_t> ids) {
  std::mt19937_64 engine = seeded(seed, order_purpose, stream);
  for (std::size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[below(engine, std::uint32_t(i))]);
}

void SharedOrders::open(std::uint64_t stream, Order& order) {
  for (const Known& known : known_)
    if (Order found = known.stream == stream ? known.order.lock() : nullptr) {
      order = std::move(found);
      return;
    }
  if (order.use_count() != 1) order = std::make_shared<std::vector<std::uint32_t>>(uses.size());
  std::erase_if(known_, [&](const Known& k) { return k.order.expired() || k.order.lock() == order; });
  std::iota(order->begin(), order->end(), 0u);
  shuffled(seed_, stream, *order);
  known_.push_back({stream, order});
}

Sampler::Sampler(const Options& settings, std::shared_ptr<SharedOrders> shared)
    : settings_(checked(settings)),
      shared_(shared ? std::move(shared) : std::make_shared<SharedOrders>(settings.samples, settings.seed)) {
  const auto& s = settings_;
  if (s.order == DataOrder::shard) {
    SharedOrders::Order cut;
    shared_->open(cut_stream, cut);
    const auto n = std::int64_t(s.samples);
    part_.assign(cut->begin() + even(n, s.worker, s.workers),
                 cut->begin() + even(n, s.worker + 1, s.workers));
    std::sort(part_.begin(), part_.end());
    own_.resize(part_.size());
  }
  if (s.fraction > 0) own_.reserve(s.samples);
  open_epoch(0);
}

void Sampler::open_epoch(std::int64_t epoch) {
  if (epoch == open_) return;
  open_ = epoch;
  if (settings_.order == DataOrder::shard) {
    std::copy(part_.begin(), part_.end(), own_.begin());
    shuffled(settings_.seed, std::uint64_t(epoch * settings_.workers + settings_.worker), own_);
  } else {
    shared_->open(std::uint64_t(epoch), all_);
  }
}

Minibatch Sampler::hand_out(std::span<const std::uint32_t> ids, std::int64_t global_count) {
  for (const std::uint32_t id : ids) ++shared_->uses[id];
  ++steps_;
  used_ += global_count;
  return {ids, global_count, false, open_};
}

Minibatch Sampler::next() {
  if (settings_.order == DataOrder::queue) throw std::logic_error("Sampler::next: a queue is read by at()");
  const std::int64_t rest = settings_.budget - used_;
  if (rest <= 0) return {};
  Minibatch batch = settings_.fraction > 0                 ? next_draw(rest)
                    : settings_.order == DataOrder::global ? next_global(rest)
                                                           : next_shard(rest);
  batch.last = used_ == settings_.budget;
  return batch;
}

Minibatch Sampler::next_global(std::int64_t rest) {
  const auto& s = settings_;
  const auto samples = std::int64_t(s.samples);
  if (done_ == samples) {
    ++epoch_;
    done_ = 0;
  }
  open_epoch(epoch_);
  const std::int64_t count = std::min({std::int64_t(s.workers) * s.minibatch, samples - done_, rest});
  const std::int64_t first = bound(count, s.worker), end = bound(count, s.worker + 1);
  const auto ids = order().subspan(std::size_t(done_ + first), std::size_t(end - first));
  done_ += count;
  return hand_out(ids, count);
}

std::int64_t Sampler::bound(std::int64_t count, int worker) const {
  const auto& shares = settings_.shares;
  if (shares.empty() || worker == settings_.workers) return even(count, worker, settings_.workers);
  return std::llround(double(count) * std::accumulate(shares.begin(), shares.begin() + worker, 0.0));
}

// All workers draw alike, so that each knows the count of all; a round that draws nothing is left out.
Minibatch Sampler::next_draw(std::int64_t rest) {
  const bool shard = settings_.order == DataOrder::shard;
  const double below = std::ldexp(settings_.fraction, 53);
  std::int64_t count = 0;
  for (; count == 0; ++round_) {
    const std::uint64_t round = hash(settings_.seed, draw_purpose, std::uint64_t(round_));
    auto own = part_.begin();
    own_.clear();
    for (std::uint32_t id = 0; id < settings_.samples && count < rest; ++id) {
      const bool here = !shard || (own != part_.end() && *own == id);
      if (shard && here) ++own;
      if (double(mixed(round + id) >> 11) >= below) continue;
      ++count;
      if (here) own_.push_back(id);
    }
  }
  open_ = round_ - 1;
  if (shard) return hand_out(own_, count);
  const std::int64_t first = bound(count, settings_.worker), end = bound(count, settings_.worker + 1);
  return hand_out(std::span(own_).subspan(std::size_t(first), std::size_t(end - first)), count);
}

Minibatch Sampler::next_shard(std::int64_t rest) {
  const auto& s = settings_;
  const auto samples = std::int64_t(s.samples);
  const std::int64_t largest = (samples + s.workers - 1) / s.workers;
  if (done_ * s.minibatch >= largest) {
    ++epoch_;
    done_ = 0;
  }
  open_epoch(epoch_);
  const std::int64_t first = done_ * s.minibatch;
  const auto left = [&](std::int64_t worker) {  // for this step
    const std::int64_t size = even(samples, worker + 1, s.workers) - even(samples, worker, s.workers);
    return std::clamp<std::int64_t>(size - first, 0, s.minibatch);
  };
  std::int64_t before = 0, total = 0;
  for (int worker = 0; worker < s.workers; ++worker) {
    if (worker == s.worker) before = total;
    total += left(worker);
  }
  // A step that exceeds the budget is cut in proportion to what each worker would have got.
  const std::int64_t count = std::min(total, rest);
  const std::int64_t own = even(count, before + left(s.worker), total) - even(count, before, total);
  ++done_;
  return hand_out(
      own ? order().subspan(std::size_t(first), std::size_t(own)) : std::span<const std::uint32_t>(), count);
}

Minibatch Sampler::next_own(int most) {
  if (settings_.order != DataOrder::shard)
    throw std::logic_error("Sampler::next_own: the order is not shard");
  const auto size = std::int64_t(order().size());
  if (size == 0 || most <= 0) return {};
  if (done_ == size) {
    ++epoch_;
    done_ = 0;
  }
  open_epoch(epoch_);
  const std::int64_t count = std::min<std::int64_t>({most, settings_.minibatch, size - done_});
  const auto ids = order().subspan(std::size_t(done_), std::size_t(count));
  done_ += count;
  return hand_out(ids, count);
}

Minibatch Sampler::at(std::int64_t position, int count) {
  if (settings_.order != DataOrder::queue) throw std::logic_error("Sampler::at: the order is not queue");
  if (position < 0 || count < 0 || count > settings_.minibatch)
    throw std::invalid_argument(
        fmt::format("Sampler::at: position {}, count {}: expected a position from 0 and "
                    "a count from 0 to the minibatch, {}",
                    position, count, settings_.minibatch));
  if (count == 0) return {};
  const auto samples = std::int64_t(settings_.samples), first = position % samples;
  const std::int64_t own = std::min<std::int64_t>(count, samples - first);
  open_epoch(position / samples);
  Minibatch batch = hand_out(order().subspan(std::size_t(first), std::size_t(own)), own);
  batch.last = position + own >= settings_.budget;
  return batch;
}

}  // namespace dsgd
