// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace dsgd {

// Prints the entries of `topic`; of strategies only those that mention `word`. Returns an exit code. Throws
// std::runtime_error if none mentions it.
int list(const std::string& topic, const std::string& word);

}  // namespace dsgd
