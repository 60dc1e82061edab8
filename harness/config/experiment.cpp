// SPDX-License-Identifier: Apache-2.0
#include "config/experiment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/reader.h"

namespace dsgd {

ConfigError::ConfigError(std::vector<std::string> problems)
    : std::runtime_error(fmt::to_string(fmt::join(problems, "\n"))), problems_(std::move(problems)) {}

void Reader::raise() const {
  std::vector<std::string> lines;
  for (const auto& [at, what] : problems_) {
    const std::string& source = sources_[at.source];
    const bool is_override = at.source >= files_ && at.source < files_ + overrides_;
    lines.push_back(is_override ? fmt::format("--set {}: {}", source, what)
                                : fmt::format("{}:{}:{}: {}", source, at.line, at.column, what));
    for (char& c : lines.back())
      if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';  // one mistake, one line
  }
  if (!lines.empty()) throw ConfigError(lines);
}

Experiment Reader::read(const std::string& text) {
  read_experiment(text);
  std::sort(strategies_.begin(), strategies_.end(),
            [](const Scope& a, const Scope& b) { return a.place < b.place; });
  const SourcePlace file{files_ - 1};
  const auto none = [&] {
    problem(file, "strategy",
            fmt::format("there is none (allowed: a table [strategy.NAME], NAME one of {})",
                        listed(strategy_names())));
  };
  if (!names_strategy_) none();
  for (source_ = files_; source_ < sources_.size(); ++source_) read_override(sources_[source_]);
  if (strategies_.empty() && problems_.empty()) none();  // all are left out
  if (!strategies_.empty()) check_overrides();
  check_repeats(top_);
  for (Scope& scope : strategies_) check_repeats(scope);
  if (problems_.empty())
    for (const Scope& scope : strategies_) check_together(scope);
  if (!check_count()) raise();

  Experiment experiment;
  for (const Scope& scope : strategies_) expand(scope, experiment.runs);
  raise();
  std::map<Value, std::size_t> seeds, workers;  // in order of appearance
  for (const RunConfig& run : experiment.runs) {
    seeds.insert({run.settings.values().at("seed"), seeds.size()});
    workers.insert({run.settings.values().at("workers"), workers.size()});
  }
  const auto order = [&](const RunConfig& run) {
    const auto& values = run.settings.values();
    return std::pair(seeds.at(values.at("seed")), workers.at(values.at("workers")));
  };
  std::stable_sort(experiment.runs.begin(), experiment.runs.end(),
                   [&](const RunConfig& a, const RunConfig& b) { return order(a) < order(b); });
  if (const auto title = top_.axes.find("title"); title != top_.axes.end())
    experiment.title = std::get<std::string>(title->second.values.front());
  return experiment;
}

Experiment parse_experiment(const std::string& text, const std::string& source,
                            const std::vector<std::string>& overrides) {
  return Reader(source, overrides).read(text);
}

Experiment load_experiment(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  const std::string text =
      read_file(file, "a TOML file, or one of " + listed(names_of(shipped_experiments())));
  return parse_experiment(text, file.string(), overrides);
}

RunConfig parse_run(const std::string& text) {
  Experiment experiment = parse_experiment(text, "run");
  if (experiment.runs.size() != 1)
    throw ConfigError({fmt::format("run: describes {} runs (allowed: one)", experiment.runs.size())});
  return std::move(experiment.runs.front());
}

}  // namespace dsgd
