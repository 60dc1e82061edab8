// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace dsgd {

using Names = std::vector<std::string>;

std::string listed(const Names& names);                           // "a, b, c"
Names names_of(const std::vector<std::filesystem::path>& files);  // without folder and ending

// What comes with the program: "experiments", "clusters" (TOML files) and "plots".
std::filesystem::path shipped_folder(const std::string& what);
std::vector<std::filesystem::path> shipped(const char* what);  // its TOML files
std::vector<std::filesystem::path> toml_files(const std::filesystem::path& folder);
// The file that a name means: a path from `folder` on, or one of `files`. Throws ConfigError.
std::filesystem::path find_shipped(const std::string& name, const std::vector<std::filesystem::path>& files,
                                   const char* what, const std::filesystem::path& folder = {});

// toml++ recurses into every part of a dotted key, without a limit; this much text fits the stack.
constexpr std::size_t most_bytes = 32 << 10;
// At most one byte more than `most`, so that who calls sees that it is too long. Throws ConfigError.
std::string read_file(const std::filesystem::path& file, const std::string& allowed_files,
                      std::size_t most = most_bytes);

}  // namespace dsgd
