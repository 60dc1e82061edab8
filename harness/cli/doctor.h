// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/launch.h"

namespace dsgd {

// One line of the report of `dsgd doctor`.
struct Finding {
  enum State {
    good,
    absent,  // an ordinary run works without it
    broken   // an ordinary run (`dsgd run sync`) needs it
  } state = good;
  std::string what, text;
  std::string fix = "";  // the remedy, in one sentence
};

// Prints what works here, what does not and why, and the remedies. Starts `ranks` ranks as a run would.
// Returns 1 if something is missing that an ordinary run needs, else 0.
int doctor(int ranks, const LaunchOptions& options);

// Called by each of these ranks. The first one prints what they see of each other, one line per finding.
void meet();

// CUDA, its libraries, the GPUs and the bandwidth to them; in builds without CUDA, the reason.
std::vector<Finding> gpu_findings();

}  // namespace dsgd
