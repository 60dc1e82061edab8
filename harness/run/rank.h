// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "config/cluster.h"
#include "config/experiment.h"
#include "results/record.h"
#include "run/process.h"
#include "run/replica.h"
#include "run/snapshots.h"

namespace dsgd {

// What one rank records. Times are seconds since the clock started.
struct RankLog {
  std::vector<StepRow> steps;
  std::vector<StalenessRow> staleness;
  std::vector<RequestRow> requests;
  std::vector<DepartureRow> departures;    // of this rank
  std::array<std::vector<Span>, 3> spans;  // by SpanRow::Kind
  RankRow totals;
  std::string collectives;  // library that carries sums between workers
  bool finite = true;       // whether this worker's final weights are finite
  double setup_s = 0, last_seconds = 0;
  double seconds = 0;                                 // of the whole run; the same on all ranks
  std::int64_t used = 0, updates = 0, unapplied = 0;  // samples, updates, samples
  // Number of copies that this rank had taken when it left early; later ones do not count.
  std::size_t own_copies = std::numeric_limits<std::size_t>::max();
  std::vector<std::int64_t> own_samples;  // of workers in pairs: at each copy; at the end, of all workers
};

// One rank of a run, as its phases share it. They are called in this order: train() or serve(), score(),
// report().
struct Rank {
  // begun: when its setup began, in World::now(). cluster: of a simulated run, else null. Throws
  // std::runtime_error if ranks or data do not fit the configuration.
  Rank(World& w, const RunConfig& c, const std::filesystem::path& file, Process& p, double begun,
       const Cluster* cluster);

  double seconds() const { return world.now() - start; }
  void start_clock();  // collective over all ranks; called when all are ready
  bool pairs() const { return config.strategy->pairs(); }
  bool traced() const { return config.settings.flag("trace"); }
  // The part of the model of which this rank keeps copies.
  ShardRange own() const;
  // Whether this rank keeps snapshots: the servers if there are any, else rank 0.
  bool holds_snapshots() const { return config.servers() ? !world.is_worker() : world.rank() == 0; }
  // As above, and workers in pairs, whose copies are averaged into snapshots.
  bool holds_copies() const { return holds_snapshots() || (pairs() && world.is_worker()); }
  Pace pace() { return {world, charges ? &*charges : nullptr, slowness ? &*slowness : nullptr}; }

  World& world;
  const RunConfig& config;
  const std::filesystem::path part;  // of the record; empty: no record
  Process& process;
  const double setup_start;
  const std::size_t n;  // parameters of the model
  double start = 0;     // of the clock, in the world's time
  std::optional<Charges> charges;
  std::optional<Slowness> slowness;
  std::optional<Snapshots> snapshots;
  std::optional<Recorder> recorder;  // on rank 0
  RankLog log;
};

struct Scores {
  std::vector<SnapshotRow> rows;
  std::optional<std::size_t> not_finite;  // the first snapshot with a weight that is not finite
  double seconds = 0;
};

void train(Rank& rank);                         // a worker's part
void serve(Rank& rank);                         // a server's part
Scores score(Rank& rank);                       // collective: scores every snapshot on the whole test set
void report(Rank& rank, const Scores& scores);  // collective: rank 0 completes the record

inline bool is_finite(ConstVec w) { return std::isfinite(dot(w, w)); }
// Throws std::runtime_error if a replay did not take the recorded requests in their order.
void check_course(std::span<const Request> made, std::span<const Request> planned);

}  // namespace dsgd
