// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "strategy.h"

namespace dsgd {

// What a strategy and some of its settings are called elsewhere.
struct PaperName {
  std::string name, strategy;
  std::string settings = {};  // of the strategy's table, in TOML
  std::string says() const;   // "staleness_aware with n = "workers""
};
const std::vector<PaperName>& paper_names();
const PaperName* find_paper_name(const std::string& name);  // whatever its capitals and hyphens; null: none
// Whether the word is in a strategy's name, summary, paper or one of its names elsewhere.
bool mentions(const StrategyEntry& strategy, const std::string& word);
bool mentions(const PaperName& name, const std::string& word);

}  // namespace dsgd
