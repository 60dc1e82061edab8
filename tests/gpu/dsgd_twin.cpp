// SPDX-License-Identifier: Apache-2.0
// NCCL's part of cuda_twin.cpp, for whole runs: dsgd on ranks whose GPUs are twins, each with a card of its
// own where DSGD_TWIN_CARDS is set. Sums are made by MPI as soon as they are asked for.

#define OMPI_SKIP_MPICXX
#include <mpi.h>
#include <nccl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

#include "gpu_space.h"

extern "C" std::size_t cuda_twin_launches();
// At the end, a line of the file that this names.
static const struct Launches {
  ~Launches() {
    if (const char* file = std::getenv("DSGD_TWIN_LAUNCHES"))
      std::ofstream(file, std::ios::app) << cuda_twin_launches() << "\n";
  }
} launches;

struct ncclComm {
  MPI_Comm comm;
};

extern "C" {
ncclResult_t ncclGetVersion(int* version) { return *version = NCCL_VERSION_CODE, ncclSuccess; }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return std::memset(id, 1, sizeof *id), ncclSuccess; }
const char* ncclGetErrorString(ncclResult_t) { return "an error of the twin"; }
const char* ncclGetLastError(ncclComm_t) { return ""; }
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId, int, ncclConfig_t*) {
  *comm = new ncclComm;
  MPI_Comm_dup(MPI_COMM_WORLD, &(*comm)->comm);  // without servers there are only workers
  int all = 0;
  MPI_Comm_size((*comm)->comm, &all);
  return all == size ? ncclSuccess : ncclInvalidArgument;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* status) { return *status = ncclSuccess; }
ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t n, ncclDataType_t, ncclRedOp_t,
                           ncclComm_t comm, cudaStream_t stream) {
  if (from != to || cudaStreamSynchronize(stream) != cudaSuccess) return ncclInvalidUsage;
  int size = 0, rank = 0;
  MPI_Comm_size(comm->comm, &size);
  MPI_Comm_rank(comm->comm, &rank);
  std::vector<float> all(n * std::size_t(size));
  MPI_Allgather(from, int(n), MPI_FLOAT, all.data(), int(n), MPI_FLOAT, comm->comm);
  float* const sum = static_cast<float*>(to);
  std::copy_n(all.data(), n, sum);
  for (int k = 1; k < size; ++k)
    for (std::size_t j = 0; j < n; ++j) sum[j] += all[std::size_t(k) * n + j];
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  MPI_Comm_free(&comm->comm);
  return delete comm, ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t) { return ncclSuccess; }
}
