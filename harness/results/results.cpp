// SPDX-License-Identifier: Apache-2.0
#include "results/results.h"

#include <fmt/format.h>

#include <algorithm>

#include "results/text.h"
#include "run/outcome.h"

namespace dsgd {
namespace {

std::map<std::string, Value> attributes(hid_t file, const std::string& name) {
  std::map<std::string, Value> result;
  if (!h5::exists(file, name)) return result;
  const h5::Handle object = h5::group(file, name);
  for (const std::string& key : h5::names(object)) result[key] = h5::get(object, key);
  return result;
}

// Part files, of runs that have not ended, are read as they are.
h5::Handle open_result(const std::filesystem::path& path) {
  if (path.extension() != ".part") h5::verify(path, result_format);
  return h5::open(path, false);
}

}  // namespace

std::optional<double> RunResult::accuracy() const {
  if (snapshots.empty()) return std::nullopt;
  return snapshots.back().accuracy();
}

std::optional<double> RunResult::throughput() const {
  if (!has_speed(outcome)) return std::nullopt;
  return double(std::get<std::int64_t>(result.at("samples"))) / std::get<double>(result.at("seconds"));
}

std::optional<double> RunResult::time_to(double target) const {
  if (!ok()) return std::nullopt;
  for (const SnapshotRow& s : snapshots)
    if (s.accuracy() >= target) return s.seconds;
  return std::nullopt;
}

std::optional<double> RunResult::mean_staleness() const {
  double sum = 0, count = 0;
  for (const StalenessRow& row : staleness) {
    sum += double(row.tau) * double(row.count);
    count += double(row.count);
  }
  if (count == 0) return std::nullopt;
  return sum / count;
}

std::optional<double> RunResult::megabytes_per_worker() const {
  double sum = 0, count = 0;
  for (const RankRow& row : ranks)
    if (!row.server) sum += double(row.bytes_sent) / 1e6, ++count;
  if (count == 0) return std::nullopt;
  return sum / count;
}

std::optional<double> RunResult::snapshot_share() const {
  const auto seconds = result.find("seconds");
  if (seconds == result.end() || ranks.empty()) return std::nullopt;
  const auto longest = std::max_element(ranks.begin(), ranks.end(), [](const RankRow& a, const RankRow& b) {
    return a.snapshot_s < b.snapshot_s;
  });
  return longest->snapshot_s / std::get<double>(seconds->second);
}

std::string RunResult::origin_of(const std::map<std::string, Value>& provenance) {
  return fmt::format("commit {}{}, {} {} {}, {} with {} cores", text(provenance, "commit").substr(0, 12),
                     text(provenance, "dirty") == "true" ? " with changes" : "", text(provenance, "compiler"),
                     text(provenance, "build_type"), text(provenance, "flags"), text(provenance, "cpu"),
                     text(provenance, "cores"));
}

RunResult read_result(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  RunResult run;
  run.file = path;
  if (!h5::has(file, "schema") || std::get<std::int64_t>(h5::get(file, "schema")) != schema_version)
    throw std::runtime_error(
        fmt::format("{}: not a result file of schema version {}", path.string(), schema_version));
  const auto own = attributes(file, "/");
  run.name = text(own, "name");
  run.id = text(own, "id");
  run.title = text(own, "title");
  run.engine = text(own, "engine");
  run.outcome = text(own, "outcome");
  run.detail = text(own, "outcome_detail");
  run.history = text(own, "history");
  run.config = attributes(file, "config");
  run.effective = attributes(file, "effective");
  run.expressions = attributes(file, "expressions");
  run.provenance = attributes(file, "provenance");
  run.result = attributes(file, "result");
  for (const auto& [group, key] :
       std::initializer_list<std::pair<const std::map<std::string, Value>*, const char*>>{
           {&run.config, "strategy"},
           {&run.config, "workers"},
           {&run.config, "minibatch"},
           {&run.config, "seed"},
           {&run.config, "target"},
           {&run.provenance, "started"}})
    if (!group->contains(key))
      throw std::runtime_error(fmt::format("{}: damaged: expected an attribute {}", path.string(), key));
  run.snapshots = h5::read_table<SnapshotRow>(file, "snapshots");
  run.ranks = h5::read_table<RankRow>(file, "ranks");
  run.staleness = h5::read_table<StalenessRow>(file, "staleness");
  run.departures = h5::read_table<DepartureRow>(file, "departures");
  run.traced = h5::exists(file, "spans");
  return run;
}

std::vector<StepRow> read_steps(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  return h5::read_table<StepRow>(file, "steps");
}

std::vector<RequestRow> read_requests(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  return h5::read_table<RequestRow>(file, "requests");
}

std::vector<SpanRow> read_spans(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  return h5::read_table<SpanRow>(file, "spans");
}

ResultFolder read_folder(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder))
    throw std::runtime_error(
        fmt::format("{}: no such folder (expected one with result files, NAME.h5)", folder.string()));
  ResultFolder result;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".h5") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) try {
      result.runs.push_back(read_result(file));
    } catch (const std::exception& e) {
      result.unreadable.emplace_back(e.what());
    }
  return result;
}

}  // namespace dsgd
