// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <vector>

#include "vec.h"

namespace dsgd {

// Copies of one rank's part of the model, taken while the clock runs and scored afterwards. Memory for them
// is set aside at construction; what exceeds `memory` bytes goes to an unnamed file in `folder`.
class Snapshots {
 public:
  struct Point {
    std::int64_t used = 0;
    double seconds = 0;
    std::int64_t version = 0;
  };
  // `planned`: the sample counts at which copies are due.
  Snapshots(std::vector<std::int64_t> planned, std::size_t floats, std::size_t memory,
            const std::filesystem::path& folder);
  bool due(std::int64_t used) const { return next_ < planned_.size() && used >= planned_[next_]; }
  void take(const Point& point, ConstVec w);  // one copy for every planned point that is due
  void finish(const Point& point,
              ConstVec w);  // the final model, also for planned points that were never reached
  std::size_t taken() const { return points_.size(); }
  std::size_t planned() const { return planned_.size() + 1; }  // copies that there will be after finish
  const Point& point(std::size_t i) const { return points_[i]; }
  void get(std::size_t i, Vec w) const;
  void put(std::size_t i, ConstVec w);  // in place of the i-th copy

 private:
  void add(const Point& point, ConstVec w);
  std::vector<std::int64_t> planned_;
  std::size_t next_ = 0, floats_, in_memory_;
  std::vector<float> memory_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> spool_{nullptr, std::fclose};
  std::vector<Point> points_;
};

// 0, then `count` points evenly inside (0, budget).
std::vector<std::int64_t> snapshot_points(std::int64_t budget, int count);

}  // namespace dsgd
