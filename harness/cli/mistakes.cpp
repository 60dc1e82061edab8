// SPDX-License-Identifier: Apache-2.0
#include "cli/mistakes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "parameter.h"

namespace dsgd {

std::string explain(const CLI::App& root, const CLI::ParseError& e, const std::vector<std::string>& words) {
  const CLI::App* app = &root;
  std::string name = "dsgd";
  for (; app->remaining().empty() && !app->get_subcommands().empty(); name += " " + app->get_name())
    app = app->get_subcommands().front();
  std::vector<std::string> commands, options;
  for (const CLI::App* command : app->get_subcommands([](const CLI::App*) { return true; }))
    if (!command->get_group().empty()) commands.push_back(command->get_name());
  for (const CLI::Option* option : app->get_options())
    if (!option->get_positional()) options.push_back(option->get_name());

  const auto refuse = [&](const std::string& what, const std::vector<std::string>& allowed) {
    return fmt::format("{}: {} (allowed: {}; {} --help explains them)", name, what, fmt::join(allowed, ", "),
                       name);
  };
  const auto left = app->remaining();
  const auto unknown = std::find_if(words.begin(), words.end(), [&](const std::string& word) {
    return std::find(left.begin(), left.end(), word) != left.end();
  });
  if (unknown != words.end() && unknown->starts_with("-"))
    return refuse(
        *unknown + ": unknown option" + did_you_mean(unknown->substr(0, unknown->find('=')), options),
        options);
  if (!commands.empty())
    return unknown == words.end()
               ? app->help() + refuse("a command is missing", commands)
               : refuse(*unknown + ": unknown command" + did_you_mean(*unknown, commands), commands);
  return fmt::format("{}: {} ({} --help says what it takes)", name,
                     unknown == words.end() ? e.what() : *unknown + ": one word too many", name);
}

}  // namespace dsgd
