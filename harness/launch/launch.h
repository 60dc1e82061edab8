// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/experiment.h"
#include "run/progress.h"

namespace dsgd {

struct LaunchOptions {
  std::filesystem::path program;   // this executable
  std::filesystem::path part;      // the record that rank 0 fills
  std::filesystem::path data_dir;  // empty: the usual places
  // How real ranks are started, e.g. "mpirun --hostfile hosts -n {ranks}" or "srun -n {ranks}"; empty: mpirun
  // on this host.
  std::string launcher;
  std::vector<std::string> task;  // what every rank does, as words of dsgd's command line; empty: the run
};

struct LaunchEnd {
  enum class Kind { finished, failed, timeout, interrupted } kind = Kind::failed;
  std::string reason;  // one sentence
};

// The MPI job of one run, or its simulation (dsgd-sim, beside `program`), watched until it is gone. A job
// that exceeds its limits, or in which mpirun or a rank is stopped, is ended as a whole. If this process
// dies, so do mpirun and the ranks; what Open MPI leaves on disk and in shared memory goes with the job, or
// with the next launch.
class Launch {
 public:
  Launch(const RunConfig& config, const LaunchOptions& options,
         std::function<void(const Progress&)> progress);
  ~Launch();
  // To be called all the time: waits that long for news. An end, when there is one; `interrupted` makes one.
  std::optional<LaunchEnd> watch(bool interrupted, int milliseconds);

 private:
  class State;
  std::unique_ptr<State> state_;
};

// Why the platform of a simulated run cannot be used, in one sentence; empty: it can.
std::string check_platform(const RunConfig& config, const std::filesystem::path& program);

// The words that start so many ranks of the program that follows them. `launcher`: as in LaunchOptions.
std::vector<std::string> starter(int ranks, const std::string& launcher);

// Lines that a program prints within that many seconds. Throws std::runtime_error that says why it failed.
std::vector<std::string> output_of(const std::vector<std::string>& words, double seconds);

// In a rank: end when the process that started it does.
void die_with_parent(int signal);

}  // namespace dsgd
