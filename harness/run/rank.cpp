// SPDX-License-Identifier: Apache-2.0
#include "run/rank.h"

#include <fmt/format.h>

#include <algorithm>

namespace dsgd {

Rank::Rank(World& w, const RunConfig& c, const std::filesystem::path& file, Process& p, double begun,
           const Cluster* cluster)
    : world(w), config(c), part(file), process(p), setup_start(begun), n(p.w.view().size) {
  if (world.size() != config.ranks())
    throw std::runtime_error(
        fmt::format("the run needs {} MPI ranks ({} workers, {} servers) but was started with {}",
                    config.ranks(), config.workers(), config.servers(), world.size()));
  if (const auto misfit = training_conflict(config, process.data.train.count))
    throw std::runtime_error(fmt::format("{}: {}", misfit->keys.front(), misfit->what));
  if (cluster) charges.emplace(config, *cluster, process.network, world.rank());
  if (!world.simulated() && config.slowed()) slowness.emplace(config, world.rank());
  snapshots.emplace(snapshot_points(config.samples(), int(config.settings.integer("snapshots"))),
                    holds_copies() && !config.skips_gradients() ? own().count : 0,
                    std::size_t(config.settings.integer("snapshot_memory_mib")) << 20, part.parent_path());
}

ShardRange Rank::own() const {
  return world.is_worker() ? ShardRange{0, world.rank() == 0 || pairs() ? n : 0}
                           : shard_range(n, world.rank() - world.workers(), world.servers());
}

void Rank::start_clock() {
  world.barrier();
  world.traffic() = {};
  if (traced()) {
    world.traffic().seconds.spans = &log.spans[SpanRow::transfer];
    world.traffic().waited.spans = &log.spans[SpanRow::wait];
  }
  start = world.now();
  log.setup_s = start - setup_start;
  process.reporter.phase("train", process.gradient_s);
}

void check_course(std::span<const Request> made, std::span<const Request> planned) {
  const auto at = std::mismatch(made.begin(), made.end(), planned.begin(), planned.end());
  if (at.first != made.end() || at.second != planned.end())
    throw std::runtime_error(
        fmt::format("left the recorded course at request {} of {}", at.first - made.begin(), planned.size()));
}

}  // namespace dsgd
