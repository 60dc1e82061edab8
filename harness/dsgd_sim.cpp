// SPDX-License-Identifier: Apache-2.0
// dsgd-sim: one simulated run, all of its ranks in this process. Started by dsgd:
//   dsgd-sim PLAN PART [DATA_DIR]
//   dsgd-sim --check PLAN          whether the plan's cluster can be simulated
//   dsgd-sim --replay RESULT ANYWAY [DATA_DIR]     `dsgd replay`; ANYWAY: 1 or 0

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <sstream>

#include "results/record.h"
#include "results/results.h"
#include "run/run.h"

namespace dsgd {
namespace {

// Why this program, on this host, need not end with the recorded bits.
std::vector<std::string> doubts(const RunResult& recorded, const RunConfig& config, const Process& process) {
  auto here = process.provenance();
  here.merge(provenance_here());
  std::vector<std::string> found;
  for (const char* key : {"commit", "dirty", "compiler", "build_type", "flags", "cpu", "instruction_set",
                          "threads", "device_library", "plan_sha256"}) {
    const auto was = recorded.provenance.find(key);
    const std::string then = was == recorded.provenance.end() ? "unknown" : to_string(was->second);
    if (const std::string now = to_string(here.at(key)); then != now)
      found.push_back(fmt::format("{} was {} and is {}", key, then, now));
  }
  const auto hosts = recorded.provenance.find("host");
  if (hosts != recorded.provenance.end() && to_string(hosts->second).find(", ") != std::string::npos &&
      config.workers() > 2 && config.servers() == 0)
    found.push_back(fmt::format("the sums of its {} workers on several hosts are added in another order",
                                config.workers()));
  return found;
}

// What each shard took, or each worker answered, in that order.
std::vector<std::vector<Request>> course_of(const RunResult& recorded, const RunConfig& config) {
  std::vector<std::vector<Request>> course(config.strategy->pairs() ? config.workers() : config.servers());
  for (const RequestRow& row : read_requests(recorded.file)) {
    if (row.worker < 0 || row.worker >= config.workers())
      throw std::runtime_error(fmt::format("{}: a request of worker {}, of which there are {}",
                                           recorded.file.string(), row.worker, config.workers()));
    course.at(row.shard).push_back(
        {row.worker, Request::Kind(row.kind), row.version, row.samples, row.position});
  }
  for (std::size_t k = 0; k < course.size(); ++k)
    if (course[k].empty() && (config.servers() || k % 2))
      throw std::runtime_error(
          fmt::format("{}: the order in which requests were taken is not recorded", recorded.file.string()));
  return course;
}

int replay(const std::string& file, bool anyway, const std::string& data_dir) {
  const RunResult recorded = read_result(file);
  RunConfig config = parse_run(std::get<std::string>(recorded.config.at("text")));
  if (config.skips_gradients())
    throw std::runtime_error(fmt::format("{}: gradients were skipped, so there are no weights", file));
  const auto weights = recorded.result.find("weights_sha256");
  if (weights == recorded.result.end())
    throw std::runtime_error(fmt::format("{}: the run did not reach its end: {}", file, recorded.detail));
  config.settings.set("snapshots", std::int64_t(0));  // they do not change what is learned
  config.settings.set("snapshot_memory_mib", std::int64_t(1000000));

  Process process(config, data_dir, Reporter::nobody);
  process.replayed = course_of(recorded, config);
  const auto why = doubts(recorded, config, process);
  if (!why.empty()) {
    const std::string all =
        fmt::format("{}: other weights are to be expected here: {}", file, fmt::join(why, "; "));
    if (!anyway) throw std::runtime_error(all + " (--anyway replays it all the same)");
    fmt::print(stderr, "{}\n", all);
  }
  // The order is given, so that time does not matter: one host, where computing takes none.
  Simulation simulation({.hosts = {{.bandwidth = 10e9}}});
  simulation.run(std::vector<int>(config.ranks()), [&](int) { run_rank(config, "", process, nullptr); });
  const std::string was = std::get<std::string>(weights->second), is = process.weights_sha256();
  fmt::print("{}: {} weights\n  recorded {}\n  replayed {}\n", recorded.name,
             is == was ? "the same" : "other", was, is);
  return is == was ? 0 : 1;
}

int simulate(const std::string& plan, const std::string& part, const std::string& data_dir) {
  const bool check = plan == "--check";
  std::ifstream in(check ? part : plan);
  std::stringstream text;
  text << in.rdbuf();
  const RunConfig config = parse_run(text.str());
  const Cluster cluster(config);
  Simulation simulation(cluster.platform());
  if (check) return 0;
  Process process(config, data_dir, 0);
  simulation.run(cluster.seats(), [&](int) { run_rank(config, part, process, &cluster); });
  return 0;
}

}  // namespace
}  // namespace dsgd

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    if (words == std::vector<std::string>{"--version"}) {
      fmt::print("{}\n", dsgd::World::library());
      return 0;
    }
    if (words.size() < 2)
      throw std::runtime_error("started by `dsgd run` and `dsgd sweep` with engine = \"simulated\"");
    const auto word = [&](std::size_t i) { return i < words.size() ? words[i] : std::string(); };
    if (words[0] == "--replay") return dsgd::replay(words[1], word(2) == "1", word(3));
    return dsgd::simulate(words[0], words[1], word(2));
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsgd: {}\n", e.what());
    return 2;
  }
}
