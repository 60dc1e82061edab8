// SPDX-License-Identifier: Apache-2.0
#include "config/expression.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>

#include "parameter.h"

namespace dsgd {
namespace {

constexpr std::size_t longest = 200;  // letters; parentheses are read by recursion

//   sum     = product { ("+" | "-") product }
//   product = factor { ("*" | "/") factor }
//   factor  = "-" factor | number | name | ["sqrt"] "(" sum ")"
class Parser {
 public:
  Parser(const std::string& text, const std::map<std::string, double>& values)
      : text_(text), values_(values) {}

  double read() {
    if (text_.size() > longest)
      throw ExpressionError(fmt::format("is too long (allowed: up to {} letters)", longest), longest);
    const double value = sum();
    if (at_ < text_.size()) fail("expected an operator", "+ - * /");
    return value;
  }
  bool divides_by_zero() const { return divides_by_zero_; }
  const std::set<std::string>& names() const { return names_; }

 private:
  char next() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (next() != c) return false;
    ++at_;
    return true;
  }
  [[noreturn]] void fail(const std::string& expected, const std::string& allowed) const {
    throw ExpressionError(
        fmt::format("{}, got {} (allowed: {})", expected,
                    at_ < text_.size() ? to_string(Value(text_.substr(at_, 12))) : "the end", allowed),
        at_);
  }

  double sum() {
    double value = product();
    for (;;)
      if (take('+'))
        value += product();
      else if (take('-'))
        value -= product();
      else
        return value;
  }
  double product() {
    double value = factor();
    for (;;)
      if (take('*')) {
        value *= factor();
      } else if (take('/')) {
        const double by = factor();
        divides_by_zero_ = divides_by_zero_ || by == 0;
        value /= by;
      } else {
        return value;
      }
  }
  double factor() {
    if (take('-')) return -factor();
    if (take('(')) return closed();
    const char c = next();
    if ((c >= '0' && c <= '9') || c == '.') return number();
    const std::size_t begin = at_;
    while (at_ < text_.size() && ((text_[at_] >= 'a' && text_[at_] <= 'z') || text_[at_] == '_')) ++at_;
    const std::string name = text_.substr(begin, at_ - begin);
    if (name == "sqrt" && take('(')) return std::sqrt(closed());
    if (const auto known = values_.find(name); known != values_.end()) {
      names_.insert(name);
      return known->second;
    }
    at_ = begin;
    std::vector<std::string> candidates;
    for (const auto& [known, value] : values_) candidates.push_back(known);
    const std::string allowed =
        fmt::format("a number, {}, sqrt(...), parentheses", fmt::join(candidates, ", "));
    candidates.emplace_back("sqrt");
    if (name.empty()) fail("expected a number or a name", allowed);
    throw ExpressionError(
        fmt::format("unknown name \"{}\"{} (allowed: {})", name, did_you_mean(name, candidates), allowed),
        at_);
  }
  double closed() {
    const double value = sum();
    if (!take(')')) fail("expected \")\"", "+ - * / )");
    return value;
  }
  double number() {
    double value = 0;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (error != std::errc()) fail("expected a number", "numbers such as 0.1 or 1e-3");
    at_ = std::size_t(end - text_.data());
    return value;
  }

  const std::string& text_;
  const std::map<std::string, double>& values_;
  std::size_t at_ = 0;
  bool divides_by_zero_ = false;
  std::set<std::string> names_;
};

}  // namespace

Expression parse_expression(const std::string& text, const std::vector<std::string>& names) {
  std::map<std::string, double> values;
  for (const std::string& name : names) values[name] = 1;
  Parser parser(text, values);
  parser.read();
  Expression expression{text, parser.names()};
  std::erase(expression.text, ' ');
  return expression;
}

std::optional<double> evaluate(const Expression& expression, const std::map<std::string, double>& values) {
  Parser parser(expression.text, values);
  const double value = parser.read();
  if (parser.divides_by_zero()) return std::nullopt;
  const std::string digits = fmt::format("{:.15g}", value);
  double rounded = value;
  std::from_chars(digits.data(), digits.data() + digits.size(), rounded);
  return rounded;
}

}  // namespace dsgd
