// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace dsgd {

// One rank of `dsgd calibrate`. If there are two ranks, it measures the messages between them, and rank 0
// writes the result to `folder`/probes.txt. Then it makes the runs NAME.toml of the folder, whose records
// NAME.h5.part exist.
void probe_rank(const std::filesystem::path& folder);

// One measurement. `sum`: an all-reduce between two workers that share memory. `exchange`: a push and a pull
// between a worker and a server that ignores the gradient. `update`: the same with a server that makes a step
// of SGD. `copy`, `axpy`: these operations by all ranks at the same time.
struct Probe {
  std::string what;
  std::size_t floats = 0;
  double seconds = 0;
};
std::vector<Probe> read_probes(const std::filesystem::path& folder);  // empty if there was one rank

}  // namespace dsgd
