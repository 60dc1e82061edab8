// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace dsgd {

struct SweepOptions {
  std::string experiment;              // file, or name of a shipped one
  std::vector<std::string> overrides;  // key=value
  std::filesystem::path out;           // empty: out/NAME
  std::filesystem::path data_dir;      // empty: the usual places
  std::string launcher;                // empty: mpirun on this host
  bool single = false;                 // `dsgd run`: the experiment must be one run
  bool dry_run = false, keep_stale = false, redo = false;
};

// Runs an experiment; exit code 0 when every run ended as ok, unlearned or diverged, 1 when one did not, 130
// after Ctrl-C. Throws ConfigError and std::runtime_error before anything is started.
int sweep(const SweepOptions& options);

}  // namespace dsgd
