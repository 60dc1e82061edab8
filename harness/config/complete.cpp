// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/reader.h"
#include "fetch.h"

namespace dsgd {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t most_platform = 16 << 20;  // bytes

}  // namespace

const ClusterFile& Reader::cluster_file(const std::string& name, const Choice* cause) {
  const auto [at, fresh] = clusters_.try_emplace(name);
  ClusterFile& file = at->second;
  if (!fresh) return file;
  const std::size_t reading = source_, problems = problems_.size();
  try {
    const fs::path path = find_shipped(name, known_clusters(), "cluster");
    const std::string text = read_file(path, "a TOML file, or one of `dsgd list clusters`");
    file.folder = path.parent_path();
    source_ = sources_.size();
    sources_.push_back(path.string());
    read_table(parse(text), "", file.scope);
    for (const auto& [key, axis] : file.scope.axes)
      if (axis.values.size() > 1)
        problem(axis.places[1], key, "a cluster has one value of each key (allowed: arrays in experiments)");
  } catch (const toml::parse_error& e) {
    problem(place(e.source()), "syntax", explain(e));
  } catch (const ConfigError& e) {
    problem(cause ? cause->place() : SourcePlace{}, "cluster", e.what());
  }
  source_ = reading;
  file.good = problems_.size() == problems;
  return file;
}

// Gives a simulated run the keys of its cluster: what is said, then the file's, then the defaults.
bool Reader::complete_cluster(RunConfig& run, const std::vector<Choice>& said) {
  const auto find = [&](const std::string& key) {
    const auto found = std::find_if(said.begin(), said.end(), [&](const Choice& c) { return c.key == key; });
    return found == said.end() ? nullptr : &*found;
  };
  const std::string name = run.settings.text("cluster.name");
  const auto in_file_place = [&](const char* key) {
    const auto& axes = clusters_[name].scope.axes;
    return axes.contains(key) ? axes.at(key).place : SourcePlace{};
  };
  std::set<std::string> hosts, in_file;
  fs::path folder;  // of a platform's file
  if (!name.empty()) {
    const ClusterFile& file = cluster_file(name, find("cluster.name"));
    if (!file.good) return false;
    if (!find("cluster.platform")) folder = file.folder;
    for (const auto& [key, axis] : file.scope.axes) {
      if (!find("cluster." + key)) run.settings.set("cluster." + key, axis.values.front());
      in_file.insert(hosts_of("cluster." + key));
    }
  }
  bool good = true;
  for (const auto& [key, value] : run.settings.values())
    if (const std::string own = hosts_of(key); !own.empty()) {
      hosts.insert(own);
      if (name.empty() || in_file.contains(own)) continue;
      good = false;
      in_file.erase("");
      problem(find(key)->place(), find(key)->axis->key,
              fmt::format("{} has no hosts \"{}\"{} (allowed: {})", name, own,
                          did_you_mean(own, {in_file.begin(), in_file.end()}), fmt::join(in_file, ", ")));
    }
  for (const std::string& own : hosts)
    for (const Parameter& p : host_keys())
      if (const std::string key = "cluster.hosts." + own + "." + p.name;
          find_host_key(key) && !run.settings.values().contains(key))
        run.settings.set(key, p.fallback);
  const Choice* const platform = find("cluster.platform");
  return good && identify_platform(run, folder, platform ? platform->place() : in_file_place("platform"));
}

// A platform's file by its content, wherever it lies.
bool Reader::identify_platform(RunConfig& run, const fs::path& folder, const SourcePlace& at) {
  const std::string& platform = run.settings.text("cluster.platform");
  if (platform.empty()) return true;
  const fs::path file = fs::absolute(folder / platform);
  try {
    const std::string wanted = run.settings.text("cluster.platform_sha256"),
                      found = sha256_text(read_file(file, "a SimGrid platform", most_platform));
    if (!wanted.empty() && wanted != found)
      throw ConfigError({fmt::format("{} has the SHA-256 {} (allowed: {})", file.string(), found, wanted)});
    run.settings.set("cluster.platform", file.string());
    run.settings.set("cluster.platform_sha256", found);
    return true;
  } catch (const ConfigError& e) {
    problem(at, "cluster.platform", e.what());
    return false;
  }
}

// What is wrong between keys. A key that was mistaken itself is no cause for more complaints.
void Reader::check(const RunConfig& run, const Scope& scope, const std::vector<Choice>& said) {
  const auto in_file = [&](const std::string& key) -> const Axis* {  // the cluster's
    if (!run.simulated() || !key.starts_with("cluster.")) return nullptr;
    const auto& axes = clusters_[run.settings.text("cluster.name")].scope.axes;
    const auto found = axes.find(key.substr(8));
    return found == axes.end() ? nullptr : &found->second;
  };
  const auto report = [&](const Conflict& conflict) {
    if (conflict.keys.empty()) {
      if (!mistaken(said)) problem(scope.place, "strategy." + scope.strategy->name, conflict.what);
      return;
    }
    const Axis* cause = nullptr;
    SourcePlace at = scope.place;
    for (const std::string& key : conflict.keys) {
      for (const Choice& c : said) {
        if (c.key != key) continue;
        if (c.axis->values.empty()) return;
        if (!cause) cause = c.axis, at = c.place();
      }
      if (const Axis* found = in_file(key); found && !cause) cause = found, at = found->place;
    }
    problem(at, cause ? cause->key : conflict.keys.front(), conflict.what);
  };
  for (const Conflict& conflict : conflicts(run)) report(conflict);
}

}  // namespace dsgd
