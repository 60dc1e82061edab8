// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace dsgd {

struct SweepOptions {
  std::string experiment;              // file, or name of a shipped experiment
  std::vector<std::string> overrides;  // key=value
  std::filesystem::path out;           // empty: out/NAME
  std::filesystem::path data_dir;      // empty: the default folders (dataset_folders)
  std::string launcher;                // empty: mpirun on this host
  bool single = false;                 // `dsgd run`: the experiment must be one run
  bool dry_run = false, keep_stale = false, redo = false;
};

// Runs an experiment. Returns the exit code: 0 if every run ended as ok, unlearned or diverged, 1 if one did
// not, 130 after Ctrl-C. Throws ConfigError or std::runtime_error before it starts a run.
int sweep(const SweepOptions& options);

}  // namespace dsgd
