// SPDX-License-Identifier: Apache-2.0
#include "run/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace dsgd {

std::string to_line(const Progress& p) {
  return fmt::format("@dsgd {} {} {} {} {:.3f} {:g} {:g}\n", p.rank, p.pid, p.phase, p.used, p.seconds,
                     p.loss, p.gradient_s);
}

std::optional<Progress> parse_progress(const std::string& line) {
  Progress p;
  char phase[16] = "";
  long long used = 0;
  if (std::sscanf(line.c_str(), "@dsgd %d %ld %15s %lld %lf %lf %lf", &p.rank, &p.pid, phase, &used,
                  &p.seconds, &p.loss, &p.gradient_s) != 7)
    return std::nullopt;
  p.phase = phase;
  p.used = used;
  return p;
}

Reporter::Reporter(int rank) {
  state_.rank = rank;
  state_.pid = getpid();
}

void Reporter::phase(const std::string& name, double gradient_s) {
  state_.phase = name;
  state_.gradient_s = gradient_s;
  state_.loss = 0;
  state_.used = 0;
  told_ = std::chrono::steady_clock::now();
  write();
}

void Reporter::write() const {
  if (state_.rank == nobody) return;
  const std::string line = to_line(state_);
  [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, line.data(), line.size());
}

}  // namespace dsgd
