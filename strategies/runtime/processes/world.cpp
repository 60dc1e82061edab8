// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>
#ifdef OPEN_MPI
#include <mpi-ext.h>  // MPIX_CUDA_AWARE_SUPPORT
#endif

#include "communicator.h"

namespace dsgd {

bool World::cuda_aware() {
#ifdef MPIX_CUDA_AWARE_SUPPORT
  return MPIX_Query_cuda_support();
#else
  return false;
#endif
}

}  // namespace dsgd
