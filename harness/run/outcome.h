// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "results/schema.h"

namespace dsgd {

// What a run that came to its end left behind.
struct Course {
  std::string not_finite;                  // the first loss or weight that is no finite number; empty: none
  double first_loss = 0, last_loss = 0;    // of training, see results/README.md
  std::span<const SnapshotRow> snapshots;  // of the untrained model first, of the final one last
  std::int64_t samples = 0;                // that were used
  int classes = 0;
  double chance = 0;  // test accuracy of who always says the commonest class
};

// ok, unlearned or diverged, and why. results/README.md has the rule.
struct Outcome {
  std::string name, why;
};
Outcome outcome_of(const Course& course);

bool came_to_its_end(const std::string& outcome);  // not tried again, and counters are complete
bool has_speed(const std::string& outcome);        // its seconds are those of honest arithmetic

}  // namespace dsgd
