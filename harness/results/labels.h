// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "parameter.h"

namespace dsgd {

// A configuration with expressions in place of their values: what runs with several numbers of workers share.
std::map<std::string, Value> said(std::map<std::string, Value> config,
                                  const std::map<std::string, Value>& expressions);

// The settings by which runs are told apart: how to run and report is none, nor are strategy, seed and
// workers.
std::map<std::string, Value> settings_of(const std::map<std::string, Value>& config);

// Tells apart the runs of a strategy by the engine and by the settings that differ, those of several
// experiments (by their titles) also by what one has no run of; of clusters, by the name. Configurations are
// those of result files, `marks` what keeps runs apart besides; one is named after all were added.
class Labels {
 public:
  using Config = std::map<std::string, Value>;
  void add(const Config& config, const Config& marks = {});
  std::string of(const Config& config, const Config& marks = {}) const;  // " (simulated) tau=5", or ""

 private:
  bool tells_experiments(const std::string& key) const;
  using Values = std::set<std::string>;
  std::map<std::string, int> runs_;  // by group of runs that are compared, and program
  std::map<std::pair<std::string, std::string>, int> having_;         // and key: that have it
  std::map<std::pair<std::string, std::string>, Values> seen_;        // by group and key
  std::map<std::string, std::map<std::string, Values>> experiments_;  // by title and key
};

}  // namespace dsgd
