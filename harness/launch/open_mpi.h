// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything specific to Open MPI's launchers: ORTE up to 4.1, PRRTE from 5.0 on.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace dsgd {

// Free bytes that the folder for its files must have. Each rank reserves a shared segment of 16 MiB there, of
// which it uses little. If a segment does not fit, Open MPI 4.1 hangs and 5.0 exits.
constexpr std::uintmax_t mpirun_room = 32 << 20;

// The command, without the program, that starts `ranks` ranks on this host.
std::vector<std::string> mpirun(int ranks);

// Sets the environment variables for a launcher that this process is about to start. folder: for files of the
// launcher and the ranks; empty: the default.
void set_mpirun_variables(const std::filesystem::path& folder);

// Which rank was killed by which signal, from mpirun's lines on stderr; empty if none was.
std::optional<std::string> killed_rank(const std::vector<std::string>& errors);

}  // namespace dsgd
