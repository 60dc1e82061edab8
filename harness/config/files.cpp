// SPDX-License-Identifier: Apache-2.0
#include "config/files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "config/experiment.h"
#include "fetch.h"

namespace dsgd {

namespace fs = std::filesystem;

namespace {

bool holds_results(const fs::path& folder) {
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".h5") return true;
  return false;
}

}  // namespace

std::string listed(const Names& names) { return fmt::to_string(fmt::join(names, ", ")); }

std::vector<fs::path> toml_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".toml") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// Beside an installed program, else in the sources that it was built from.
fs::path shipped_folder(const std::string& what) {
  std::error_code none;
  const fs::path program = fs::read_symlink("/proc/self/exe", none);
  const fs::path installed = program.parent_path().parent_path() / "share/dsgd" / what;
  if (fs::is_directory(installed, none)) return installed;
  return fs::path(DSGD_SOURCE_DIR) / (what == "plots" ? "" : "harness") / what;
}

std::vector<fs::path> shipped(const char* what) { return toml_files(shipped_folder(what)); }

Names names_of(const std::vector<fs::path>& files) {
  Names names;
  for (const fs::path& file : files) names.push_back(file.stem().string());
  return names;
}

fs::path find_shipped(const std::string& name, const std::vector<fs::path>& files, const char* what,
                      const fs::path& folder) {
  std::error_code none;
  const fs::path path = folder / name;
  if (path.extension() == ".h5")
    throw ConfigError(
        {fmt::format("{}: is a result: `dsgd show {}` says what is in it, `dsgd replay {}` makes it again "
                     "(allowed: a TOML file)",
                     name, name, name)});
  if (fs::exists(path, none) && !fs::is_directory(path, none)) return path;
  for (const fs::path& file : files)
    if (file.stem() == name) return file;
  if (fs::is_directory(path, none) && holds_results(path))
    throw ConfigError(
        {fmt::format("{}: is a folder of results: `dsgd table {}` and `dsgd plot {}` show them (allowed: a "
                     "TOML file; -o {} adds runs to the folder)",
                     name, name, name, name)});
  throw ConfigError(
      {fmt::format("{}: {}{} (allowed: a TOML file, or one of {})", name,
                   fs::exists(path, none) ? "is a folder"
                   : name == "local"      ? "this machine has not been measured: `dsgd calibrate` does it"
                                          : fmt::format("no such file or shipped {}", what),
                   did_you_mean(name, names_of(files)), listed(names_of(files)))});
}

std::string read_file(const fs::path& file, const std::string& allowed_files, std::size_t most) {
  const auto fail = [&](const char* why) {
    throw ConfigError(
        {fmt::format("{}: cannot be read: {} (allowed: {})", file.string(), why, allowed_files)});
  };
  std::error_code none;
  if (fs::is_directory(file, none)) fail("it is a folder");
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(std::strerror(errno));
  std::string text(most + 1, '\0');
  in.read(text.data(), std::streamsize(text.size()));
  if (in.bad()) fail(std::strerror(errno));
  text.resize(std::size_t(in.gcount()));
  return text;
}

fs::path find_experiment(const std::string& name) {
  return find_shipped(name, shipped_experiments(), "experiment");
}
std::vector<fs::path> shipped_experiments() { return shipped("experiments"); }
std::vector<fs::path> known_clusters() {
  std::vector<fs::path> files = toml_files(config_folder() / "clusters");
  const Names own = names_of(files);
  for (const fs::path& file : shipped("clusters"))
    if (std::find(own.begin(), own.end(), file.stem()) == own.end()) files.push_back(file);
  return files;
}

}  // namespace dsgd
