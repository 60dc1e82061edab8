// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "strategy.h"

namespace dsgd {

// The name under which another source knows a strategy with certain settings.
struct PaperName {
  std::string name, strategy;
  std::string settings = {};  // of the strategy's table, in TOML
  std::string says() const;   // "staleness_aware with n = "workers""
};
const std::vector<PaperName>& paper_names();
const PaperName* find_paper_name(const std::string& name);  // ignores case and hyphens; null if unknown
// Whether the word occurs in a strategy's name, summary, paper or other names.
bool mentions(const StrategyEntry& strategy, const std::string& word);
bool mentions(const PaperName& name, const std::string& word);

}  // namespace dsgd
