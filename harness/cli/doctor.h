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
    absent,  // an ordinary run does without it
    broken   // an ordinary run (`dsgd run sync`) needs it
  } state = good;
  std::string what, text;
  std::string fix = "";  // one sentence; what to do about it
};

// Prints what is there, what will not work and why, each with the fix. Starts `ranks` ranks, as a run would.
// 1 when something that an ordinary run needs is missing, else 0.
int doctor(int ranks, const LaunchOptions& options);

// In each of these ranks: what they see of each other, printed by the first one, a line for each finding.
void meet();

// CUDA, its libraries, the GPUs and how fast they are reached. In builds without CUDA: why there is none.
std::vector<Finding> gpu_findings();

}  // namespace dsgd
