// SPDX-License-Identifier: Apache-2.0
#include "results/record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <thread>

#include "build_info.h"
#include "network.h"
#include "results/results.h"

namespace dsgd {
namespace {

constexpr std::size_t buffered = 256;
constexpr double flush_interval = 2;  // seconds

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

// Ranks that are being killed may hold the file for a moment longer.
void wait_until_closed(const std::filesystem::path& part) {
  const int fd = ::open(part.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  for (int i = 0; i < 100 && flock(fd, LOCK_EX | LOCK_NB); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ::close(fd);
}

void write_expressions(hid_t file, const RunConfig& config) {
  if (config.expressions.empty()) return;
  const h5::Handle group = h5::group(file, "expressions");
  for (const auto& [key, expression] : config.expressions) h5::set(group, key, expression);
}

}  // namespace

std::filesystem::path part_of(const std::filesystem::path& result) { return result.string() + ".part"; }

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::string build_summary() {
  return fmt::format("commit {}{}, {}, {} {}", DSGD_COMMIT, DSGD_DIRTY ? " with changes" : "", DSGD_COMPILER,
                     DSGD_BUILD_TYPE, DSGD_FLAGS);
}

std::map<std::string, Value> provenance_here() {
  return {{"commit", std::string(DSGD_COMMIT)},
          {"dirty", std::string(DSGD_DIRTY ? "true" : "false")},
          {"compiler", std::string(DSGD_COMPILER)},
          {"build_type", std::string(DSGD_BUILD_TYPE)},
          {"flags", std::string(DSGD_FLAGS)},
          {"cpu", cpu_name()},
          {"cores", std::int64_t(std::thread::hardware_concurrency())}};
}

std::map<std::string, Value> config_of(const RunConfig& config) {
  std::map<std::string, Value> result = config.settings.values();
  result["strategy"] = config.strategy->name;
  for (const auto& [key, value] : config.strategy_settings.values()) result["strategy." + key] = value;
  return result;
}

Context context_of(const RunConfig& config, std::size_t parameters) {
  return {.space = &host_space(),
          .parameters = parameters,
          .workers = config.workers(),
          .servers = config.servers(),
          .minibatch = config.minibatch(),
          .optimizer = config.optimizer(),
          .seed = config.seed()};
}

Facts effective_parameters(const RunConfig& config, std::size_t parameters) {
  return config.strategy->effective(config.strategy_settings, context_of(config, parameters));
}

void create_record(const std::filesystem::path& part, const RunConfig& config, const std::string& history) {
  h5::Handle file = h5::create(part);
  h5::set(file, "schema", schema_version);
  h5::set(file, "name", config.name());
  h5::set(file, "id", config.id());
  h5::set(file, "title", config.settings.text("title"));
  h5::set(file, "engine", config.settings.text("engine"));
  h5::set(file, "outcome", std::string("running"));
  h5::set(file, "outcome_detail", std::string());
  if (!history.empty()) h5::set(file, "history", history);

  const h5::Handle keys = h5::group(file, "config");
  h5::set(keys, "text", config.text());
  for (const auto& [key, value] : config_of(config)) h5::set(keys, key, value);

  write_expressions(file, config);

  const h5::Handle provenance = h5::group(file, "provenance");
  for (const auto& [key, value] : provenance_here()) h5::set(provenance, key, value);
  h5::set(provenance, "ranks", std::int64_t(config.ranks()));
  h5::set(provenance, "started", utc_now());
  h5::close(std::move(file));
}

bool finish_record(const std::filesystem::path& result, const std::string& outcome,
                   const std::string& detail) {
  const std::filesystem::path part = part_of(result);
  wait_until_closed(part);
  try {
    h5::Handle file = h5::open(part, true);
    h5::set(h5::group(file, "provenance"), "ended", utc_now());
    h5::set(file, "outcome_detail", detail);
    h5::set(file, "outcome", outcome);
    h5::close(std::move(file));
    read_result(part);  // throws where the content is broken
    h5::seal(part, result_format);
  } catch (const std::exception&) {
    if (std::filesystem::exists(part)) {
      std::filesystem::rename(part, result.string() + ".damaged");
      fmt::print(stderr, "{}: damaged; set aside as {}.damaged\n", part.string(), result.filename().string());
    }
    return false;
  }
  std::filesystem::rename(part, result);
  return true;
}

void retitle_record(const std::filesystem::path& result, const RunConfig& config) {
  const auto& wanted = config.settings.values();
  const RunResult old = read_result(result);
  const std::map<std::string, Value> expressions(config.expressions.begin(), config.expressions.end());
  if (old.title == config.settings.text("title") && old.config.at("target") == wanted.at("target") &&
      old.expressions == expressions)
    return;
  const std::filesystem::path fresh = result.string() + ".new";
  std::filesystem::copy_file(result, fresh, std::filesystem::copy_options::overwrite_existing);
  std::string text = std::get<std::string>(old.config.at("text"));
  try {
    RunConfig made = parse_run(text);
    for (const char* key : {"title", "target"}) made.settings.set(key, wanted.at(key));
    text = made.text();
  } catch (const ConfigError&) {  // its platform lies elsewhere by now
  }
  h5::Handle file = h5::open(fresh, true);
  h5::set(file, "title", wanted.at("title"));
  for (const char* key : {"title", "target"}) h5::set(h5::group(file, "config"), key, wanted.at(key));
  h5::set(h5::group(file, "config"), "text", text);
  h5::erase(file, "expressions");
  write_expressions(file, config);
  h5::close(std::move(file));
  h5::seal(fresh, result_format);
  read_result(fresh);  // throws where that went wrong
  std::filesystem::rename(fresh, result);
}

std::string listed_once(const std::vector<std::string>& names) {
  std::vector<std::string> once;
  for (const std::string& name : names)
    if (std::find(once.begin(), once.end(), name) == once.end()) once.push_back(name);
  return fmt::to_string(fmt::join(once, ", "));
}

Recorder::Recorder(const std::filesystem::path& part)
    : file_(h5::open(part, true)), type_(StepRow::type()), table_(h5::create_table(file_, "steps", type_)) {
  buffer_.reserve(buffered);
  h5::flush(file_);
}

void Recorder::step(const StepRow& row) {
  buffer_.push_back(row);
  if (buffer_.size() == buffered) write();
  if (row.seconds - flushed_ > flush_interval) {
    write();
    h5::flush(file_);
    flushed_ = row.seconds;
  }
}

void Recorder::steps(std::span<const StepRow> rows) {
  write();
  h5::append(table_, type_, rows.data(), rows.size());
}

void Recorder::write() {
  h5::append(table_, type_, buffer_.data(), buffer_.size());
  buffer_.clear();
}

void Recorder::close() {
  write();
  table_ = {};
  h5::close(std::move(file_));
}

}  // namespace dsgd
