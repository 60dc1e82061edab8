// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "config/expression.h"
#include "config/papers.h"
#include "config/reader.h"
#include "device.h"
#include "fetch.h"

namespace dsgd {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t most_values = 1 << 20;  // in a synthetic image: every model's size then fits an int

bool is_policy(const std::string& key) {
  return std::any_of(run_keys().begin(), run_keys().end(),
                     [&](const RunKey& k) { return k.policy && k.name == key; });
}

bool takes_expressions(const Parameter& p) {
  return p.name != "workers" && p.name != "seed" &&
         (std::holds_alternative<std::int64_t>(p.fallback) || std::holds_alternative<double>(p.fallback));
}

// What is wrong with a value that has the right type and range.
std::string objection(const std::string& key, const Value& value) {
  if (key == "device" && value != Value("auto")) {
    const std::string reason = find_device(std::get<std::string>(value))->unavailable();
    Names usable{"auto"};
    for (const DeviceEntry& device : all_devices())
      if (device.unavailable().empty()) usable.push_back(device.name);
    if (!reason.empty())
      return fmt::format("{} cannot be used here: {} (allowed: {})", to_string(value), reason,
                         listed(usable));
  }
  if (key == "engine" && value == Value("simulated"))
    if (const auto lack = no_simulator())
      return fmt::format("{} cannot be used here: {}; {} (allowed: mpi)", to_string(value), lack->why,
                         lack->remedy);
  if (key == "synthetic.shape") {
    try {
      if (const std::size_t size = parse_shape(std::get<std::string>(value)).size(); size > most_values)
        return fmt::format("{} has {} values (allowed: up to {})", to_string(value), size, most_values);
    } catch (const std::invalid_argument& e) {
      return fmt::format("{} (allowed: text such as \"1x28x28\")", e.what());
    }
  }
  return "";
}

// Shells eat quotes: what is no TOML value is text, and so is each such item of an array.
toml::table parse_override(const std::string& key, const std::string& value) {
  const auto is_toml = [](const std::string& item) {
    try {
      return parse("item = " + item).size() == 1;
    } catch (const toml::parse_error&) {
      return false;
    }
  };
  std::string quoted;
  if (is_toml(value) || value.find_first_of("\"'{") == 0)
    quoted = value;
  else if (!value.starts_with('['))
    quoted = to_string(Value(value));
  else
    for (std::size_t i = 0; i < value.size();) {
      const std::size_t end = std::min(value.find_first_of("[],", i), value.size());
      std::string item = value.substr(i, end - i);
      item.erase(0, item.find_first_not_of(' '));
      item.erase(item.find_last_not_of(' ') + 1);
      quoted += item.empty() || is_toml(item) ? item : to_string(Value(item));
      if (end < value.size()) quoted += value[end];
      i = end + 1;
    }
  return parse(key + " = " + quoted);
}

// What other programs call our keys.
const std::map<std::string, std::string>& elsewhere() {
  static const std::map<std::string, std::string> names{
      {"epochs", "a budget is `samples`, of all workers together: epochs times the training set"},
      {"batch_size", "a worker's batch is `minibatch`"},
      {"batch", "a worker's batch is `minibatch`"},
      {"lr", "the rate is `optimizer.learning_rate`"},
      {"weight_decay", "decay is `optimizer.l2`"},
      {"nodes", "ranks that compute are `workers`"},
      {"gpus", "ranks that compute are `workers`, what computes is `device`"}};
  return names;
}

std::string a_few(const Names& keys) {
  return keys.size() <= 10 ? listed(keys) : "those of `dsgd list keys`; `dsgd list keys WORD` searches them";
}

}  // namespace

Names strategy_names() {
  Names names;
  for (const StrategyEntry* strategy : all_strategies()) names.push_back(strategy->name);
  return names;
}

Names usable_names(const std::string& key) {
  if (key == "minibatch") return {"workers"};
  return {"workers", "minibatch"};
}

toml::table parse(const std::string& text) { return toml::parse(std::string_view(text)); }

std::string explain(const toml::parse_error& e) {
  const std::string what(e.description());
  // cluster = "NAME" stands for cluster.name; TOML sees text, and then a table of the same name.
  const bool both =
      what.find("redefine existing string") != what.npos || what.find("redefine existing table") != what.npos;
  return fmt::format("{} (allowed: TOML, text in quotes{})", what,
                     both ? "; where a table has a short form, as cluster = \"NAME\" is, write cluster.name "
                            "= \"NAME\" beside its other keys"
                          : "");
}

// Reads an experiment over the one that it is based on.
void Reader::read_experiment(const std::string& text) {
  if (text.size() > most_bytes)
    problem({}, "experiment", fmt::format("is too large (allowed: up to {} KiB)", most_bytes >> 10));
  raise();
  toml::table table;
  try {
    table = parse(text);
  } catch (const toml::parse_error& e) {
    problem(place(e.source()), "syntax", explain(e));
    raise();
  }
  if (const toml::node* base = table.get("base")) {
    read_experiment(read_base(*base));
    ++source_;
  }
  read_table(table, "", top_);
}

// The text of the first source's base, which becomes the first source itself.
std::string Reader::read_base(const toml::node& node) {
  const Names names = names_of(shipped_experiments());
  std::string text;
  try {
    if (!node.is_string())
      throw ConfigError({fmt::format("expected text (allowed: a TOML file, or one of {})", listed(names))});
    const fs::path file = find_shipped(node.ref<std::string>(), shipped_experiments(), "experiment",
                                       fs::path(sources_.front()).parent_path());
    std::error_code none;
    for (std::size_t i = 0; i < files_; ++i)
      if (fs::equivalent(file, sources_[i], none))
        throw ConfigError({fmt::format("{} is itself based on this (allowed: no circles)", file.string())});
    text = read_file(file, "a TOML file, or one of " + listed(names));
    sources_.insert(sources_.begin(), file.string());
    ++files_;
  } catch (const ConfigError& e) {
    problem(place(node.source()), "base", e.what());
    raise();
  }
  return text;
}

void Reader::read_override(const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::string key = text.substr(0, equals);
  const auto refuse = [&] {
    problem({source_}, key, "expected KEY=VALUE (allowed: a key from `dsgd list keys`)");
  };
  if (equals == std::string::npos || key.empty() || text.size() > most_bytes) return refuse();
  try {
    const toml::table table = parse_override(key, text.substr(equals + 1));
    if (table.empty()) return refuse();  // a comment
    read_table(table, "", top_);
  } catch (const toml::parse_error& e) {
    problem({source_}, key, explain(e));
  }
}

void Reader::read_table(const toml::table& table, const std::string& prefix, Scope& scope) {
  const Names known = scope.keys();
  for (const auto& [name, node] : table) {
    std::string key = prefix + std::string(name.str());
    if (key == "cluster" && !node.is_table()) key = "cluster.name";
    const std::string full = scope.prefix() + key;
    const SourcePlace at = place(name.source());
    const bool of_hosts = holds_host_keys(scope.run_key(key));
    Names inside;
    std::copy_if(known.begin(), known.end(), std::back_inserter(inside), [&](const std::string& k) {
      return k.starts_with(key + ".") || (of_hosts && k.find("hosts.NAME.") != std::string::npos);
    });
    if (key == "base" && &scope == &top_) {
      if (source_ >= files_)
        problem(at, key, "can be said by an experiment's file alone (allowed: other keys)");
    } else if (key == "together" && !scope.cluster) {
      read_together(node, at, scope);
    } else if (key == "strategy" && !scope.strategy) {
      read_strategies(node, at);
    } else if (const Parameter* parameter = scope.find(key)) {
      if (const auto old = scope.axes.find(key);
          old != scope.axes.end() && old->second.place.source == source_)
        problem(at, full, "is set twice (allowed: once)");
      Axis axis{full, parameter, at, {}, {}};
      read_values(*parameter, node, axis);
      if (key == "cluster.name" && source_ < files_)  // what bases say of another cluster does not hold
        std::erase_if(scope.axes, [&](const auto& said) {
          return said.first.starts_with("cluster.") && said.second.place.source < source_;
        });
      scope.axes[key] = std::move(axis);
    } else if (inside.empty()) {
      unknown(prefix, std::string(name.str()), at, scope);
    } else if (!node.is_table()) {
      problem(place(node.source()), full, fmt::format("expected a table (allowed: {})", listed(inside)));
    } else {
      read_table(*node.as_table(), key + ".", scope);
    }
  }
}

void Reader::unknown(const std::string& table, const std::string& name, const SourcePlace& at,
                     const Scope& scope) {
  Names known = table.empty() ? Names() : names_in_hosts(scope.run_key(table));
  if (known.empty())
    for (const std::string& k : scope.keys())
      if (k.starts_with(table)) known.push_back(k);
  Names candidates = known;
  for (const std::string& k : known)  // and the tables that they are in
    for (std::size_t dot = k.find('.', table.size()); dot != k.npos; dot = k.find('.', dot + 1))
      candidates.push_back(k.substr(0, dot));
  if (table.empty() && !scope.strategy && !scope.cluster) {
    candidates.insert(candidates.end(), {"strategy", "base", "together"});
    for (const StrategyEntry* strategy : all_strategies())
      for (const Parameter& p : strategy->parameters)
        candidates.push_back(fmt::format("strategy.{}.{}", strategy->name, p.name));
  }
  std::string hint = did_you_mean(name, candidates);
  if (const auto foreign = elsewhere().find(name);
      foreign != elsewhere().end() && table.empty() && !scope.cluster)
    hint = ", " + foreign->second;
  problem(at, scope.prefix() + table + name,
          "unknown key" + (hint.empty() ? fmt::format(" (allowed: {})", a_few(known)) : hint));
}

void Reader::read_strategies(const toml::node& node, const SourcePlace& at) {
  if (!node.is_table()) {
    names_strategy_ = true;
    return problem(
        at, "strategy",
        fmt::format("expected a table [strategy.NAME] (allowed: NAME one of {})", listed(strategy_names())));
  }
  for (const auto& [name, table] : *node.as_table())
    read_strategy(std::string(name.str()), table, place(name.source()));
}

void Reader::read_strategy(const std::string& name, const toml::node& node, const SourcePlace& at) {
  names_strategy_ = true;
  const std::string key = "strategy." + name;
  Scope scope{find_strategy(name), at, {}};
  if (!scope.strategy) {
    const PaperName* elsewhere = find_paper_name(name);
    return problem(at, key,
                   fmt::format("unknown strategy{} (allowed: {})",
                               elsewhere ? ", did you mean " + elsewhere->says() + "?"
                                         : did_you_mean(name, strategy_names()),
                               listed(strategy_names())));
  }
  const bool left_out = source_ > 0 && node.value_exact<bool>() == false;
  if (!node.is_table() && !left_out)
    return problem(place(node.source()), key,
                   fmt::format("expected a table (allowed: {})", a_few(scope.keys())));
  Names present;
  for (auto s = strategies_.begin(); s != strategies_.end(); ++s) {
    if (s->strategy == scope.strategy) {
      if (!left_out) return read_table(*node.as_table(), "", *s);
      strategies_.erase(s);
      return;
    }
    present.push_back(s->strategy->name);
  }
  if (left_out || source_ >= files_)
    return problem(at, key, fmt::format("is not in this experiment (allowed: {})", listed(present)));
  read_table(*node.as_table(), "", scope);
  strategies_.push_back(std::move(scope));
}

void Reader::read_values(const Parameter& parameter, const toml::node& node, Axis& axis) {
  const toml::array* const array = node.as_array();
  if (!array) return read_value(parameter, node, axis);
  if (array->empty())
    return problem(place(node.source()), axis.key,
                   fmt::format("an empty array makes no runs (allowed: {})", allowed(parameter)));
  if (array->size() > 1 && is_policy(parameter.name))
    return problem(
        place(node.source()), axis.key,
        fmt::format("cannot be an axis, for it does not change what is computed (allowed: one of {})",
                    allowed(parameter)));
  for (const toml::node& element : *array) read_value(parameter, element, axis);
}

void Reader::read_value(const Parameter& parameter, const toml::node& node, Axis& axis) {
  const SourcePlace at = place(node.source());
  Value value;
  if (const auto* flag = node.as_boolean())
    value = flag->get();
  else if (const auto* whole = node.as_integer())
    value = whole->get();
  else if (const auto* real = node.as_floating_point())
    value = real->get();
  else if (const auto* words = node.as_string())
    value = parameter.name == "device" ? device_today(words->get()) : words->get();
  else
    return problem(at, axis.key,
                   fmt::format("expected {}, got {} (allowed: {})", kind(parameter),
                               node.is_table()   ? "a table"
                               : node.is_array() ? "an array in an array"
                               : node.is_time()  ? "a time"
                                                 : "a date",
                               allowed(parameter)));
  std::string wrong;
  const bool in_cluster = source_ >= files_ + overrides_;  // which knows no workers
  if (auto* text = std::get_if<std::string>(&value); text && takes_expressions(parameter) && !in_cluster)
    try {
      const Expression expression = parse_expression(*text, usable_names(parameter.name));
      if (expression.names.empty())
        wrong = fmt::format("expected {}, got {} (allowed: {}, or in terms of {})", kind(parameter),
                            to_string(value), allowed(parameter), listed(usable_names(parameter.name)));
      *text = expression.text;
    } catch (const ExpressionError& e) {
      SourcePlace mistake = at;
      mistake.column += std::uint32_t(1 + e.at);
      return problem(mistake, axis.key, fmt::format("in {}: {}", to_string(value), e.what()));
    }
  else
    value = checked(parameter, value, wrong);
  if (wrong.empty()) wrong = objection(parameter.name, value);
  if (!wrong.empty()) return problem(at, axis.key, wrong);
  axis.values.push_back(value);
  axis.places.push_back(at);
}

void Reader::read_together(const toml::node& node, const SourcePlace& at, Scope& scope) {
  const std::string key = scope.prefix() + "together";
  const auto refuse = [&](const toml::node& where) {
    problem(place(where.source()), key,
            "expected lists of keys (allowed: such as [\"workers\", \"minibatch\"], or several in a list)");
  };
  Together together{at, {}};
  Names seen;
  const auto read_group = [&](const toml::array& names) {
    Names group;
    for (const toml::node& name : names) {
      if (!name.is_string()) return refuse(name);
      const std::string named = name.ref<std::string>();
      if (!scope.find(named))
        return problem(place(name.source()), key,
                       fmt::format("unknown key {}{} (allowed: keys of this table)", named,
                                   did_you_mean(named, scope.keys())));
      if (std::find(seen.begin(), seen.end(), named) != seen.end())
        return problem(place(name.source()), key, fmt::format("{} is named twice (allowed: once)", named));
      seen.push_back(named);
      group.push_back(named);
    }
    if (group.size() < 2) return refuse(names);
    together.groups.push_back(group);
  };
  const toml::array* const array = node.as_array();
  if (!array) return refuse(node);
  const bool one = !array->empty() && !array->front().is_array();
  if (one) read_group(*array);
  for (const toml::node& group : *array)
    if (!one) {
      if (!group.is_array()) return refuse(group);
      read_group(*group.as_array());
    }
  scope.together = together;
}

}  // namespace dsgd
