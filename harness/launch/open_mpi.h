// SPDX-License-Identifier: Apache-2.0
#pragma once

// All that is known of Open MPI's launcher, which is ORTE's up to 4.1 and PRRTE's from 5.0 on.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace dsgd {

// Bytes that the folder for its files must have free. Where a shared segment does not fit, Open MPI 4.1
// hangs, and 5.0 ends: 16 MiB of a rank there, of which little is used.
constexpr std::uintmax_t mpirun_room = 32 << 20;

// The words that start so many ranks, on this host, of the program that follows them.
std::vector<std::string> mpirun(int ranks);

// For a launcher that is about to be started in this process. `folder`: for its own and the ranks' files;
// empty: where it likes.
void set_mpirun_variables(const std::filesystem::path& folder);

// Which rank was killed by what, from the lines that mpirun wrote on stderr; none: no rank was.
std::optional<std::string> killed_rank(const std::vector<std::string>& errors);

}  // namespace dsgd
