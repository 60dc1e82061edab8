// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "communicator.h"

namespace dsgd {

// A Group of workers whose vectors are in GPU memory, each worker with a GPU of its own. Sums are NCCL
// all-reduces from GPU to GPU; `world`'s group carries everything else. Differences from that group:
//   - Sums of more than two workers are added in NCCL's order. It depends on the number of workers, the
//     size of the vector and the links between the GPUs. All workers have the same bits, but other machines
//     may have others.
//   - Sums are asynchronous with respect to the host: they return when they are queued. On the GPU, a sum
//     waits for the operations that fill the vector, and operations that use the vector wait for the sum.
//     Traffic::seconds is GPU time, from the complete vector to the sum. It is added when a later sum
//     begins, or by settle().
//   - A bucketed sum begins while the vector is being filled. The buckets and their order are the same on
//     all workers, whether or not a worker reports parts of its vector. They count as one sum.
//   - If a sum has not completed `seconds` after it was queued (a peer has died or hangs, a link is down),
//     the process ends with a message, and the launcher ends the other ranks.
class GpuGroup : public Group {
 public:
  virtual void settle() = 0;  // blocks until all begun sums are done, and adds their seconds to Traffic
};
// nccl_group() is collective over the workers. Returns null if not every worker has its vectors in a GPU of
// its own, there is one worker, or NCCL is missing; `why` then says so, the same on all workers. Throws
// std::runtime_error if NCCL fails. `world` and `space` must outlive the group.
#ifdef DSGD_HAVE_NCCL
std::unique_ptr<GpuGroup> nccl_group(World& world, const Space& space, double seconds, std::string& why);
#else
inline std::unique_ptr<GpuGroup> nccl_group(World&, const Space&, double, std::string& why) {
  why = "built without NCCL";
  return nullptr;
}
#endif

}  // namespace dsgd
