#include "config/experiment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <compare>
#include <cstring>
#include <fstream>
#include <set>

#include "config/cluster.h"
#include "config/expression.h"
#include "config/papers.h"
#include "device.h"
#include "fetch.h"

namespace dsgd {

ConfigError::ConfigError(std::vector<std::string> problems)
    : std::runtime_error(fmt::to_string(fmt::join(problems, "\n"))), problems_(std::move(problems)) {}

namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_runs = 10000;
// toml++ recurses into every part of a dotted key, without a limit; this much text fits the stack.
constexpr std::size_t most_bytes = 32 << 10;
constexpr std::size_t most_platform = 16 << 20;
constexpr std::size_t most_values = 1 << 20;  // in a synthetic image: every model's size then fits an int

using Names = std::vector<std::string>;

std::string listed(const Names& names) { return fmt::to_string(fmt::join(names, ", ")); }

Names strategy_names() {
  Names names;
  for (const StrategyEntry* strategy : all_strategies()) names.push_back(strategy->name);
  return names;
}

struct Place {
  std::size_t source = 0;  // experiments' files, bases first; then the overrides, then the clusters' files
  std::uint32_t line = 1, column = 1;
  auto operator<=>(const Place&) const = default;
};

// The values that a key is given in one table. An expression is the text of a key that has numbers.
struct Axis {
  std::string key;  // in full
  const Parameter* parameter = nullptr;
  Place place;
  std::vector<Value> values;  // none: all were mistaken
  std::vector<Place> places;  // one per value
};

// Keys whose values go in step.
struct Together {
  Place place;
  std::vector<Names> groups;
};

struct Scope {
  const StrategyEntry* strategy = nullptr;  // null: the top level
  Place place;
  std::map<std::string, Axis> axes;
  bool cluster = false;  // a cluster's file
  std::optional<Together> together = {};

  std::string prefix() const { return strategy ? "strategy." + strategy->name + "." : ""; }
  std::string run_key(const std::string& key) const { return cluster ? "cluster." + key : key; }
  Names keys() const {
    Names keys;
    if (strategy)
      for (const Parameter& p : strategy->parameters) keys.push_back(p.name);
    const std::size_t left_out = run_key("").size();
    for (const RunKey& k : run_keys())
      if (k.name.starts_with(run_key("")) && !(cluster && k.name == "cluster.name"))
        keys.push_back(k.name.substr(left_out));
    for (const Parameter& p : host_keys()) keys.push_back(("cluster.hosts.NAME." + p.name).substr(left_out));
    return keys;
  }
  const Parameter* find(const std::string& key) const {  // the strategy's own come first; null: unknown
    if (strategy)
      for (const Parameter& p : strategy->parameters)
        if (p.name == key) return &p;
    for (const RunKey& k : run_keys())
      if (k.name == run_key(key) && !(cluster && key == "name")) return &k;
    return find_host_key(run_key(key));
  }
};

// What a cluster's file says.
struct ClusterFile {
  fs::path folder;
  Scope scope{.cluster = true};
  bool good = true;
};

bool is_policy(const std::string& key) {
  return std::any_of(run_keys().begin(), run_keys().end(),
                     [&](const RunKey& k) { return k.policy && k.name == key; });
}

// One axis of the product, and where a run is on it.
struct Choice {
  std::string key;
  const Axis* axis;
  std::size_t at = 0;
  std::size_t wheel = 0;  // those of one turn together
  const Value& value() const { return axis->values[at]; }
  const Place& place() const { return axis->places[at]; }
};

bool is_expression(const Choice& choice) {
  return std::holds_alternative<std::string>(choice.value()) &&
         !std::holds_alternative<std::string>(choice.axis->parameter->fallback);
}

std::string list_of(const Axis& axis) {
  Names values;
  for (const Value& value : axis.values)
    values.push_back(std::holds_alternative<std::string>(value) ? std::get<std::string>(value)
                                                                : to_string(value));
  return fmt::to_string(fmt::join(values, ","));
}

// What an expression of this key may use. The number of workers depends on nothing.
Names usable_names(const std::string& key) {
  if (key == "minibatch") return {"workers"};
  return {"workers", "minibatch"};
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

toml::table parse(const std::string& text) { return toml::parse(std::string_view(text)); }

std::string explain(const toml::parse_error& e) {
  return fmt::format("{} (allowed: TOML, text in quotes)", e.description());
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

bool mistaken(const std::vector<Choice>& choices) {
  return std::any_of(choices.begin(), choices.end(), [](const Choice& c) { return c.axis->values.empty(); });
}

std::vector<fs::path> toml_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".toml") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<fs::path> shipped(const char* what) {
  std::error_code none;
  const fs::path program = fs::read_symlink("/proc/self/exe", none);
  const fs::path installed = program.parent_path().parent_path() / "share/dsgd" / what;
  return toml_files(fs::is_directory(installed, none) ? installed
                                                      : fs::path(DSGD_SOURCE_DIR) / "harness" / what);
}

Names names_of(const std::vector<fs::path>& files) {
  Names names;
  for (const fs::path& file : files) names.push_back(file.stem().string());
  return names;
}

fs::path find_shipped(const std::string& name, const std::vector<fs::path>& files, const char* what,
                      const fs::path& folder = {}) {
  std::error_code none;
  const fs::path path = folder / name;
  if (fs::exists(path, none) && !fs::is_directory(path, none)) return path;
  for (const fs::path& file : files)
    if (file.stem() == name) return file;
  throw ConfigError(
      {fmt::format("{}: {}{} (allowed: a TOML file, or one of {})", name,
                   fs::exists(path, none) ? "is a folder"
                   : name == "local"      ? "this machine has not been measured: `dsgd calibrate` does it"
                                          : fmt::format("no such file or shipped {}", what),
                   did_you_mean(name, names_of(files)), listed(names_of(files)))});
}

std::string read_file(const fs::path& file, const std::string& allowed_files, std::size_t most = most_bytes) {
  const auto fail = [&](const char* why) {
    throw ConfigError(
        {fmt::format("{}: cannot be read: {} (allowed: {})", file.string(), why, allowed_files)});
  };
  std::error_code none;
  if (fs::is_directory(file, none)) fail("it is a folder");
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(std::strerror(errno));
  std::string text(most + 1, '\0');
  in.read(text.data(), std::streamsize(text.size()));
  if (in.bad()) fail(std::strerror(errno));
  text.resize(std::size_t(in.gcount()));
  return text;
}

class Reader {
 public:
  Reader(std::string file, const std::vector<std::string>& overrides)
      : sources_{std::move(file)}, overrides_(overrides.size()) {
    sources_.insert(sources_.end(), overrides.begin(), overrides.end());
  }
  Experiment read(const std::string& text);

 private:
  void problem(const Place& at, const std::string& key, const std::string& what) {
    problems_.insert({at, fmt::format("{}: {}", key, what)});
  }
  Place place(const toml::source_region& region) const {
    return {source_, region.begin.line, region.begin.column};
  }
  void raise() const;  // when there are problems

  void read_experiment(const std::string& text);
  std::string read_base(const toml::node& node);
  void read_override(const std::string& text);
  void read_table(const toml::table& table, const std::string& prefix, Scope& scope);
  void read_strategies(const toml::node& node, const Place& at);
  void read_strategy(const std::string& name, const toml::node& node, const Place& at);
  void read_values(const Parameter& parameter, const toml::node& node, Axis& axis);
  void read_value(const Parameter& parameter, const toml::node& node, Axis& axis);
  void read_together(const toml::node& node, const Place& at, Scope& scope);
  void unknown(const std::string& table, const std::string& name, const Place& at, const Scope& scope);

  std::vector<Choice> choices(const Scope& scope) const;
  void check_overrides();
  const std::optional<Together>& together(const Scope& scope) const {
    return scope.together ? scope.together : top_.together;
  }
  void check_together(const Scope& scope);
  void check_repeats(Scope& scope);
  bool evaluate_expressions(RunConfig& run, const std::vector<Choice>& choices);
  bool check_count();
  void expand(const Scope& scope, std::vector<RunConfig>& runs);
  const ClusterFile& cluster_file(const std::string& name, const Choice* cause);
  bool complete_cluster(RunConfig& run, const std::vector<Choice>& choices);
  bool identify_platform(RunConfig& run, const fs::path& folder, const Place& at);
  void check(const RunConfig& run, const Scope& scope, const std::vector<Choice>& choices);

  std::vector<std::string> sources_;
  std::size_t files_ = 1;   // how many of them are experiments'
  std::size_t overrides_;   // how many follow
  std::size_t source_ = 0;  // which is being read
  std::set<std::pair<Place, std::string>> problems_;
  Scope top_;
  std::vector<Scope> strategies_;
  bool names_strategy_ = false;  // rightly or wrongly
  std::map<std::string, ClusterFile> clusters_;
};

void Reader::raise() const {
  std::vector<std::string> lines;
  for (const auto& [at, what] : problems_) {
    const std::string& source = sources_[at.source];
    const bool is_override = at.source >= files_ && at.source < files_ + overrides_;
    lines.push_back(is_override ? fmt::format("--set {}: {}", source, what)
                                : fmt::format("{}:{}:{}: {}", source, at.line, at.column, what));
    for (char& c : lines.back())
      if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';  // one mistake, one line
  }
  if (!lines.empty()) throw ConfigError(lines);
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
    const Place at = place(name.source());
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

void Reader::unknown(const std::string& table, const std::string& name, const Place& at, const Scope& scope) {
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
  const std::string hint = did_you_mean(name, candidates);
  problem(at, scope.prefix() + table + name,
          "unknown key" + (hint.empty() ? fmt::format(" (allowed: {})", listed(known)) : hint));
}

void Reader::read_strategies(const toml::node& node, const Place& at) {
  if (!node.is_table()) {
    names_strategy_ = true;
    return problem(
        at, "strategy",
        fmt::format("expected a table [strategy.NAME] (allowed: NAME one of {})", listed(strategy_names())));
  }
  for (const auto& [name, table] : *node.as_table())
    read_strategy(std::string(name.str()), table, place(name.source()));
}

void Reader::read_strategy(const std::string& name, const toml::node& node, const Place& at) {
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
                   fmt::format("expected a table (allowed: {})", listed(scope.keys())));
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
  const Place at = place(node.source());
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
      Place mistake = at;
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

void Reader::read_together(const toml::node& node, const Place& at, Scope& scope) {
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

const ClusterFile& Reader::cluster_file(const std::string& name, const Choice* cause) {
  const auto [at, fresh] = clusters_.try_emplace(name);
  ClusterFile& file = at->second;
  if (!fresh) return file;
  const std::size_t reading = source_, problems = problems_.size();
  try {
    const fs::path path = find_shipped(name, known_clusters(), "cluster");
    const std::string text = read_file(path, "a TOML file, or one of `dsgd list clusters`");
    file.folder = path.parent_path();
    source_ = sources_.size();
    sources_.push_back(path.string());
    read_table(parse(text), "", file.scope);
    for (const auto& [key, axis] : file.scope.axes)
      if (axis.values.size() > 1)
        problem(axis.places[1], key, "a cluster has one value of each key (allowed: arrays in experiments)");
  } catch (const toml::parse_error& e) {
    problem(place(e.source()), "syntax", explain(e));
  } catch (const ConfigError& e) {
    problem(cause ? cause->place() : Place{}, "cluster", e.what());
  }
  source_ = reading;
  file.good = problems_.size() == problems;
  return file;
}

// Gives a simulated run the keys of its cluster: what is said, then the file's, then the defaults.
bool Reader::complete_cluster(RunConfig& run, const std::vector<Choice>& said) {
  const auto find = [&](const std::string& key) {
    const auto found = std::find_if(said.begin(), said.end(), [&](const Choice& c) { return c.key == key; });
    return found == said.end() ? nullptr : &*found;
  };
  const std::string name = run.settings.text("cluster.name");
  const auto in_file_place = [&](const char* key) {
    const auto& axes = clusters_[name].scope.axes;
    return axes.contains(key) ? axes.at(key).place : Place{};
  };
  std::set<std::string> hosts, in_file;
  fs::path folder;  // of a platform's file
  if (!name.empty()) {
    const ClusterFile& file = cluster_file(name, find("cluster.name"));
    if (!file.good) return false;
    if (!find("cluster.platform")) folder = file.folder;
    for (const auto& [key, axis] : file.scope.axes) {
      if (!find("cluster." + key)) run.settings.set("cluster." + key, axis.values.front());
      in_file.insert(hosts_of("cluster." + key));
    }
  }
  bool good = true;
  for (const auto& [key, value] : run.settings.values())
    if (const std::string own = hosts_of(key); !own.empty()) {
      hosts.insert(own);
      if (name.empty() || in_file.contains(own)) continue;
      good = false;
      in_file.erase("");
      problem(find(key)->place(), find(key)->axis->key,
              fmt::format("{} has no hosts \"{}\"{} (allowed: {})", name, own,
                          did_you_mean(own, {in_file.begin(), in_file.end()}), fmt::join(in_file, ", ")));
    }
  for (const std::string& own : hosts)
    for (const Parameter& p : host_keys())
      if (const std::string key = "cluster.hosts." + own + "." + p.name;
          find_host_key(key) && !run.settings.values().contains(key))
        run.settings.set(key, p.fallback);
  const Choice* const platform = find("cluster.platform");
  return good && identify_platform(run, folder, platform ? platform->place() : in_file_place("platform"));
}

// A platform's file by its content, wherever it lies.
bool Reader::identify_platform(RunConfig& run, const fs::path& folder, const Place& at) {
  const std::string& platform = run.settings.text("cluster.platform");
  if (platform.empty()) return true;
  const fs::path file = fs::absolute(folder / platform);
  try {
    const std::string wanted = run.settings.text("cluster.platform_sha256"),
                      found = sha256_text(read_file(file, "a SimGrid platform", most_platform));
    if (!wanted.empty() && wanted != found)
      throw ConfigError({fmt::format("{} has the SHA-256 {} (allowed: {})", file.string(), found, wanted)});
    run.settings.set("cluster.platform", file.string());
    run.settings.set("cluster.platform_sha256", found);
    return true;
  } catch (const ConfigError& e) {
    problem(at, "cluster.platform", e.what());
    return false;
  }
}

// What is wrong between keys. A key that was mistaken itself is no cause for more complaints.
void Reader::check(const RunConfig& run, const Scope& scope, const std::vector<Choice>& said) {
  const auto in_file = [&](const std::string& key) -> const Axis* {  // the cluster's
    if (!run.simulated() || !key.starts_with("cluster.")) return nullptr;
    const auto& axes = clusters_[run.settings.text("cluster.name")].scope.axes;
    const auto found = axes.find(key.substr(8));
    return found == axes.end() ? nullptr : &found->second;
  };
  const auto report = [&](const Conflict& conflict) {
    if (conflict.keys.empty()) {
      if (!mistaken(said)) problem(scope.place, "strategy." + scope.strategy->name, conflict.what);
      return;
    }
    const Axis* cause = nullptr;
    Place at = scope.place;
    for (const std::string& key : conflict.keys) {
      for (const Choice& c : said) {
        if (c.key != key) continue;
        if (c.axis->values.empty()) return;
        if (!cause) cause = c.axis, at = c.place();
      }
      if (const Axis* found = in_file(key); found && !cause) cause = found, at = found->place;
    }
    problem(at, cause ? cause->key : conflict.keys.front(), conflict.what);
  };
  for (const Conflict& conflict : conflicts(run)) report(conflict);
}

Experiment Reader::read(const std::string& text) {
  read_experiment(text);
  std::sort(strategies_.begin(), strategies_.end(),
            [](const Scope& a, const Scope& b) { return a.place < b.place; });
  const Place file{files_ - 1};
  const auto none = [&] {
    problem(file, "strategy",
            fmt::format("there is none (allowed: a table [strategy.NAME], NAME one of {})",
                        listed(strategy_names())));
  };
  if (!names_strategy_) none();
  for (source_ = files_; source_ < sources_.size(); ++source_) read_override(sources_[source_]);
  if (strategies_.empty() && problems_.empty()) none();  // all are left out
  if (!strategies_.empty()) check_overrides();
  check_repeats(top_);
  for (Scope& scope : strategies_) check_repeats(scope);
  if (problems_.empty())
    for (const Scope& scope : strategies_) check_together(scope);
  if (!check_count()) raise();

  Experiment experiment;
  for (const Scope& scope : strategies_) expand(scope, experiment.runs);
  raise();
  std::map<Value, std::size_t> seeds, workers;  // in order of appearance
  for (const RunConfig& run : experiment.runs) {
    seeds.insert({run.settings.values().at("seed"), seeds.size()});
    workers.insert({run.settings.values().at("workers"), workers.size()});
  }
  const auto order = [&](const RunConfig& run) {
    const auto& values = run.settings.values();
    return std::pair(seeds.at(values.at("seed")), workers.at(values.at("workers")));
  };
  std::stable_sort(experiment.runs.begin(), experiment.runs.end(),
                   [&](const RunConfig& a, const RunConfig& b) { return order(a) < order(b); });
  if (const auto title = top_.axes.find("title"); title != top_.axes.end())
    experiment.title = std::get<std::string>(title->second.values.front());
  return experiment;
}

}  // namespace

Experiment parse_experiment(const std::string& text, const std::string& source,
                            const std::vector<std::string>& overrides) {
  return Reader(source, overrides).read(text);
}

Experiment load_experiment(const fs::path& file, const std::vector<std::string>& overrides) {
  const std::string text =
      read_file(file, "a TOML file, or one of " + listed(names_of(shipped_experiments())));
  return parse_experiment(text, file.string(), overrides);
}

RunConfig parse_run(const std::string& text) {
  Experiment experiment = parse_experiment(text, "run");
  if (experiment.runs.size() != 1)
    throw ConfigError({fmt::format("run: describes {} runs (allowed: one)", experiment.runs.size())});
  return std::move(experiment.runs.front());
}

fs::path find_experiment(const std::string& name) {
  return find_shipped(name, shipped_experiments(), "experiment");
}
std::vector<fs::path> shipped_experiments() { return shipped("experiments"); }
std::vector<fs::path> known_clusters() {
  std::vector<fs::path> files = toml_files(config_folder() / "clusters");
  const Names own = names_of(files);
  for (const fs::path& file : shipped("clusters"))
    if (std::find(own.begin(), own.end(), file.stem()) == own.end()) files.push_back(file);
  return files;
}

}  // namespace dsgd
