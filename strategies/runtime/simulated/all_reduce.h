// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "simulated/mailboxes.h"

namespace dsgd {

// Collective over ranks 0 to size - 1. Exchanges the messages of an all-reduce of n floats and returns at the
// virtual time at which the sum would be there; all ranks have called it by then. The algorithm is the one
// that Open MPI (from 4.1 on) would choose for MPI_Allreduce: recursive doubling for short vectors, recursive
// halving and doubling (Rabenseifner 2004) for long ones, between two or three ranks also a ring. Where Open
// MPI would reduce and then broadcast (a single float between two or three ranks, short vectors between 128
// or more), recursive doubling takes its place.
void send_all_reduce(std::size_t n, int rank, int size, Mailboxes& through);

}  // namespace dsgd
