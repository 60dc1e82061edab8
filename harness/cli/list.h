// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace dsgd {

// Prints what there is of `topic`; of strategies those that have to do with `word`. Returns an exit code;
// throws std::runtime_error where nothing has to do with it.
int list(const std::string& topic, const std::string& word);

}  // namespace dsgd
