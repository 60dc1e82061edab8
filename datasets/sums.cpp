// SPDX-License-Identifier: Apache-2.0
#include "sums.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <stdexcept>

#include "fetch.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

constexpr off_t large = 1 << 20;  // bytes on disk

// Where the sum of this very file is kept; empty: nowhere.
fs::path place_of(const fs::path& file) {
  struct stat status {};
  if (cache_folder().empty() || stat(file.c_str(), &status) || status.st_size < large) return {};
  char host[256] = "";  // folders of several hosts may share a cache
  gethostname(host, sizeof host - 1);
  const auto time = [](const timespec& t) { return fmt::format("{}.{:09}", t.tv_sec, t.tv_nsec); };
  const std::string state = fmt::format("{} {} {} {} {} {}", host, fs::absolute(file).string(), status.st_ino,
                                        status.st_size, time(status.st_mtim), time(status.st_ctim));
  return cache_folder() / "sums" / sha256_text(state);
}

std::string sum_of(const fs::path& file) {
  const fs::path kept = place_of(file);
  std::string sum;
  if (std::ifstream in(kept); in >> sum && sum.size() == 64) return sum;
  sum = sha256_content(file);
  if (kept.empty()) return sum;
  std::error_code none;
  fs::create_directories(kept.parent_path(), none);
  const fs::path fresh = fmt::format("{}.{}", kept.string(), getpid());  // others may be at it, too
  if (std::ofstream(fresh) << sum << '\n') fs::rename(fresh, kept, none);
  return sum;
}

}  // namespace

std::string dataset_sums(const DatasetEntry& entry, const fs::path& folder) {
  std::string lines;
  try {
    for (const RemoteFile& file : entry.files)
      lines += fmt::format("{}  {}\n", sum_of(find_file(folder, file.name)), file.name);
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("{}; remove the file and {}", e.what(), remedy(entry)));
  }
  return lines;
}

std::string content_id(const DatasetEntry& entry, const std::string& sums) {
  std::string published;
  for (const RemoteFile& file : entry.files) published += fmt::format("{}  {}\n", file.sha256, file.name);
  return sums == published ? "" : sha256_text(sums);
}

}  // namespace dsgd
