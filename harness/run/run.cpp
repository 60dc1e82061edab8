// SPDX-License-Identifier: Apache-2.0
#include "run/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "run/rank.h"

namespace dsgd {
namespace {

void run_phases(Rank&& rank) {
  World& world = rank.world;
  world.is_worker() ? train(rank) : serve(rank);
  rank.log.totals.total_s = rank.log.last_seconds;
  if (!world.simulated()) world.barrier();  // who is done leaves the core to the others
  std::array<double, 1> longest{rank.log.totals.total_s};
  world.max(longest);
  rank.log.seconds = longest[0];
  report(rank, rank.config.skips_gradients() ? Scores{} : score(rank));
  rank.process.reporter.phase("done");
}

// Runs `body(world)`, and ends all ranks where it fails.
template <typename Body>
void in_world(const RunConfig& config, Body body) {
  const auto world = World::open(config.servers(), config.minibatch());
  const auto fail = [&](const char* why) {
    fmt::print(stderr, "rank {}: {}\n", world->rank(), why);
    world->abort();
  };
  try {
    body(*world);
  } catch (const std::bad_alloc&) {
    fail("not enough memory for data set, model and snapshots (snapshot_memory_mib)");
  } catch (const std::exception& e) {
    fail(e.what());
  }
}

}  // namespace

void run_rank(const RunConfig& config, const std::filesystem::path& part,
              const std::filesystem::path& data_dir) {
  in_world(config, [&](World& world) {
    const double begun = world.now();
    Process process(config, data_dir, world.rank());
    run_phases({world, config, part, process, begun, nullptr});
  });
}

void run_rank(const RunConfig& config, const std::filesystem::path& part, Process& process,
              const Cluster* cluster) {
  in_world(config, [&](World& world) { run_phases({world, config, part, process, world.now(), cluster}); });
}

}  // namespace dsgd
