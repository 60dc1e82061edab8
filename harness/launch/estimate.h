// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <vector>

#include "config/experiment.h"

namespace dsgd {

// What a dry run prints: the runs, how long each takes, and what it sends.
void print_plan(const Experiment& experiment, const std::filesystem::path& out);
// Whoever runs plain loops should know what that costs; where it costs next to nothing, there is no word.
void warn_of_plain_loops(const std::vector<const RunConfig*>& runs);

}  // namespace dsgd
