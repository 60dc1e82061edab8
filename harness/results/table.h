// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "results/results.h"

namespace dsgd {

// One row per (strategy, settings, workers), over its seeds: accuracy with confidence interval, time to
// target or "k of n reached", throughput, speed-up and its base, staleness, traffic. If some seeds lack a
// number, the cell is "k of n" instead of a mean of the others. target: empty, each run's own. Throws
// std::runtime_error if the runs' origins differ, unless `mixed` gives each origin its own rows, and if the
// same settings and seed occur twice.
std::string table(const std::vector<RunResult>& runs, std::optional<double> target, bool mixed);

}  // namespace dsgd
