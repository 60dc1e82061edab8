// SPDX-License-Identifier: Apache-2.0
#include "results/text.h"

#include <algorithm>

namespace dsgd {
namespace {

std::size_t width(const std::string& s) {  // of UTF-8 text on a terminal
  return std::size_t(std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::string plain(const Value& value) {
  const auto* text = std::get_if<std::string>(&value);
  return text ? *text : to_string(value);
}

std::string text(const std::map<std::string, Value>& values, const std::string& key) {
  const auto found = values.find(key);
  return found == values.end() ? "" : plain(found->second);
}

std::string aligned(const std::vector<std::vector<std::string>>& cells) {
  std::vector<std::size_t> widths(cells[0].size());
  for (const auto& row : cells)
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width(row[c]));
  std::string result;
  for (const auto& row : cells) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string space(widths[c] - width(row[c]), ' ');
      line += (c ? "  " : "") + (c == 0 ? row[c] + space : space + row[c]);
    }
    result += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return result;
}

}  // namespace dsgd
