// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "device.h"
#include "gather.h"
#include "optimizer.h"
#include "parameter.h"
#include "strategy.h"

namespace dsgd {

// Every key that a run has, strategies' own parameters apart: name, type, default, range, help. `policy` keys
// say how to run and report, not what is computed: they are not part of a run's identity.
struct RunKey : Parameter {
  bool policy = false;
};
const std::vector<RunKey>& run_keys();
// Of an experiment alone: no run has them.
const Parameter& base_key();
const Parameter& together_key();

// One run, complete and checked. Settings are in their effective form: "auto" is resolved, and a key that
// cannot matter (servers without a parameter server, momentum for plain SGD) has its default. A simulated run
// has all keys of its cluster, those of the named file included; others have none but those that slow ranks.
struct RunConfig {
  const StrategyEntry* strategy = nullptr;
  Settings settings;           // run_keys()
  Settings strategy_settings;  // the strategy's own parameters
  // What was said of settings that depend on the number of workers, by their keys in a result file. No part
  // of the run: its settings have the values.
  std::map<std::string, std::string> expressions;
  bool simulated() const;             // in virtual time, on a modelled cluster
  bool skips_gradients() const;       // finds its virtual time alone
  const DeviceEntry& device() const;  // auto: the fastest usable here
  Precision precision() const;
  int workers() const;
  int servers() const;  // 0 for strategies without a rule
  int ranks() const { return workers() + servers(); }
  int minibatch() const;         // per worker
  std::int64_t samples() const;  // budget
  std::uint64_t seed() const;
  DataOrder data_order() const;
  OptimizerSettings optimizer() const;
  SyntheticSpec synthetic() const;
  bool normalised() const;            // pixels, per channel
  Augmentation augmentation() const;  // of epoch 0
  int leaver() const;                 // the worker that leaves after faults.leave_step steps; -1: nobody
  bool slowed() const;                // some gradients take longer (cluster.jitter, cluster.straggler)
  // Sorted "key = value" lines of everything that decides the result; the strategy's own parameters are
  // "strategy.NAME.KEY".
  std::string canonical() const;
  std::string text() const;  // canonical() and the policy keys: an experiment of this one run
  std::string id() const;    // first 12 hex digits of the SHA-256 of canonical()
  std::string name() const;  // file name without ending: "downpour-2w-seed1-0123456789ab"
  void normalise();          // brings `settings` into their effective form
};

// What is wrong between keys, with what is allowed. No keys: the strategy objects to its own parameters.
struct Conflict {
  std::vector<std::string> keys;  // the cause, the likeliest first
  std::string what;
};
std::vector<Conflict> conflicts(const RunConfig& run);
std::optional<Conflict> training_conflict(const RunConfig& run, std::size_t train);  // with so many samples

struct Experiment {
  std::string title;
  // All runs of the first seed, then of the second; in a seed by workers, then by strategy, in the file's
  // order.
  std::vector<RunConfig> runs;
};

// All mistakes of an experiment at once, each "file:line:column: key: problem (allowed: ...)".
class ConfigError : public std::runtime_error {
 public:
  explicit ConfigError(std::vector<std::string> problems);
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  std::vector<std::string> problems_;
};

// Reads a TOML experiment, expands arrays into the product of runs (a strategy's own table multiplies only
// that strategy's runs; the lists of `together` go in step, an expression is evaluated for every run) and
// checks all of it. An override "key=value" or "strategy.NAME.key=value" takes the
// place of that line of the file; values are in TOML syntax, a bare word is text. Throws ConfigError.
Experiment load_experiment(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});
// The same from memory; `source` stands for the file in messages.
Experiment parse_experiment(const std::string& text, const std::string& source,
                            const std::vector<std::string>& overrides = {});
RunConfig parse_run(const std::string& text);  // reads back RunConfig::text()

// The file that a user means: a path, or the name of a shipped experiment ("quickstart"). Throws ConfigError.
std::filesystem::path find_experiment(const std::string& name);
std::vector<std::filesystem::path> shipped_experiments();
std::vector<std::filesystem::path> known_clusters();  // the user's own, then shipped ones of other names

}  // namespace dsgd
