// SPDX-License-Identifier: Apache-2.0
#include "launch/calibrate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include "device.h"
#include "fetch.h"
#include "launch/calibration.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

volatile std::sig_atomic_t interrupted = 0;

// A file that has its name only when it is complete.
class NewFile {
 public:
  explicit NewFile(const fs::path& path) : path_(path), part_(path.string() + ".part") {
    out_.open(part_);
    if (!out_)
      throw std::runtime_error(fmt::format("{}: cannot be written: {} (-o takes another file)", path.string(),
                                           std::strerror(errno)));
  }
  ~NewFile() {
    std::error_code none;
    fs::remove(part_, none);
  }
  void finish(const std::string& text) {
    out_ << text;
    out_.close();
    if (!out_ || std::rename(part_.c_str(), path_.c_str()))
      throw std::runtime_error(
          fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(errno)));
  }

 private:
  fs::path path_, part_;
  std::ofstream out_;
};

fs::path local_cluster() {
  const fs::path folder = config_folder();
  if (folder.empty())
    throw std::runtime_error(
        "calibrate: neither XDG_CONFIG_HOME nor HOME says where the user's clusters are (-o takes a file)");
  std::error_code failed;
  fs::create_directories(folder / "clusters", failed);
  if (failed)
    throw std::runtime_error(fmt::format("{}: cannot be made: {} (-o takes another file)",
                                         (folder / "clusters").string(), failed.message()));
  return folder / "clusters/local.toml";
}

template <typename T>
void drop_repeated(std::vector<T>& values) {
  std::vector<T> once;
  for (const T& value : values)
    if (std::find(once.begin(), once.end(), value) == once.end()) once.push_back(value);
  values = once;
}

void check(const std::vector<std::string>& names, const char* option, const std::vector<std::string>& known) {
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw std::runtime_error(fmt::format("calibrate: --{}: \"{}\" is unknown{} (allowed: {})", option, name,
                                           did_you_mean(name, known), fmt::join(known, ", ")));
}

}  // namespace

int calibrate(const CalibrateOptions& given) {
  CalibrateOptions options = given;
  std::vector<std::string> models, devices, strategies;
  for (const ModelEntry& m : all_models()) models.push_back(m.name);
  for (const DeviceEntry& d : all_devices())
    if (d.unavailable().empty()) devices.push_back(d.name);
  for (const StrategyEntry* s : all_strategies()) strategies.push_back(s->name);
  for (std::string& name : options.devices) name = device_today(name);
  check(options.models, "models", models);
  check(options.devices, "devices", devices);
  check(options.strategies, "strategies", strategies);
  if (options.devices.empty()) options.devices = {devices.back()};
  for (auto* names : {&options.models, &options.devices, &options.strategies}) drop_repeated(*names);
  drop_repeated(options.minibatches);

  const fs::path file = options.out.empty() ? local_cluster() : options.out;
  NewFile out(file);
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  Calibration calibration(options);
  try {
    calibration.measure(interrupted);
  } catch (const std::exception&) {
    if (interrupted) return 130;
    throw;
  }
  const std::string text = calibration.text();
  out.finish(text);
  fmt::print(
      "{}\n{}: {}\n", text, file.string(),
      options.out.empty() ? "cluster = \"local\"" : fmt::format("cluster = {}", to_string(file.string())));
  return 0;
}

}  // namespace dsgd
