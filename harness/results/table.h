// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "results/results.h"

namespace dsgd {

// One row per (strategy, settings, workers) over its seeds: accuracy with interval, time to target or "k of n
// reached", throughput, speed-up and its base, staleness, traffic. A number that some seed has not is "k of
// n", never the mean of the others. Every run is timed to its own target, or to the given one. Throws
// std::runtime_error when the runs' origins differ and `mixed` is not set (each has rows of its own then),
// and where the same settings and seed are there twice.
std::string table(const std::vector<RunResult>& runs, std::optional<double> target, bool mixed);

}  // namespace dsgd
