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
  std::filesystem::path part;      // the record for rank 0 to fill
  std::filesystem::path data_dir;  // empty: the default folders (dataset_folders)
  // Command that starts real ranks, e.g. "mpirun --hostfile hosts -n {ranks}" or "srun -n {ranks}". Empty:
  // mpirun on this host.
  std::string launcher;
  std::vector<std::string> task;  // arguments of dsgd on every rank; empty: the run
};

struct LaunchEnd {
  enum class Kind { finished, failed, timeout, interrupted } kind = Kind::failed;
  std::string reason;  // one sentence
};

// The MPI job of one run, or its simulation (dsgd-sim, in the folder of `program`). If a job exceeds its
// limits, or mpirun or a rank is stopped, the whole job is ended. If this process dies, mpirun and the ranks
// die too. What Open MPI leaves on disk and in shared memory is removed with the job, or at the next launch.
class Launch {
 public:
  Launch(const RunConfig& config, const LaunchOptions& options,
         std::function<void(const Progress&)> progress);
  ~Launch();
  // Call it repeatedly: it waits for news, at most so many milliseconds. Returns a value when the job has
  // ended; `interrupted` ends it.
  std::optional<LaunchEnd> watch(bool interrupted, int milliseconds);

 private:
  class State;
  std::unique_ptr<State> state_;
};

// Why the platform of a simulated run cannot be used, in one sentence; empty if it can.
std::string check_platform(const RunConfig& config, const std::filesystem::path& program);

// The command, without the program, that starts `ranks` ranks. launcher: as in LaunchOptions.
std::vector<std::string> starter(int ranks, const std::string& launcher);

// The lines that a program prints. Throws std::runtime_error if it fails or takes longer than `seconds`.
std::vector<std::string> output_of(const std::vector<std::string>& words, double seconds);

// For ranks: this process receives `signal` when the process that started it dies.
void die_with_parent(int signal);

}  // namespace dsgd
