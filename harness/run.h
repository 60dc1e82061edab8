#pragma once

#include <filesystem>

#include "harness/experiment.h"

namespace dsgd {

// One rank's part of a run: loads, plans, trains, scores; rank 0 fills the record. Every rank tells its
// progress on stdout, one line each time (progress.h). Throws on any failure; the caller ends all ranks.
void run_rank(const RunConfig& config, const std::filesystem::path& part,
              const std::filesystem::path& data_dir);

}  // namespace dsgd
