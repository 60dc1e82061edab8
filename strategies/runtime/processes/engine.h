// SPDX-License-Identifier: Apache-2.0
#pragma once

// Ranks that are processes. Ranks of one host share memory and spin-wait on it.

#include <mpi.h>

namespace dsgd {

constexpr bool ranks_are_processes = true;
inline void advance_clock(double) {}  // real time passes by itself
inline double clock_now() { return MPI_Wtime(); }

struct Common {};  // what all ranks share besides messages: nothing

}  // namespace dsgd
