// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsgd {

// A setting in terms of others: "0.1 * workers". Numbers, names, + - * /, parentheses, sqrt(...).
struct Expression {
  std::string text;             // without spaces
  std::set<std::string> names;  // that it uses
};

struct ExpressionError : std::runtime_error {  // one sentence that ends in "(allowed: ...)"
  ExpressionError(const std::string& what, std::size_t after) : std::runtime_error(what), at(after) {}
  std::size_t at;  // letters before the mistake
};

Expression parse_expression(const std::string& text, const std::vector<std::string>& names);  // throws it
// To 15 digits, so that 0.1 * 3 is 0.3 and the same run as one that says so. Empty: divides by zero.
std::optional<double> evaluate(const Expression& expression, const std::map<std::string, double>& values);

}  // namespace dsgd
