// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <vector>

#include "vec.h"

namespace dsgd {

// Copies of one rank's part of the model. They are taken while the clock runs and scored after it has
// stopped. Their memory is allocated in the constructor; what exceeds `memory` bytes goes to an unnamed file
// in `folder`.
class Snapshots {
 public:
  struct Point {
    std::int64_t used = 0;
    double seconds = 0;
    std::int64_t version = 0;
  };
  // planned: used samples at which copies are due, in ascending order. floats: size of a copy.
  Snapshots(std::vector<std::int64_t> planned, std::size_t floats, std::size_t memory,
            const std::filesystem::path& folder);
  bool due(std::int64_t used) const { return next_ < planned_.size() && used >= planned_[next_]; }
  void take(const Point& point, ConstVec w);  // one copy for every planned point that is due
  // The final model, also in place of planned points that were not reached.
  void finish(const Point& point,
              ConstVec w);  // the final model, also for planned points that were never reached
  std::size_t taken() const { return points_.size(); }
  std::size_t planned() const { return planned_.size() + 1; }  // number of copies after finish()
  const Point& point(std::size_t i) const { return points_[i]; }
  void get(std::size_t i, Vec w) const;
  void put(std::size_t i, ConstVec w);  // replaces copy i

 private:
  void add(const Point& point, ConstVec w);
  std::vector<std::int64_t> planned_;
  std::size_t next_ = 0, floats_, in_memory_;
  std::vector<float> memory_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> spool_{nullptr, std::fclose};
  std::vector<Point> points_;
};

// 0, and `count` points that divide (0, budget) evenly.
std::vector<std::int64_t> snapshot_points(std::int64_t budget, int count);

}  // namespace dsgd
