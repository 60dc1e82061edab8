// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace dsgd {

struct CalibrateOptions {
  std::filesystem::path out;  // empty: the user's cluster "local"
  std::vector<std::string> models, devices, strategies;
  std::vector<int> minibatches;
  int ranks = 0;  // that compute while gradients are timed; 0: one per core
};

// Measures this machine and writes it as a modelled cluster. Returns an exit code. If the options are invalid
// or the file cannot be written, throws std::runtime_error before it measures.
int calibrate(const CalibrateOptions& options);

}  // namespace dsgd
