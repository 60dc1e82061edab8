// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <compare>
#include <set>

#include "config/cluster.h"
#include "config/experiment.h"
#include "config/files.h"

namespace dsgd {

// A position in the experiment's texts.
struct SourcePlace {
  std::size_t source = 0;  // experiments' files, bases first; then overrides; then clusters' files
  std::uint32_t line = 1, column = 1;
  auto operator<=>(const SourcePlace&) const = default;
};

// The values of a key in one table. For a key with numbers, text is an expression.
struct Axis {
  std::string key;  // full name
  const Parameter* parameter = nullptr;
  SourcePlace place;
  std::vector<Value> values;        // empty: all were invalid
  std::vector<SourcePlace> places;  // one per value
};

// Groups of keys whose values advance together.
struct Together {
  SourcePlace place;
  std::vector<Names> groups;
};

// The keys of one table: an experiment's top level, a strategy's table or a cluster's file.
struct Scope {
  const StrategyEntry* strategy = nullptr;  // null: the top level
  SourcePlace place;
  std::map<std::string, Axis> axes;
  bool cluster = false;  // whether it is a cluster's file
  std::optional<Together> together = {};

  std::string prefix() const { return strategy ? "strategy." + strategy->name + "." : ""; }
  std::string run_key(const std::string& key) const { return cluster ? "cluster." + key : key; }
  Names keys() const {
    Names keys;
    if (strategy)
      for (const Parameter& p : strategy->parameters) keys.push_back(p.name);
    const std::size_t left_out = run_key("").size();
    for (const RunKey& k : run_keys())
      if (k.name.starts_with(run_key("")) && !(cluster && k.name == "cluster.name"))
        keys.push_back(k.name.substr(left_out));
    for (const Parameter& p : host_keys()) keys.push_back(("cluster.hosts.NAME." + p.name).substr(left_out));
    return keys;
  }
  const Parameter* find(const std::string& key) const {  // the strategy's own keys first; null: unknown
    if (strategy)
      for (const Parameter& p : strategy->parameters)
        if (p.name == key) return &p;
    for (const RunKey& k : run_keys())
      if (k.name == run_key(key) && !(cluster && key == "name")) return &k;
    return find_host_key(run_key(key));
  }
};

// A cluster's file after reading.
struct ClusterFile {
  std::filesystem::path folder;
  Scope scope{.cluster = true};
  bool good = true;
};

// One axis of the product, and the index of the current run on it.
struct Choice {
  std::string key;
  const Axis* axis;
  std::size_t at = 0;
  std::size_t wheel = 0;  // axes with the same wheel advance together
  const Value& value() const { return axis->values[at]; }
  const SourcePlace& place() const { return axis->places[at]; }
};

bool is_expression(const Choice& choice);
bool mistaken(const std::vector<Choice>& choices);
// The names that an expression for this key may use. The number of workers may use none.
Names usable_names(const std::string& key);
Names strategy_names();

toml::table parse(const std::string& text);  // throws toml::parse_error
std::string explain(const toml::parse_error& e);

// Turns an experiment's files into its runs. read.cpp reads them into scopes, expand.cpp makes the product of
// the axes, and complete.cpp adds the clusters and checks keys against each other. Mistakes are collected on
// the way.
class Reader {
 public:
  Reader(std::string file, const std::vector<std::string>& overrides)
      : sources_{std::move(file)}, overrides_(overrides.size()) {
    sources_.insert(sources_.end(), overrides.begin(), overrides.end());
  }
  Experiment read(const std::string& text);

 private:
  void problem(const SourcePlace& at, const std::string& key, const std::string& what) {
    problems_.insert({at, fmt::format("{}: {}", key, what)});
  }
  SourcePlace place(const toml::source_region& region) const {
    return {source_, region.begin.line, region.begin.column};
  }
  void raise() const;  // throws ConfigError if there are problems

  void read_experiment(const std::string& text);
  std::string read_base(const toml::node& node);
  void read_override(const std::string& text);
  void read_table(const toml::table& table, const std::string& prefix, Scope& scope);
  void read_strategies(const toml::node& node, const SourcePlace& at);
  void read_strategy(const std::string& name, const toml::node& node, const SourcePlace& at);
  void read_values(const Parameter& parameter, const toml::node& node, Axis& axis);
  void read_value(const Parameter& parameter, const toml::node& node, Axis& axis);
  void read_together(const toml::node& node, const SourcePlace& at, Scope& scope);
  void unknown(const std::string& table, const std::string& name, const SourcePlace& at, const Scope& scope);

  std::vector<Choice> choices(const Scope& scope) const;
  void check_overrides();
  const std::optional<Together>& together(const Scope& scope) const {
    return scope.together ? scope.together : top_.together;
  }
  void check_together(const Scope& scope);
  void check_repeats(Scope& scope);
  bool evaluate_expressions(RunConfig& run, const std::vector<Choice>& choices);
  bool check_count();
  void expand(const Scope& scope, std::vector<RunConfig>& runs);
  const ClusterFile& cluster_file(const std::string& name, const Choice* cause);
  bool complete_cluster(RunConfig& run, const std::vector<Choice>& choices);
  bool identify_platform(RunConfig& run, const std::filesystem::path& folder, const SourcePlace& at);
  void check(const RunConfig& run, const Scope& scope, const std::vector<Choice>& choices);

  std::vector<std::string> sources_;
  std::size_t files_ = 1;   // number of experiments' files in sources_
  std::size_t overrides_;   // number of overrides that follow
  std::size_t source_ = 0;  // the one that is being read
  std::set<std::pair<SourcePlace, std::string>> problems_;
  Scope top_;
  std::vector<Scope> strategies_;
  bool names_strategy_ = false;  // whether a strategy was named, valid or not
  std::map<std::string, ClusterFile> clusters_;
};

}  // namespace dsgd
