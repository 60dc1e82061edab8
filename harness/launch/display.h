// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "config/experiment.h"
#include "results/labels.h"
#include "run/progress.h"

namespace dsgd {

std::string duration(double seconds);  // "3 min 05 s"

// Shows progress on stderr: a bar that is redrawn on a terminal, otherwise a line per run.
class Display {
 public:
  Display(const Experiment& experiment, std::size_t runs, std::int64_t samples);

  void start(std::size_t number, const RunConfig& config);

  void update(std::size_t number, const Progress& p);

  void end(std::size_t number, const std::string& outcome, const std::string& detail);

 private:
  struct Active {
    const RunConfig* config = nullptr;
    std::int64_t used = 0;
  };
  std::string head(std::size_t number) const;
  std::string left() const;
  Labels labels_;
  std::size_t runs_;
  std::int64_t samples_, done_ = 0;
  bool terminal_;
  std::map<std::size_t, Active> active_;  // by number
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

}  // namespace dsgd
