// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace dsgd {

// One line about a mistake on the command line. CLI11's own messages do not name unknown commands or suggest
// similar ones.
std::string explain(const CLI::App& root, const CLI::ParseError& e, const std::vector<std::string>& words);

}  // namespace dsgd
