// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "parameter.h"
#include "results/schema.h"

namespace dsgd {

// One result file. Derived numbers are defined in results/README.md; a number that a run does not have is
// empty.
struct RunResult {
  std::filesystem::path file;
  std::string name, id, title, engine, outcome, detail, history;
  std::map<std::string, Value> config, effective, provenance, result;
  std::map<std::string, Value> expressions;  // of settings that depend on the number of workers
  std::vector<SnapshotRow> snapshots;
  std::vector<RankRow> ranks;
  std::vector<StalenessRow> staleness;
  std::vector<DepartureRow> departures;
  bool traced = false;  // has spans

  std::string strategy() const { return std::get<std::string>(config.at("strategy")); }
  std::int64_t integer(const std::string& key) const { return std::get<std::int64_t>(config.at(key)); }
  bool ok() const { return outcome == "ok"; }
  bool simulated() const { return engine == "simulated"; }  // seconds are virtual
  std::optional<double> accuracy() const;                   // of the final model
  std::optional<double> throughput() const;                 // samples per second of all workers
  std::optional<double> time_to(double target) const;       // seconds
  std::optional<double> mean_staleness() const;
  std::optional<double> megabytes_per_worker() const;
  std::optional<double> snapshot_share() const;  // of the total time, on the rank that takes longest
  std::string origin() const { return origin_of(provenance); }

  // What must be equal for runs to be comparable: commit, dirty flag, build, class of host.
  static std::string origin_of(const std::map<std::string, Value>& provenance);
};
RunResult read_result(const std::filesystem::path& file);  // throws std::runtime_error
std::vector<StepRow> read_steps(const std::filesystem::path& file);
std::vector<RequestRow> read_requests(const std::filesystem::path& file);
std::vector<SpanRow> read_spans(const std::filesystem::path& file);

struct ResultFolder {
  std::vector<RunResult> runs;          // sorted by name
  std::vector<std::string> unreadable;  // one message per file
};
ResultFolder read_folder(const std::filesystem::path& folder);  // NAME.h5 only

// The contents of a result file, formatted for a terminal.
std::string show(const RunResult& run);

}  // namespace dsgd
