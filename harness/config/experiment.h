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

// A key of every run (the strategies' own parameters come on top). `policy` keys say how to run and report,
// not what is computed; they are not part of a run's id.
struct RunKey : Parameter {
  bool policy = false;
};
const std::vector<RunKey>& run_keys();
// Keys of an experiment that no run has.
const Parameter& base_key();
const Parameter& together_key();

// One run, complete and checked. Its settings are in effective form: "auto" is resolved, and a key that
// cannot matter (servers without a parameter server, momentum for plain SGD) has its default. A simulated run
// has all keys of its cluster, including those of the cluster's file. A real run has only those keys of a
// cluster that slow ranks.
struct RunConfig {
  const StrategyEntry* strategy = nullptr;
  Settings settings;           // of run_keys()
  Settings strategy_settings;  // the strategy's own parameters
  // The expressions of settings that depend on the number of workers, by their keys in a result file. They
  // are not part of the run: its settings have the values.
  std::map<std::string, std::string> expressions;
  bool simulated() const;             // in virtual time, on a modelled cluster
  bool skips_gradients() const;       // computes no gradients, only their virtual time
  const DeviceEntry& device() const;  // "auto": the fastest that can be used here
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
  bool normalised() const;            // whether pixels are normalised per channel
  Augmentation augmentation() const;  // of epoch 0
  int leaver() const;                 // the worker that leaves after faults.leave_step steps; -1: none
  bool slowed() const;  // whether some gradients take longer (cluster.jitter, cluster.straggler)
  // Sorted lines "key = value" of everything that determines the result. The strategy's own parameters are
  // "strategy.NAME.KEY".
  std::string canonical() const;
  std::string text() const;  // canonical() and the policy keys: an experiment with this one run
  std::string id() const;    // first 12 hex digits of the SHA-256 of canonical()
  std::string name() const;  // file name without extension: "downpour-2w-seed1-0123456789ab"
  void normalise();          // brings the settings into effective form
};

// Keys that contradict each other, with what is allowed. No keys: the strategy objects to its own parameters.
struct Conflict {
  std::vector<std::string> keys;  // the likeliest cause first
  std::string what;
};
std::vector<Conflict> conflicts(const RunConfig& run);
// train: number of training samples.
std::optional<Conflict> training_conflict(const RunConfig& run, std::size_t train);

struct Experiment {
  std::string title;
  // By seed, then by number of workers, then by strategy, each in the file's order.
  std::vector<RunConfig> runs;
};

// All mistakes of an experiment, each "file:line:column: key: problem (allowed: ...)".
class ConfigError : public std::runtime_error {
 public:
  explicit ConfigError(std::vector<std::string> problems);
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  std::vector<std::string> problems_;
};

// Reads a TOML experiment, expands its axes to the product of runs, and checks it. A strategy's own table
// multiplies only that strategy's runs; the lists of `together` advance together; an expression is evaluated
// for every run. An override "key=value" or "strategy.NAME.key=value" replaces that line of the file; its
// value is in TOML syntax, and a bare word is text. Throws ConfigError.
Experiment load_experiment(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});
// The same from a string; `source` stands for the file in messages.
Experiment parse_experiment(const std::string& text, const std::string& source,
                            const std::vector<std::string>& overrides = {});
RunConfig parse_run(const std::string& text);  // reads back RunConfig::text()

// The file for a user's word: a path, or the name of a shipped experiment ("quickstart"). Throws ConfigError.
std::filesystem::path find_experiment(const std::string& name);
std::vector<std::filesystem::path> shipped_experiments();
std::vector<std::filesystem::path> known_clusters();  // the user's, then shipped ones with other names

}  // namespace dsgd
