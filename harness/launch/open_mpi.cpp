// SPDX-License-Identifier: Apache-2.0
#include "launch/open_mpi.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace dsgd {

std::vector<std::string> mpirun(int ranks) {
  std::vector<std::string> words{
      "mpirun", "-n", std::to_string(ranks), "--mca", "btl_base_warn_component_unused", "0"};
  if (ranks > int(std::thread::hardware_concurrency()))
    for (const char* word : {"--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"})
      words.emplace_back(word);
  else
    for (const char* word : {"--bind-to", "core"}) words.emplace_back(word);
  return words;
}

void set_mpirun_variables(const std::filesystem::path& folder) {
  if (geteuid() == 0) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  }
  // Send only: where both ends of a TCP connection put data at a time, Open MPI 4.1 lets one wait for the
  // other.
  setenv("OMPI_MCA_btl_tcp_flags", "1", 0);
  // Addresses decide which network leads to a rank. Asked for routes, Open MPI 5.0 complains of every rank
  // where hosts have IPv6.
  setenv("OMPI_MCA_opal_reachable", "weighted", 0);
  if (folder.empty()) return;
  setenv("TMPDIR", folder.c_str(), 1);
  for (const char* user : {"btl_vader", "btl_sm", "osc_sm", "osc_rdma"})  // vader: up to 4.1
    setenv(fmt::format("OMPI_MCA_{}_backing_directory", user).c_str(), folder.c_str(), 0);
}

std::optional<std::string> killed_rank(const std::vector<std::string>& errors) {
  const std::string text = fmt::format("{}", fmt::join(errors, " "));  // PRRTE breaks the sentence
  const auto at = text.find("process rank "), on = text.find("exited on signal ", at);
  int rank = 0, signal = 0;
  if (at == std::string::npos || on == std::string::npos ||
      std::sscanf(text.c_str() + at, "process rank %d", &rank) != 1 ||
      std::sscanf(text.c_str() + on, "exited on signal %d", &signal) != 1)
    return std::nullopt;
  return fmt::format("rank {} was ended by signal {} ({})", rank, signal, strsignal(signal));
}

}  // namespace dsgd
