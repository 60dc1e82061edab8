#pragma once

#include <mpi.h>

#include <cstddef>

namespace dsgd {

// For simulated ranks: the messages of an all-reduce of n floats, as sizes alone; nothing is read or written.
// Returns when the sum would be there; all ranks have called it by then. MPI_Allreduce's algorithms by Open
// MPI's choice (from 4.1 on): recursive doubling for short vectors, recursive halving and doubling
// (Rabenseifner 2004) for long ones, between two or three ranks also a ring. Where MPI would reduce and then
// broadcast (a single float between two or three ranks, short vectors between 128 or more), recursive
// doubling.
void send_all_reduce(std::size_t n, MPI_Comm comm);

}  // namespace dsgd
