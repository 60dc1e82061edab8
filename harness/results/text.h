// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "parameter.h"

namespace dsgd {

std::string plain(const Value& value);  // without the quotes of text
std::string text(const std::map<std::string, Value>& values,
                 const std::string& key);  // "" if it is missing
// Rows with columns of equal width, the first left-aligned, the others right-aligned.
std::string aligned(const std::vector<std::vector<std::string>>& cells);

}  // namespace dsgd
