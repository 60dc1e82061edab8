// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace dsgd {

using Names = std::vector<std::string>;

std::string listed(const Names& names);                           // "a, b, c"
Names names_of(const std::vector<std::filesystem::path>& files);  // file names without folder and extension

// The program's own files: "experiments", "clusters" (both TOML) and "plots".
std::filesystem::path shipped_folder(const std::string& what);
std::vector<std::filesystem::path> shipped(const char* what);  // its TOML files
std::vector<std::filesystem::path> toml_files(const std::filesystem::path& folder);
// The file for a name: a path relative to `folder`, or one of `files`. Throws ConfigError.
std::filesystem::path find_shipped(const std::string& name, const std::vector<std::filesystem::path>& files,
                                   const char* what, const std::filesystem::path& folder = {});

// Limit of a configuration file's size. toml++ recurses without a limit into the parts of a dotted key; this
// much text fits the stack.
constexpr std::size_t most_bytes = 32 << 10;
// Reads at most one byte more than `most`, so that the caller can see that the file is too long. Throws
// ConfigError.
std::string read_file(const std::filesystem::path& file, const std::string& allowed_files,
                      std::size_t most = most_bytes);

}  // namespace dsgd
