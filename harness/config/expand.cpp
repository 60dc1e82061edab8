// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "config/expression.h"
#include "config/reader.h"

namespace dsgd {
namespace {

constexpr std::size_t most_runs = 10000;

std::string list_of(const Axis& axis) {
  Names values;
  for (const Value& value : axis.values)
    values.push_back(std::holds_alternative<std::string>(value) ? std::get<std::string>(value)
                                                                : to_string(value));
  return fmt::to_string(fmt::join(values, ","));
}

}  // namespace

bool is_expression(const Choice& choice) {
  return std::holds_alternative<std::string>(choice.value()) &&
         !std::holds_alternative<std::string>(choice.axis->parameter->fallback);
}

bool mistaken(const std::vector<Choice>& choices) {
  return std::any_of(choices.begin(), choices.end(), [](const Choice& c) { return c.axis->values.empty(); });
}

// What is said for this strategy, in the files' order: its own table takes the place of the top level.
std::vector<Choice> Reader::choices(const Scope& scope) const {
  std::map<std::string, const Axis*> said;
  for (const auto& [key, axis] : scope.axes) said[key] = &axis;
  for (const auto& [key, axis] : top_.axes) said.insert({key, &axis});
  std::vector<Choice> all;
  for (const auto& [key, axis] : said) all.push_back({key, axis});
  std::sort(all.begin(), all.end(),
            [](const Choice& a, const Choice& b) { return a.axis->place < b.axis->place; });
  for (std::size_t i = 0; i < all.size(); ++i) all[i].wheel = i;
  if (const auto& lists = together(scope))
    for (const Names& group : lists->groups) {
      Choice* first = nullptr;
      for (Choice& c : all)
        if (std::find(group.begin(), group.end(), c.key) != group.end()) {
          if (!first) first = &c;
          if (c.axis->values.size() == first->axis->values.size()) c.wheel = first->wheel;
        }
    }
  return all;
}

// What goes together has as many values each.
void Reader::check_together(const Scope& scope) {
  const auto& lists = together(scope);
  if (!lists) return;
  const std::vector<Choice> said = choices(scope);
  for (const Names& group : lists->groups) {
    const Choice* first = nullptr;
    for (const std::string& key : group) {
      const auto c = std::find_if(said.begin(), said.end(), [&](const Choice& x) { return x.key == key; });
      if (c == said.end())
        problem(
            lists->place, scope.together ? scope.prefix() + "together" : "together",
            fmt::format("{} has no values for {} (allowed: keys with arrays)", key, scope.strategy->name));
      else if (!first)
        first = &*c;
      else if (c->axis->values.size() != first->axis->values.size())
        problem(c->axis->place, c->axis->key,
                fmt::format("has {} values and {} has {}, but they go together (allowed: as many)",
                            c->axis->values.size(), first->axis->key, first->axis->values.size()));
    }
  }
}

void Reader::check_repeats(Scope& scope) {
  for (auto& [key, axis] : scope.axes) {
    const auto in_step = [&key = key](const std::optional<Together>& lists) {
      return lists && std::any_of(lists->groups.begin(), lists->groups.end(), [&](const Names& group) {
               return std::find(group.begin(), group.end(), key) != group.end();
             });
    };
    if (in_step(scope.together) || in_step(top_.together) ||
        (!scope.strategy && std::any_of(strategies_.begin(), strategies_.end(),
                                        [&](const Scope& s) { return in_step(s.together); })))
      continue;
    for (std::size_t i = 0; i < axis.values.size();)
      if (std::find(axis.values.begin(), axis.values.begin() + std::ptrdiff_t(i), axis.values[i]) ==
          axis.values.begin() + std::ptrdiff_t(i)) {
        ++i;
      } else {
        problem(axis.places[i], axis.key,
                fmt::format("duplicate run: {} is repeated (allowed: each value once)",
                            to_string(axis.values[i])));
        axis.values.erase(axis.values.begin() + std::ptrdiff_t(i));
        axis.places.erase(axis.places.begin() + std::ptrdiff_t(i));
      }
  }
}

// Puts the values of expressions into a run whose other settings are known, the minibatch's first.
bool Reader::evaluate_expressions(RunConfig& run, const std::vector<Choice>& said) {
  std::vector<const Choice*> expressions;
  for (const Choice& c : said)
    if (!c.axis->values.empty() && is_expression(c))
      expressions.insert(c.key == "minibatch" ? expressions.begin() : expressions.end(), &c);
  bool good = true;
  for (const Choice* c : expressions) {
    const Parameter& parameter = *c->axis->parameter;
    const bool own = run.strategy_settings.values().contains(c->key);
    const std::map<std::string, double> values{{"workers", run.workers()}, {"minibatch", run.minibatch()}};
    const Expression expression =
        parse_expression(std::get<std::string>(c->value()), usable_names(parameter.name));
    const std::optional<double> result = evaluate(expression, values);
    const bool whole = std::holds_alternative<std::int64_t>(parameter.fallback);
    std::string wrong;
    if (result && (!whole || (std::trunc(*result) == *result && std::abs(*result) < 1e15))) {
      const Value value = checked(parameter, whole ? Value(std::int64_t(*result)) : Value(*result), wrong);
      if (wrong.empty()) (own ? run.strategy_settings : run.settings).set(c->key, value);
    } else {
      wrong = "not whole";
    }
    run.expressions[own ? "strategy." + c->key : c->key] = expression.text;
    if (wrong.empty()) continue;
    good = false;
    if (mistaken(said)) break;
    Names of;
    for (const std::string& name : expression.names)
      of.push_back(fmt::format("{} = {:g}", name, values.at(name)));
    const std::string outcome = !result               ? "divides by zero"
                                : std::isnan(*result) ? "has no value"
                                                      : fmt::format("is {:.15g}", *result);
    problem(c->place(), c->axis->key,
            fmt::format("{} {} with {} (allowed: {})", to_string(Value(expression.text)), outcome, listed(of),
                        allowed(parameter)));
    if (c->key == "minibatch") break;  // others may depend on it
  }
  // A list that goes together with the workers' is such a function, too.
  const auto workers =
      std::find_if(said.begin(), said.end(), [](const Choice& c) { return c.key == "workers"; });
  if (workers == said.end() || workers->axis->values.size() < 2) return good;
  for (const Choice& c : said)
    if (c.wheel == workers->wheel && c.key != "workers")
      run.expressions[run.strategy_settings.values().contains(c.key) ? "strategy." + c.key : c.key] =
          fmt::format("{} for workers={}", list_of(*c.axis), list_of(*workers->axis));
  return good;
}

void Reader::check_overrides() {
  for (const auto& [key, axis] : top_.axes) {
    const auto own = [&key = key, said = axis.place.source](const Scope& s) {
      const auto there = s.axes.find(key);
      return there != s.axes.end() && there->second.place.source < said;
    };
    if (std::all_of(strategies_.begin(), strategies_.end(), own))
      problem(axis.place, key,
              fmt::format("has no effect, for every strategy sets its own (allowed: strategy.NAME.{})", key));
  }
}

bool Reader::check_count() {
  double total = 0;
  const Axis* longest = nullptr;
  for (const Scope& scope : strategies_) {
    double product = 1;
    std::set<std::size_t> wheels;
    for (const Choice& c : choices(scope)) {
      if (wheels.insert(c.wheel).second) product *= double(std::max<std::size_t>(c.axis->values.size(), 1));
      if (!longest || c.axis->values.size() > longest->values.size()) longest = c.axis;
    }
    total += product;
  }
  if (total > double(most_runs))
    problem(longest->place, longest->key,
            fmt::format("the axes multiply to {} runs (allowed: up to {})", total, most_runs));
  return total <= double(most_runs);
}

void Reader::expand(const Scope& scope, std::vector<RunConfig>& runs) {
  std::vector<Choice> said = choices(scope);
  std::map<std::string, std::vector<Choice>> seen;
  for (bool more = true; more;) {
    RunConfig run{scope.strategy, Settings({run_keys().begin(), run_keys().end()}),
                  Settings(scope.strategy->parameters)};
    for (const Choice& c : said) {
      if (c.axis->values.empty() || is_expression(c)) continue;
      const bool own = run.strategy_settings.values().contains(c.key);
      (own ? run.strategy_settings : run.settings).set(c.key, c.value());
    }
    const bool good = evaluate_expressions(run, said);
    if ((!run.simulated() || complete_cluster(run, said)) && good) check(run, scope, said);
    run.normalise();
    if (const auto [twin, fresh] = seen.insert({run.canonical(), said}); !fresh && good && !mistaken(said)) {
      const auto [a, b] = std::mismatch(said.begin(), said.end(), twin->second.begin(),
                                        [](const Choice& x, const Choice& y) { return x.at == y.at; });
      const bool of_cluster = !run.simulated() && a->key.starts_with("cluster.") && !slows_ranks(a->key);
      problem(a->place(), a->axis->key,
              fmt::format("duplicate run: {} and {} make no difference to {} with {}", to_string(b->value()),
                          to_string(a->value()), scope.strategy->name,
                          of_cluster
                              ? "engine = \"mpi\", for real runs have no modelled cluster (allowed: several "
                                "values with engine = \"simulated\" alone, or two experiments)"
                              : "its other settings (allowed: values that do; an axis for some strategies "
                                "only belongs into their tables)"));
    }
    runs.push_back(std::move(run));

    more = false;
    for (auto c = said.rbegin(); c != said.rend() && !more; ++c) {
      if (c->wheel != std::size_t(said.rend() - c) - 1) continue;  // turns with an earlier one
      more = c->at + 1 < c->axis->values.size();
      const std::size_t next = more ? c->at + 1 : 0;
      for (Choice& other : said)
        if (other.wheel == c->wheel) other.at = next;
    }
  }
}

}  // namespace dsgd
