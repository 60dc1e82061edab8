// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <vector>

#include "config/experiment.h"

namespace dsgd {

// Prints the plan of a dry run: the runs, the estimated time of each, and what it sends.
void print_plan(const Experiment& experiment, const std::filesystem::path& out);
// Warns on stderr if the device `reference` would cost these runs much time.
void warn_of_plain_loops(const std::vector<const RunConfig*>& runs);

}  // namespace dsgd
