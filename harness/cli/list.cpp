// SPDX-License-Identifier: Apache-2.0
#include "cli/list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <vector>

#include "config/cluster.h"
#include "config/experiment.h"
#include "config/papers.h"
#include "device.h"
#include "fetch.h"
#include "network.h"

namespace dsgd {
namespace {

void print_parameter(const Parameter& p, bool has_default = true) {
  fmt::print("      {:<24} {}{}: {}\n", p.name, p.help,
             has_default ? fmt::format(" (default {})", to_string(p.fallback)) : "", allowed(p));
}

// One line of a list of files: what `describe` says of it, or why it cannot be used here.
template <typename Describe>
void print_file(const std::filesystem::path& file, Describe describe) {
  std::string text;
  try {
    text = describe();
  } catch (const ConfigError& e) {
    text = "not usable here: " + e.problems().front();
  }
  fmt::print("  {:<20} {}\n", file.stem().string(), text);
}

// Of all strategies, or of those that have to do with a word.
int list_strategies(const std::string& word) {
  int found = 0;
  for (const PaperName& p : paper_names())
    if (!word.empty() && mentions(p, word)) fmt::print("  {}: {}\n", p.name, p.says());
  for (const StrategyEntry* s : all_strategies()) {
    if (!word.empty() && !mentions(*s, word)) continue;
    ++found;
    std::vector<std::string> also;
    for (const PaperName& p : paper_names())
      if (p.strategy == s->name && p.settings.empty()) also.push_back(p.name);
    fmt::print("  {:<16} {}\n      {}; data order {}{}\n", s->name, s->summary, s->paper,
               to_string(s->data_order), s->served() ? "; needs parameter servers" : "");
    if (!also.empty()) fmt::print("      also {}\n", fmt::join(also, ", "));
    for (const PaperName& p : paper_names())
      if (p.strategy == s->name && !p.settings.empty()) fmt::print("      {}: {}\n", p.name, p.settings);
    for (const Parameter& p : s->parameters) print_parameter(p);
  }
  if (found) return 0;
  std::vector<std::string> known, small;
  for (const StrategyEntry* s : all_strategies()) known.push_back(s->name);
  for (const PaperName& p : paper_names()) known.push_back(p.name);
  for (const std::string& name : known) small.push_back(CLI::detail::to_lower(name));
  throw std::runtime_error(
      fmt::format("list strategies {}: no strategy has this name or paper{} (allowed: {})", word,
                  did_you_mean(CLI::detail::to_lower(word), small), fmt::join(known, ", ")));
}

}  // namespace

int list(const std::string& what, const std::string& word) {
  if (what == "strategies") return list_strategies(word);
  if (!word.empty())
    throw std::runtime_error(
        fmt::format("list {} {}: one word too many (allowed: a word after strategies)", what, word));
  if (what == "models")
    for (const ModelEntry& m : all_models()) fmt::print("  {:<16} {}\n", m.name, m.summary);
  if (what == "datasets")
    for (const DatasetEntry& d : all_datasets()) fmt::print("  {:<16} {}\n", d.name, d.summary);
  if (what == "devices")
    for (const DeviceEntry& d : all_devices()) {
      const std::string reason = d.unavailable();
      fmt::print("  {:<16} {}: {}\n", d.name, d.summary, reason.empty() ? "ready" : reason);
      if (const std::string lacks = d.lacks ? d.lacks() : ""; !lacks.empty())
        fmt::print("  {:<16} {}\n", "", lacks);
    }
  if (what == "experiments")
    for (const auto& file : shipped_experiments())
      print_file(file, [&] {
        const Experiment e = load_experiment(file);
        return fmt::format("{:>4} runs  {}", e.runs.size(), e.title);
      });
  if (what == "clusters")
    for (const auto& file : known_clusters())
      print_file(file, [&] {
        const RunConfig run = parse_run(
            fmt::format("engine = \"simulated\"\ncluster = {}\n[strategy.sync]", to_string(file.string())));
        const bool own = file.parent_path() == config_folder() / "clusters";
        return run.settings.text("cluster.title") + (own ? " (your own: " + file.string() + ")" : "");
      });
  if (what == "keys") {
    print_parameter(base_key());
    print_parameter(together_key());
    for (const RunKey& key : run_keys()) print_parameter(key);
    for (Parameter key : host_keys()) {
      key.name = "cluster.hosts.NAME." + key.name;
      print_parameter(key, find_host_key(key.name));  // not of what stands for many keys
    }
    fmt::print(
        "\n  A number, but for workers and seed, may be an expression of the number of workers, in quotes: "
        "minibatch = \"256 / workers\",\n  optimizer.learning_rate = \"0.1 * workers\", strategy.NAME.n = "
        "\"workers\". It has numbers, workers, minibatch (the\n  run's), + - * /, parentheses and sqrt(...). "
        "A run has the value, to 15 digits: its id is that of one that says so.\n");
  }
  return 0;
}

}  // namespace dsgd
