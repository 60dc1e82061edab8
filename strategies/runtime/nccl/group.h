// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "communicator.h"

namespace dsgd {

// Workers as equals whose vectors are in the memory of GPUs, each worker with one of its own: sums go over
// NCCL, from GPU to GPU, everything else over `world`'s group. Unlike there
//   - sums of more than two workers are made in NCCL's order, which depends on their number, the size of the
//     vector and how the GPUs are connected: the same bits on all workers, on other machines other ones;
//   - verbs return when the sum is queued. It waits on the GPU for what fills the vector, and what uses the
//     vector waits for it. Traffic::seconds are the GPU's, from the vector's being complete to the sum, and
//     are known, and counted, when a later sum begins, or with settle();
//   - a sum in buckets begins while the vector is being filled. The buckets are the same ones in the same
//     order on all workers, whoever tells of parts of it and who does not; they count as one sum;
//   - a sum that is not there `seconds` after it was queued (a peer has died or hangs, a link is down) ends
//     this process with a message, and the launcher ends the other ranks.
// Collective. Null where not all workers have their vectors in a GPU of their own or NCCL is not there; then
// `why` says so, the same on all workers of a world.
class GpuGroup : public Group {
 public:
  virtual void settle() = 0;  // waits for the sums that have begun, and counts their seconds
};
#ifdef DSGD_HAVE_NCCL
std::unique_ptr<GpuGroup> nccl_group(World& world, const Space& space, double seconds, std::string& why);
#else
inline std::unique_ptr<GpuGroup> nccl_group(World&, const Space&, double, std::string& why) {
  why = "built without NCCL";
  return nullptr;
}
#endif

}  // namespace dsgd
