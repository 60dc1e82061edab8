// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "simulated/mailboxes.h"

namespace dsgd {

// The messages of an all-reduce of n floats between ranks 0 to size - 1. Returns when the sum would be there;
// all ranks have called it by then. MPI_Allreduce's algorithms by Open MPI's choice (from 4.1 on): recursive
// doubling for short vectors, recursive halving and doubling (Rabenseifner 2004) for long ones, between two
// or three ranks also a ring. Where MPI would reduce and then broadcast (a single float between two or three
// ranks, short vectors between 128 or more), recursive doubling.
void send_all_reduce(std::size_t n, int rank, int size, Mailboxes& through);

}  // namespace dsgd
