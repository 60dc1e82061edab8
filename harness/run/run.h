// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "run/process.h"

namespace dsgd {

// One rank's part of a run: loads, plans, trains, scores; rank 0 fills the record. Every process tells its
// progress on stdout, one line each time (progress.h). On any failure one line on stderr says why, and all
// ranks end.
void run_rank(const RunConfig& config, const std::filesystem::path& part,
              const std::filesystem::path& data_dir);
// The same for a simulated rank. `part`: empty, no record is kept. `cluster`: null, computing takes no time.
void run_rank(const RunConfig& config, const std::filesystem::path& part, Process& process,
              const Cluster* cluster);

}  // namespace dsgd
