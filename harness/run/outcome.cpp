// SPDX-License-Identifier: Apache-2.0
#include "run/outcome.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dsgd {
namespace {

constexpr double clearly_worse = 1.5;           // times the untrained model's test loss
constexpr double deviations = 3;                // of a guesser's test accuracy
constexpr std::int64_t samples_a_class = 1000;  // teach something

}  // namespace

Outcome outcome_of(const Course& course) {
  if (!course.not_finite.empty()) return {"diverged", course.not_finite};
  const SnapshotRow &untrained = course.snapshots.front(), &final = course.snapshots.back();
  for (const SnapshotRow& s : course.snapshots)
    if (!std::isfinite(s.test_loss))
      return {"diverged", fmt::format("the test loss after {} samples is not finite", s.used)};

  const std::string training =
      fmt::format("training loss {:.4g} -> {:.4g}", course.first_loss, course.last_loss);
  const double spread =
      std::sqrt(course.chance * (1 - course.chance) / double(std::max<std::int64_t>(final.test_count, 1)));
  const bool above_chance = final.accuracy() > course.chance + deviations * spread;
  // Who knows its training samples by heart may be very sure of what it gets wrong in others.
  const bool fits = above_chance && course.last_loss < untrained.test_loss;
  if (final.test_loss > clearly_worse * untrained.test_loss && !fits)
    return {"diverged", fmt::format("{}; test loss {:.4g} -> {:.4g}, worse than untrained", training,
                                    untrained.test_loss, final.test_loss)};
  if (!above_chance && course.samples >= samples_a_class * course.classes)
    return {"unlearned",
            fmt::format("{}; test accuracy {:.2f} % after {} samples is not above chance, {:.2f} %", training,
                        100 * final.accuracy(), course.samples, 100 * course.chance)};
  return {"ok", training};
}

bool came_to_its_end(const std::string& outcome) { return has_speed(outcome) || outcome == "diverged"; }
bool has_speed(const std::string& outcome) { return outcome == "ok" || outcome == "unlearned"; }

}  // namespace dsgd
