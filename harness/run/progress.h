// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace dsgd {

// One line on stdout from a rank to the process that launched it.
struct Progress {
  int rank = 0;
  long pid = 0;
  std::string phase;      // load, train, score, done
  std::int64_t used = 0;  // train: samples of all workers; score: snapshots done
  double seconds = 0;     // of the run's clock
  double loss = 0;        // of the last minibatch
  double gradient_s = 0;  // train: real seconds of one gradient; 0: unknown
};
std::string to_line(const Progress& p);
std::optional<Progress> parse_progress(const std::string& line);

// Writes progress lines. Within a phase it writes at most two per second of real time.
class Reporter {
 public:
  static constexpr int nobody = -1;  // rank of a reporter that writes nothing
  explicit Reporter(int rank);
  void phase(const std::string& name, double gradient_s = 0);
  void tell(std::int64_t used, double seconds, double loss) {
    const auto now = std::chrono::steady_clock::now();
    if (now - told_ < std::chrono::milliseconds(500)) return;
    told_ = now;
    state_.used = used;
    state_.seconds = seconds;
    state_.loss = loss;
    write();
  }

 private:
  void write() const;
  Progress state_;
  std::chrono::steady_clock::time_point told_;
};

}  // namespace dsgd
