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
std::string to_string(const Value& value);  // in TOML; a number reads back as the same number

// A key that a user can set. Its type is that of `fallback`, its default.
struct Parameter {
  std::string name;
  Value fallback;
  std::string help;  // one line, with the unit
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string> allowed;  // for text; empty: any
  bool between_gpus = false;         // only has an effect if the workers' vectors are in GPU memory
  // Added after results had ids: at its default it is not part of a run's id (results/compatibility.md).
  bool added = false;

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

// Checks type (an integer is a valid number), range and choice of a value. Returns it in the parameter's
// type, or sets `problem` to one sentence that ends in "(allowed: ...)".
Value checked(const Parameter& parameter, const Value& value, std::string& problem);

// Values by name, one for every declared key. Asking for another name or type is a bug and throws
// std::logic_error.
class Settings {
 public:
  Settings() = default;
  // The defaults of `parameters`, overridden by `given`. Throws std::invalid_argument if a value is not
  // allowed.
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

// ", did you mean NAME?" for the candidate that is nearest to a mistyped word; the part after its last dot is
// compared, too. At most a third of the word's letters may differ. Empty if no candidate is near.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace dsgd
