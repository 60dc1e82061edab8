// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace dsgd {

// One line on what is wrong with the command line; CLI11 names no unknown command, and no near miss.
std::string explain(const CLI::App& root, const CLI::ParseError& e, const std::vector<std::string>& words);

}  // namespace dsgd
