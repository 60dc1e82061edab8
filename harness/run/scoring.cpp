// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <numeric>

#include "run/rank.h"

namespace dsgd {
namespace {

constexpr std::size_t score_portion = 128;  // test samples between two signs of life

class Scoring {
 public:
  explicit Scoring(Rank& rank)
      : rank_(rank), config_(rank.config), world_(rank.world), process_(rank.process), log_(rank.log) {}

  // All processes score every snapshot together, each on its part of the test set; counts are exact.
  Scores operator()() {
    process_.reporter.phase("score");
    if (const Space& space = process_.device->space(); !space.host()) at_ = Vector(space, rank_.n);
    const double begun = world_.now();
    const std::size_t test = process_.data.test.count;
    const ShardRange part = share(test);
    for (std::size_t i = 0; i < rank_.snapshots->planned(); ++i) {
      load_snapshot(i);
      if (at_.size()) copy(process_.w, at_);
      const ConstVec w = at_.size() ? at_.view() : process_.w.view();
      if (world_.rank() == 0 && !scores_.not_finite && !is_finite(w)) scores_.not_finite = i;
      const Statistics known = statistics(w);
      Loss own_part;
      for (std::size_t first = part.first, last = part.first + part.count; first < last;
           first += score_portion) {
        const Loss scored =
            process_.model.score(w, process_.data.test, first, std::min(first + score_portion, last), known);
        own_part.sum += scored.sum;
        own_part.correct += scored.correct;
        process_.reporter.tell(std::int64_t(i), rank_.seconds(), 0);
      }
      std::array<std::int64_t, 1> correct{own_part.correct};
      std::array<double, 1> loss{own_part.sum};
      world_.sum(correct);
      world_.sum(loss);
      scores_.rows.push_back({.test_loss = loss[0] / double(test),
                              .test_correct = correct[0],
                              .test_count = std::int64_t(test)});
      const bool holder = rank_.holds_copies() && i < log_.own_copies;
      const auto at = holder ? rank_.snapshots->point(i) : Snapshots::Point{};
      std::array<double, 4> low{double(at.used), at.seconds, double(at.version), 0}, high = low;
      if (!holder) low.fill(std::numeric_limits<double>::infinity());
      world_.min(low);
      world_.max(high);
      scores_.rows.back().used = rank_.pairs() ? log_.own_samples[i] : std::int64_t(high[0]);
      scores_.rows.back().seconds = high[1];
      scores_.rows.back().version_min = std::int64_t(low[2]);
      scores_.rows.back().version_max = std::int64_t(high[2]);
    }
    scores_.seconds = world_.now() - begun;
    return std::move(scores_);
  }

 private:
  // Batch norm's statistics of the weights w, the same samples for every snapshot, minibatches
  // shared by all processes. Empty for models without.
  Statistics statistics(ConstVec w) {
    Statistics known = process_.model.statistics();
    if (known.empty()) return known;
    std::vector<std::uint32_t> ids(process_.data.train.count);
    std::iota(ids.begin(), ids.end(), 0);
    shuffled(config_.seed(), 0, ids);
    ids.resize(std::min(ids.size(), std::size_t(config_.settings.integer("statistics_samples"))));
    const std::size_t minibatch = config_.minibatch();
    const ShardRange own = share((ids.size() + minibatch - 1) / minibatch);
    for (std::size_t m = own.first; m < own.first + own.count; ++m) {
      const std::size_t first = m * minibatch;
      process_.model.observe(w, process_.data.train,
                             std::span(ids).subspan(first, std::min(minibatch, ids.size() - first)), known);
      process_.reporter.tell(std::int64_t(scores_.rows.size()), rank_.seconds(), 0);
    }
    world_.sum(known);
    return known;
  }

  // This rank's part of n things that all processes do together.
  ShardRange share(std::size_t n) const {
    if (world_.simulated()) return {0, world_.rank() == 0 ? n : 0};
    return shard_range(n, world_.rank(), world_.size());
  }

  // Everybody has the i-th snapshot in process_.w.
  void load_snapshot(std::size_t i) {
    const ShardRange own = rank_.own();
    const Vec w = process_.w;
    if (rank_.holds_snapshots()) rank_.snapshots->get(i, w.part(own.first, own.count));
    if (world_.simulated()) return world_.barrier();
    if (!config_.servers()) return world_.broadcast(w.data, rank_.n * sizeof(float), 0);
    for (int s = 0; s < world_.servers(); ++s) {
      const ShardRange range = shard_range(rank_.n, s, world_.servers());
      world_.broadcast(w.data + range.first, range.count * sizeof(float), world_.workers() + s);
    }
  }

  Rank& rank_;
  const RunConfig& config_;
  World& world_;
  Process& process_;
  RankLog& log_;
  Vector at_;  // the scored weights, where those are not in the host's memory
  Scores scores_;
};

}  // namespace

Scores score(Rank& rank) { return Scoring{rank}(); }

}  // namespace dsgd
