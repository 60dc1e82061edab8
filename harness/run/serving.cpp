// SPDX-License-Identifier: Apache-2.0
#include "run/rank.h"

namespace dsgd {

void serve(Rank& rank) {
  const ShardRange own = rank.own();
  Context context = context_of(rank.config, own.count);
  context.space = rank.process.w.view().space;
  context.shards = &rank.world.shards();
  if (rank.config.servers() == 1) context.optimizer.layers = extents(rank.process.network);
  const auto rule = rank.config.strategy->make_rule(rank.config.strategy_settings, context);
  const int number = rank.world.rank() - rank.world.workers();
  Shard shard({.workers = rank.config.workers(),
               .minibatch = rank.config.minibatch(),
               .budget = rank.config.samples(),
               .drop = rank.config.settings.number("faults.drop"),
               .seed = rank.config.seed(),
               .first = number == 0},
              *rule, rank.process.w.view().part(own.first, own.count));
  shard.updated = [&](const Shard& s) {
    if (!rank.snapshots->due(s.used())) return;
    const double begun = rank.seconds();
    rank.snapshots->take({s.used(), begun, s.version()}, rule->master(s.w()));
    rank.log.totals.snapshot_s += rank.seconds() - begun;
  };
  shard.arrived = [&](const Shard& s) {
    if (rank.charges) rank.world.charge(rank.charges->update(own.count));
    rank.log.last_seconds = rank.seconds();
    rank.process.reporter.tell(s.used(), rank.log.last_seconds, 0);
  };
  if (!rank.process.replayed.empty()) shard.replayed = rank.process.replayed.at(number);
  rank.start_clock();
  rank.snapshots->take({0, 0, 0}, rule->master(shard.w()));
  rank.world.serve(shard);
  if (!shard.replayed.empty()) check_course(shard.requests, shard.replayed);
  rank.snapshots->finish({shard.used(), rank.log.last_seconds, shard.version()}, rule->master(shard.w()));
  rank.log.used = shard.used();
  rank.log.updates = shard.version();
  rank.log.unapplied = shard.unapplied();
  for (std::size_t tau = 0; tau < shard.staleness().size(); ++tau)
    if (const auto count = shard.staleness()[tau])
      rank.log.staleness.push_back({number, std::int64_t(tau), count});
  for (const Request& r : shard.requests)
    rank.log.requests.push_back({number, r.worker, r.kind, r.version, r.samples, r.position});
}

}  // namespace dsgd
