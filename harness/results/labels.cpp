// SPDX-License-Identifier: Apache-2.0
#include "results/labels.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/experiment.h"
#include "results/text.h"

namespace dsgd {
namespace {

// Keys that tell runs of one row apart from runs of another.
bool is_setting(const std::string& key) {
  static const std::set<std::string> others = [] {
    std::set<std::string> keys{"text", "strategy", "seed", "workers"};
    for (const RunKey& run_key : run_keys())
      if (run_key.policy) keys.insert(run_key.name);
    return keys;
  }();
  return !others.contains(key);
}

// The runs among which a setting may differ: of a strategy and engine (a cluster's keys: and cluster).
std::string peers(const std::map<std::string, Value>& config, const std::string& key) {
  const bool of_cluster = key.starts_with("cluster.") && key != "cluster.name";
  return fmt::format("{} {}{}", text(config, "strategy"), text(config, "engine"),
                     of_cluster ? " on " + text(config, "cluster.name") : "");
}

// Of whose results it means something that some lack a setting: it may have come later.
std::string program(const Labels::Config& marks) {
  return fmt::format(" by {} {} {}", text(marks, "commit"), text(marks, "build"), text(marks, "host"));
}

}  // namespace

// Real runs have what slows ranks only where some are slowed. Others have what slows nobody; a straggler's
// other keys mean nothing without its slowdown.
std::map<std::string, Value> settings_of(const std::map<std::string, Value>& config) {
  std::map<std::string, Value> result{{"cluster.jitter", 0.0}, {"cluster.straggler.slowdown", 1.0}};
  for (const auto& [key, value] : config)
    if (is_setting(key)) result[key] = value;
  return result;
}

std::map<std::string, Value> said(std::map<std::string, Value> config,
                                  const std::map<std::string, Value>& expressions) {
  for (const auto& [key, expression] : expressions)
    if (const auto value = config.find(key); value != config.end()) value->second = expression;
  return config;
}

void Labels::add(const Config& config, const Config& marks) {
  for (const std::string& group : std::set{peers(config, ""), peers(config, "cluster.")})
    ++runs_[group + program(marks)];
  Config settings = settings_of(config);
  for (const auto& [key, value] : settings) experiments_[text(config, "title")][key].insert(plain(value));
  settings.insert(marks.begin(), marks.end());
  for (const auto& [key, value] : settings) {
    seen_[{peers(config, key), key}].insert(plain(value));
    ++having_[{peers(config, key) + program(marks), key}];
  }
}

// Whether an experiment has none of another's values.
bool Labels::tells_experiments(const std::string& key) const {
  if (key == "engine" || key.starts_with("strategy.") ||
      (key.starts_with("cluster.") && key != "cluster.name"))
    return false;
  for (const auto& [title, keys] : experiments_)
    for (const auto& [other_title, other] : experiments_)
      if (keys.contains(key) && other.contains(key) &&
          std::none_of(keys.at(key).begin(), keys.at(key).end(),
                       [&](const std::string& value) { return other.at(key).contains(value); }))
        return true;
  return false;
}

std::string Labels::of(const Config& config, const Config& marks) const {
  std::string result = text(config, "engine") == "simulated" ? " (simulated)" : "";
  Config settings = settings_of(config);
  settings.insert(marks.begin(), marks.end());
  for (const auto& [key, value] : settings) {
    const std::string group = peers(config, key), of_program = group + program(marks);
    const bool absent =
        having_.at({of_program, key}) < runs_.at(of_program) && !key.starts_with("cluster.straggler.");
    if (seen_.at({group, key}).size() > 1 || absent || tells_experiments(key))
      result += fmt::format(" {}={}", key.starts_with("strategy.") ? key.substr(9) : key,
                            plain(value).substr(0, key.ends_with("_sha256") ? 12 : std::string::npos));
  }
  return result;
}

}  // namespace dsgd
