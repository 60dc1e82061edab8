// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "run/process.h"

namespace dsgd {

// One rank of a run: loads the data, plans, trains and scores; rank 0 fills the record. Every process reports
// its progress on stdout (progress.h). On a failure, one line on stderr says why, and all ranks end.
void run_rank(const RunConfig& config, const std::filesystem::path& part,
              const std::filesystem::path& data_dir);
// The same for a simulated rank. part: empty, no record is kept. cluster: null, computing takes no time.
void run_rank(const RunConfig& config, const std::filesystem::path& part, Process& process,
              const Cluster* cluster);

}  // namespace dsgd
