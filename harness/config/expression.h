// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsgd {

// A setting computed from others, such as "0.1 * workers": numbers, names, + - * /, parentheses, sqrt(...).
struct Expression {
  std::string text;             // without spaces
  std::set<std::string> names;  // that occur in it
};

struct ExpressionError : std::runtime_error {  // its text is one sentence that ends in "(allowed: ...)"
  ExpressionError(const std::string& what, std::size_t after) : std::runtime_error(what), at(after) {}
  std::size_t at;  // characters before the mistake
};

// names: those allowed. Throws ExpressionError.
Expression parse_expression(const std::string& text, const std::vector<std::string>& names);
// The value, rounded to 15 digits, so that 0.1 * 3 is 0.3 and gives the same run. Empty if it divides by
// zero.
std::optional<double> evaluate(const Expression& expression, const std::map<std::string, double>& values);

}  // namespace dsgd
