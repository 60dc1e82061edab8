// SPDX-License-Identifier: Apache-2.0
#include "cli/list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "config/cluster.h"
#include "config/experiment.h"
#include "config/papers.h"
#include "device.h"
#include "fetch.h"
#include "network.h"

namespace dsgd {
namespace {

// In lines of 80 columns at most where words allow it, the later ones indented.
std::string wrapped(const std::string& text, std::size_t indent) {
  std::string out;
  std::size_t column = indent;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    if (column > indent && column + 1 + end - at > 80) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += text.substr(at, end - at);
    column += end - at;
    at = end + 1;
  }
  return out;
}

void print_parameter(const Parameter& p, bool has_default = true) {
  const std::string text = fmt::format(
      "{}{}: {}", p.help, has_default ? fmt::format(" (default {})", to_string(p.fallback)) : "", allowed(p));
  fmt::print("      {:<24} {}\n", p.name, wrapped(text, 31));
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

// Of all keys, or of those whose name or help holds a word.
int list_keys(const std::string& word) {
  std::vector<std::pair<Parameter, bool>> keys{{base_key(), true}, {together_key(), true}};
  for (const RunKey& key : run_keys()) keys.emplace_back(key, true);
  for (Parameter key : host_keys()) {
    key.name = "cluster.hosts.NAME." + key.name;
    keys.emplace_back(key,
                      find_host_key(key.name) != nullptr);  // some stand for many keys and have no default
  }
  for (const StrategyEntry* s : all_strategies())
    for (Parameter key : s->parameters) {
      if (word.empty()) continue;  // `dsgd list strategies` has them
      key.name = "strategy." + s->name + "." + key.name;
      keys.emplace_back(key, true);
    }
  const std::string wanted = CLI::detail::to_lower(word);
  std::vector<std::string> names;
  int found = 0;
  for (const auto& [key, has_default] : keys) {
    names.push_back(key.name);
    if (CLI::detail::to_lower(key.name + " " + key.help).find(wanted) == std::string::npos) continue;
    ++found;
    print_parameter(key, has_default);
  }
  if (!found)
    throw std::runtime_error(
        fmt::format("list keys {}: no key has this in its name or help{} (allowed: part of a key)", word,
                    did_you_mean(word, names)));
  if (word.empty())
    fmt::print(
        "\n  A number, but for workers and seed, may be an expression of the number of workers, in quotes: "
        "minibatch = \"256 / workers\",\n  optimizer.learning_rate = \"0.1 * workers\", strategy.NAME.n = "
        "\"workers\". It has numbers, workers, minibatch (the\n  run's), + - * /, parentheses and sqrt(...). "
        "A run has the value, to 15 digits: its id is that of one that says so.\n");
  return 0;
}

}  // namespace

int list(const std::string& what, const std::string& word) {
  if (what == "strategies") return list_strategies(word);
  if (what == "keys") return list_keys(word);
  if (!word.empty())
    throw std::runtime_error(
        fmt::format("list {} {}: one word too many (allowed: a word after strategies or keys)", what, word));
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
  return 0;
}

}  // namespace dsgd
