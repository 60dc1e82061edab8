// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "results/results.h"
#include "results/text.h"

namespace dsgd {

std::string show(const RunResult& run) {
  std::string out = fmt::format("{}\n{}: {} ({})\n", run.file.string(), run.name, run.outcome, run.detail);
  if (run.simulated())
    out += fmt::format("simulated: seconds are virtual, those of the cluster {}\n",
                       text(run.config, "cluster.name"));
  if (!run.history.empty()) out += "earlier attempts:\n" + run.history;
  const auto section = [&](const char* title, const std::map<std::string, Value>& values) {
    if (values.empty()) return;
    out += fmt::format("\n{}\n", title);
    for (const auto& [key, value] : values)
      if (key != "text" && key != "plan") out += fmt::format("  {:<32} {}\n", key, plain(value));
  };
  section("configuration", run.config);
  section("expressions", run.expressions);
  section("effective", run.effective);
  section("result", run.result);
  section("provenance", run.provenance);
  if (const std::string plan = text(run.provenance, "plan"); !plan.empty()) {
    out += "\nplan\n";
    for (std::size_t at = 0; at < plan.size();) {
      const std::size_t end = plan.find('\n', at);
      out += "  " + plan.substr(at, end - at) + "\n";
      at = end + 1;
    }
  }
  if (!run.snapshots.empty()) {
    std::vector<std::vector<std::string>> cells{
        {"samples", "seconds", "version", "test loss", "test accuracy %"}};
    for (const SnapshotRow& s : run.snapshots)
      cells.push_back({std::to_string(s.used), fmt::format("{:.3f}", s.seconds),
                       s.version_min == s.version_max ? std::to_string(s.version_min)
                                                      : fmt::format("{}-{}", s.version_min, s.version_max),
                       fmt::format("{:.4f}", s.test_loss), fmt::format("{:.2f}", 100 * s.accuracy())});
    out += "\nsnapshots\n" + aligned(cells);
    if (const auto share = run.snapshot_share())
      out += fmt::format("copied in {:.3f} % of the clock, scored in {:.2f} s after it\n", 100 * *share,
                         std::get<double>(run.result.at("scoring_s")));
  }
  if (!run.ranks.empty()) {
    std::vector<std::vector<std::string>> cells{{"rank", "role", "steps", "samples", "total s", "compute s",
                                                 "communication s", "wait s", "snapshot s", "MB sent",
                                                 "MB received", "messages", "synchronisations"}};
    for (const RankRow& r : run.ranks)
      cells.push_back({std::to_string(r.rank), r.server ? "server" : "worker", std::to_string(r.steps),
                       std::to_string(r.samples), fmt::format("{:.3f}", r.total_s),
                       fmt::format("{:.3f}", r.compute_s), fmt::format("{:.3f}", r.communication_s),
                       fmt::format("{:.3f}", r.wait_s), fmt::format("{:.3f}", r.snapshot_s),
                       fmt::format("{:.2f}", double(r.bytes_sent) / 1e6),
                       fmt::format("{:.2f}", double(r.bytes_received) / 1e6), std::to_string(r.messages),
                       std::to_string(r.synchronisations)});
    out += "\nranks\n" + aligned(cells);
  }
  if (const auto staleness = run.mean_staleness()) {
    out += fmt::format("\nstaleness: mean {:.3f}\n", *staleness);
    for (const StalenessRow& s : run.staleness)
      out += fmt::format("  shard {}  tau {:>3}  {}\n", s.shard, s.tau, s.count);
  }
  return out;
}

}  // namespace dsgd
