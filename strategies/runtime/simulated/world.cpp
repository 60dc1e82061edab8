// SPDX-License-Identifier: Apache-2.0
#include "communicator.h"

namespace dsgd {

bool World::cuda_aware() { return false; }

}  // namespace dsgd
