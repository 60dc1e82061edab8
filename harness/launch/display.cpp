// SPDX-License-Identifier: Apache-2.0
#include "launch/display.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "results/record.h"
#include "run/outcome.h"

namespace dsgd {
namespace {

std::map<std::string, Value> said_of(const RunConfig& config) {
  return said(config_of(config), {config.expressions.begin(), config.expressions.end()});
}

}  // namespace

std::string duration(double seconds) {
  const auto s = long(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
}

Display::Display(const Experiment& experiment, std::size_t runs, std::int64_t samples)
    : runs_(runs), samples_(samples), terminal_(isatty(STDERR_FILENO)) {
  for (const RunConfig& config : experiment.runs) labels_.add(said_of(config));
}

void Display::start(std::size_t number, const RunConfig& config) {
  active_[number] = {&config};
  if (!terminal_) fmt::print(stderr, "{} ...\n", head(number));
}

void Display::update(std::size_t number, const Progress& p) {
  Active& run = active_.at(number);
  if (p.phase == "train") run.used = std::max(run.used, p.used);
  if (p.phase == "score") run.used = run.config->samples();
  if (!terminal_ || p.rank != 0) return;
  constexpr int width = 20;
  const double share = double(run.used) / double(run.config->samples());
  const int full = std::min(width, int(share * width));
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < full ? "█" : "░";
  std::string line = fmt::format("{} {} {:3.0f} %", head(number), bar, 100 * share);
  if (p.phase == "train" && p.seconds > 0)
    line += fmt::format("  {:.0f} samples/s  loss {:.3f}", double(run.used) / p.seconds, p.loss);
  if (p.phase == "load" || p.phase == "score") line += p.phase == "load" ? "  loading" : "  scoring";
  fmt::print(stderr, "\r\033[K{}{}", line, left());
  std::fflush(stderr);
}

void Display::end(std::size_t number, const std::string& outcome, const std::string& detail) {
  const std::string name = head(number);
  const std::int64_t samples = active_.at(number).config->samples();
  active_.erase(number);
  if (came_to_its_end(outcome))
    done_ += samples;
  else
    samples_ -= samples;  // says nothing about the time that the others take
  if (terminal_) fmt::print(stderr, "\r\033[K");
  fmt::print(stderr, "{} {}{}{}\n", name, outcome, detail.empty() ? "" : ": " + detail, left());
}

std::string Display::head(std::size_t number) const {
  const RunConfig& config = *active_.at(number).config;
  return fmt::format("[{:{}}/{}] {:<16} {} worker{} seed {}{}", number, std::to_string(runs_).size(), runs_,
                     config.strategy->name, config.workers(), config.workers() == 1 ? " " : "s",
                     config.seed(), labels_.of(said_of(config)));
}

std::string Display::left() const {
  std::int64_t used = 0;
  for (const auto& [number, run] : active_) used += run.used;
  const double done = double(done_ + used),
               elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count();
  if (done <= 0 || elapsed < 3 || done >= double(samples_)) return "";
  return fmt::format("  (about {} left)", duration(elapsed / done * (double(samples_) - done)));
}

}  // namespace dsgd
