// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "parameter.h"

namespace dsgd {

// A configuration with expressions in place of their values, which is the same for all numbers of workers.
std::map<std::string, Value> said(std::map<std::string, Value> config,
                                  const std::map<std::string, Value>& expressions);

// The settings that distinguish runs: all but strategy, seed, workers and the policy keys.
std::map<std::string, Value> settings_of(const std::map<std::string, Value>& config);

// Short labels that distinguish the runs of a strategy: the engine, and the settings that differ or that not
// all runs have. Runs of several experiments (by title) are also distinguished by a setting of which one
// experiment has none of another's values; of a cluster's settings only its name counts there. Configurations
// are those of result files; `marks` are other differences. First add() all runs, then ask of() for their
// labels.
class Labels {
 public:
  using Config = std::map<std::string, Value>;
  void add(const Config& config, const Config& marks = {});
  std::string of(const Config& config, const Config& marks = {}) const;  // " (simulated) tau=5", or ""

 private:
  bool tells_experiments(const std::string& key) const;
  using Values = std::set<std::string>;
  std::map<std::string, int> runs_;  // number of runs, by group of compared runs and program
  // Number of runs with the key, by group and program, and by key.
  std::map<std::pair<std::string, std::string>, int> having_;
  std::map<std::pair<std::string, std::string>, Values> seen_;        // by group and key
  std::map<std::string, std::map<std::string, Values>> experiments_;  // by title and key
};

}  // namespace dsgd
