// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "results/schema.h"

namespace dsgd {

// The numbers of a finished run from which its outcome is derived.
struct Course {
  std::string not_finite;                  // the first loss or weight that is not finite; empty: none
  double first_loss = 0, last_loss = 0;    // of training, defined in results/README.md
  std::span<const SnapshotRow> snapshots;  // the untrained model first, the final one last
  std::int64_t samples = 0;                // used
  int classes = 0;
  double chance = 0;  // test accuracy of always guessing the commonest class
};

// ok, unlearned or diverged, and why. results/README.md defines them.
struct Outcome {
  std::string name, why;
};
Outcome outcome_of(const Course& course);

bool came_to_its_end(const std::string& outcome);  // the run is not repeated, and its counters are complete
bool has_speed(const std::string& outcome);        // its seconds are comparable: all numbers were finite

}  // namespace dsgd
