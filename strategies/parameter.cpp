// SPDX-License-Identifier: Apache-2.0
#include "parameter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace dsgd {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04x}", int(c));
    else
      out += c;
  }
  return out + '"';
}

// Edits (insert, delete, replace a letter, swap neighbours) that turn one word into the other.
std::size_t edits(const std::string& a, const std::string& b) {
  std::vector<std::size_t> before, last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = last;
    last = row;
  }
  return last.back();
}

template <class T>
const T& get(const std::map<std::string, Value>& values, const std::string& name) {
  const auto at = values.find(name);
  if (at == values.end()) throw std::logic_error("setting " + name + " was not declared");
  if (const T* value = std::get_if<T>(&at->second)) return *value;
  throw std::logic_error("setting " + name + " has another type");
}

}  // namespace

std::string to_string(const Value& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return fmt::to_string(*integer);
  if (const auto* text = std::get_if<std::string>(&value)) return quoted(*text);
  const std::string number = fmt::to_string(std::get<double>(value));
  return number.find_first_of(".en") == std::string::npos ? number + ".0" : number;
}

std::string kind(const Parameter& parameter) {
  static const char* const kinds[] = {"true or false", "an integer", "a number", "text"};
  return kinds[parameter.fallback.index()];
}

std::string allowed(const Parameter& p) {
  if (std::holds_alternative<bool>(p.fallback)) return "true, false";
  if (std::holds_alternative<std::string>(p.fallback))
    return p.allowed.empty() ? "text" : fmt::to_string(fmt::join(p.allowed, ", "));
  std::string range = std::holds_alternative<double>(p.fallback) ? "numbers" : "integers";
  if (std::isfinite(p.min)) range += fmt::format(" from {}", p.min);
  if (std::isfinite(p.max)) range += fmt::format("{} to {}", std::isfinite(p.min) ? "" : " up", p.max);
  return range + (std::isfinite(p.min) && !std::isfinite(p.max) ? " up" : "");
}

Value checked(const Parameter& p, const Value& given, std::string& problem) {
  Value value = given;
  const auto* whole = std::get_if<std::int64_t>(&given);
  if (whole && std::holds_alternative<double>(p.fallback)) value = double(*whole);
  if (value.index() != p.fallback.index()) {
    problem = fmt::format("expected {}, got {} (allowed: {})", kind(p), to_string(given), allowed(p));
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    if (!p.allowed.empty() && std::find(p.allowed.begin(), p.allowed.end(), *text) == p.allowed.end())
      problem = fmt::format("unknown value {}{} (allowed: {})", to_string(value),
                            did_you_mean(*text, p.allowed), allowed(p));
  } else if (!std::holds_alternative<bool>(value)) {
    auto* number = std::get_if<double>(&value);
    const double at = number ? *number : double(*whole);
    if (!std::isfinite(at))
      problem = fmt::format("{} is not a finite number (allowed: {})", to_string(given), allowed(p));
    else if (at < p.min || at > p.max)
      problem = fmt::format("{} is out of range (allowed: {})", to_string(given), allowed(p));
    if (at == 0 && number) *number = 0;  // there is one zero
  }
  return value;
}

Settings::Settings(const std::vector<Parameter>& parameters, const std::map<std::string, Value>& given) {
  for (const Parameter& p : parameters) values_[p.name] = p.fallback;
  for (const auto& [name, value] : given) {
    const auto same = [&name = name](const Parameter& p) { return p.name == name; };
    const auto p = std::find_if(parameters.begin(), parameters.end(), same);
    if (p == parameters.end()) throw std::invalid_argument(name + ": no such parameter");
    std::string problem;
    values_[name] = checked(*p, value, problem);
    if (!problem.empty()) throw std::invalid_argument(name + ": " + problem);
  }
}

bool Settings::flag(const std::string& name) const { return get<bool>(values_, name); }
std::int64_t Settings::integer(const std::string& name) const { return get<std::int64_t>(values_, name); }
double Settings::number(const std::string& name) const { return get<double>(values_, name); }
const std::string& Settings::text(const std::string& name) const { return get<std::string>(values_, name); }

std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates) {
  if (word.size() > 100) return "";
  std::string best;
  std::size_t fewest = word.size() / 3 + 1;
  for (const std::string& candidate : candidates)
    for (const std::string& part : {candidate, candidate.substr(candidate.rfind('.') + 1)})
      if (const std::size_t n = edits(word, part); n < fewest) {
        fewest = n;
        best = candidate;
      }
  return best.empty() ? "" : ", did you mean " + best + "?";
}

}  // namespace dsgd
