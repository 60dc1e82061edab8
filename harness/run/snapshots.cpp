// SPDX-License-Identifier: Apache-2.0
#include "run/snapshots.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace dsgd {

std::vector<std::int64_t> snapshot_points(std::int64_t budget, int count) {
  std::vector<std::int64_t> points;
  for (int k = 0; k <= count; ++k) points.push_back(budget * k / (count + 1));
  return points;
}

Snapshots::Snapshots(std::vector<std::int64_t> planned, std::size_t floats, std::size_t memory,
                     const std::filesystem::path& folder)
    : planned_(std::move(planned)), floats_(floats) {
  const std::size_t total = planned_.size() + 1;
  in_memory_ = std::min(total, memory / std::max<std::size_t>(1, floats * sizeof(float)));
  memory_.resize(in_memory_ * floats);
  points_.reserve(total);
  if (in_memory_ == total) return;
  const int unnamed = ::open(folder.c_str(), O_TMPFILE | O_RDWR, 0600);
  if (unnamed >= 0) spool_.reset(fdopen(unnamed, "w+b"));
  if (!spool_)
    throw std::runtime_error(
        fmt::format("{}: no room for {} snapshots beyond snapshot_memory_mib: {}; take fewer snapshots or "
                    "allow more memory",
                    folder.string(), total - in_memory_, std::strerror(errno)));
}

void Snapshots::take(const Point& point, ConstVec w) {
  for (; due(point.used); ++next_) add(point, w);
}

void Snapshots::finish(const Point& point, ConstVec w) {
  for (; next_ < planned_.size(); ++next_) add(point, w);
  add(point, w);
}

void Snapshots::add(const Point& point, ConstVec w) {
  points_.push_back(point);
  put(points_.size() - 1, w);
}

void Snapshots::put(std::size_t i, ConstVec w) {
  if (i < in_memory_) return copy(w, {memory_.data() + i * floats_, floats_, &host_space()});
  std::vector<float> fetched(w.space->host() ? 0 : floats_);
  if (!fetched.empty()) copy(w, {fetched.data(), floats_, &host_space()});
  std::fseek(spool_.get(), long((i - in_memory_) * floats_ * sizeof(float)), SEEK_SET);
  if (std::fwrite(fetched.empty() ? w.data : fetched.data(), sizeof(float), floats_, spool_.get()) != floats_)
    throw std::runtime_error(
        fmt::format("snapshot {} could not be written to disk: {}", i, std::strerror(errno)));
}

void Snapshots::get(std::size_t i, Vec w) const {
  if (i < in_memory_) return copy({memory_.data() + i * floats_, floats_, &host_space()}, w);
  std::fseek(spool_.get(), long((i - in_memory_) * floats_ * sizeof(float)), SEEK_SET);
  std::vector<float> fetched(w.space->host() ? 0 : floats_);
  if (std::fread(fetched.empty() ? w.data : fetched.data(), sizeof(float), floats_, spool_.get()) != floats_)
    throw std::runtime_error(
        fmt::format("snapshot {} could not be read back from disk: {}", i, std::strerror(errno)));
  if (!fetched.empty()) copy({fetched.data(), floats_, &host_space()}, w);
}

}  // namespace dsgd
