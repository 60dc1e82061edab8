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
  int ranks = 0;  // at work while gradients are timed; 0: one a core
};

// Measures this machine and writes it as a modelled cluster. Returns an exit code. Throws std::runtime_error
// before anything is measured where the options are wrong or the file cannot be written.
int calibrate(const CalibrateOptions& options);

}  // namespace dsgd
