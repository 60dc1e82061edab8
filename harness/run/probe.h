// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace dsgd {

// What one rank of `dsgd calibrate` does: where there are two ranks, measures what passes between them, and
// rank 0 writes it to `folder`/probes.txt; then makes the runs NAME.toml of the folder, whose records
// NAME.h5.part are there.
void probe_rank(const std::filesystem::path& folder);

// One measurement: `sum` of vectors that two workers share; `exchange`: a push, and the pull behind it, of a
// worker whose server ignores what it gets; `update`: the same with a server that makes a step of SGD;
// `copy`, `axpy`: of vectors of this size, by all ranks at a time.
struct Probe {
  std::string what;
  std::size_t floats = 0;
  double seconds = 0;
};
std::vector<Probe> read_probes(const std::filesystem::path& folder);  // none, where one rank was alone

}  // namespace dsgd
