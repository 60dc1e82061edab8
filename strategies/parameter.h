// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace dsgd {

using Value = std::variant<bool, std::int64_t, double, std::string>;
std::string to_string(const Value& value);  // as TOML writes it, numbers so that they read back the same

// One key that a user can set: its type is the type of its default.
struct Parameter {
  std::string name;
  Value fallback;
  std::string help;  // one line, with the unit
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string> allowed;  // for text; empty: anything
  bool between_gpus = false;         // means something only where workers' vectors are in GPUs' memory
  bool added = false;  // after results had ids: at its default it is part of none (results/compatibility.md)

  static constexpr double unlimited = std::numeric_limits<double>::infinity();
  static Parameter integer(std::string name, std::int64_t fallback, std::string help, double min = -unlimited,
                           double max = unlimited) {
    return {std::move(name), fallback, std::move(help), min, max};
  }
  static Parameter number(std::string name, double fallback, std::string help, double min = -unlimited,
                          double max = unlimited) {
    return {std::move(name), fallback, std::move(help), min, max};
  }
  static Parameter flag(std::string name, bool fallback, std::string help) {
    return {std::move(name), fallback, std::move(help)};
  }
  static Parameter choice(std::string name, std::string fallback, std::vector<std::string> choices,
                          std::string help) {
    return {std::move(name), std::move(fallback), std::move(help), -unlimited, unlimited, std::move(choices)};
  }
};

std::string kind(const Parameter& parameter);     // "an integer"
std::string allowed(const Parameter& parameter);  // "integers from 1 to 4096", or the choices

// Checks the type (an integer is a valid number), range and choice of a value; returns it converted to the
// parameter's type, or sets `problem` to one sentence that ends in "(allowed: ...)".
Value checked(const Parameter& parameter, const Value& value, std::string& problem);

// Values by name; every key that was declared is present. Asking for another name or type is a bug and throws
// std::logic_error.
class Settings {
 public:
  Settings() = default;
  // Defaults of `parameters`, overridden by `given` (checked; throws std::invalid_argument).
  explicit Settings(const std::vector<Parameter>& parameters, const std::map<std::string, Value>& given = {});
  bool flag(const std::string& name) const;
  std::int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  const std::string& text(const std::string& name) const;
  const std::map<std::string, Value>& values() const { return values_; }
  void set(const std::string& name, Value value) { values_[name] = std::move(value); }
  void drop(const std::string& name) { values_.erase(name); }

 private:
  std::map<std::string, Value> values_;
};

// ", did you mean NAME?" for the candidate, or its part after the last dot, that a mistyped word is nearest
// to; at most a third of the word's letters may differ. Empty when nothing is near.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace dsgd
