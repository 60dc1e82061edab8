#include "results/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "config/experiment.h"
#include "results/statistics.h"
#include "run/outcome.h"

namespace dsgd {
namespace {

std::string plain(const Value& value) {
  const auto* text = std::get_if<std::string>(&value);
  return text ? *text : to_string(value);
}

std::map<std::string, Value> attributes(hid_t file, const std::string& name) {
  std::map<std::string, Value> result;
  if (!h5::exists(file, name)) return result;
  const h5::Handle object = h5::group(file, name);
  for (const std::string& key : h5::names(object)) result[key] = h5::get(object, key);
  return result;
}

std::string text(const std::map<std::string, Value>& values, const std::string& key) {
  const auto found = values.find(key);
  return found == values.end() ? "" : plain(found->second);
}

// Part files, of runs that have not ended, are read as they are.
h5::Handle open_result(const std::filesystem::path& path) {
  if (path.extension() != ".part") h5::verify(path, result_format);
  return h5::open(path, false);
}

// Keys that tell runs of one row apart from runs of another.
bool is_setting(const std::string& key) {
  static const std::set<std::string> others = [] {
    std::set<std::string> keys{"text", "strategy", "seed", "workers"};
    for (const RunKey& run_key : run_keys())
      if (run_key.policy) keys.insert(run_key.name);
    return keys;
  }();
  return !others.contains(key);
}

// Real runs have what slows ranks only where some are slowed. Others have what slows nobody; a straggler's
// other keys mean nothing without its slowdown.
std::map<std::string, Value> settings_of(const std::map<std::string, Value>& config) {
  std::map<std::string, Value> result{{"cluster.jitter", 0.0}, {"cluster.straggler.slowdown", 1.0}};
  for (const auto& [key, value] : config)
    if (is_setting(key)) result[key] = value;
  return result;
}

// What the results of one table must not be averaged over, where they differ in it.
std::vector<Labels::Config> marks_of(const std::vector<RunResult>& runs, std::optional<double> target) {
  std::vector<Labels::Config> marks;
  std::map<std::string, std::set<std::string>> values;
  for (const RunResult& run : runs) {
    const auto known = [&](const char* key) { return text(run.provenance, key); };
    marks.push_back(
        {{"commit", known("commit").substr(0, 12) + (known("dirty") == "true" ? "+changes" : "")},
         {"build", fmt::format("{} {} {}", known("compiler"), known("build_type"), known("flags"))},
         {"host", fmt::format("{}, {} cores", known("cpu"), known("cores"))},
         {"target", target.value_or(std::get<double>(run.config.at("target")))}});
    for (const auto& [key, value] : marks.back()) values[key].insert(plain(value));
  }
  for (Labels::Config& of_run : marks)
    std::erase_if(of_run, [&](const auto& mark) { return values[mark.first].size() == 1; });
  return marks;
}

std::string signature(const RunResult& run, const Labels::Config& marks, bool with_minibatch) {
  std::string result = run.strategy();
  Labels::Config settings = settings_of(said(run.config, run.expressions));
  settings.insert(marks.begin(), marks.end());
  for (const auto& [key, value] : settings)
    if (with_minibatch || key != "minibatch") result += fmt::format("; {}={}", key, plain(value));
  return result;
}

// The runs among which a setting may differ: of a strategy and engine (a cluster's keys: and cluster).
std::string peers(const std::map<std::string, Value>& config, const std::string& key) {
  const bool of_cluster = key.starts_with("cluster.") && key != "cluster.name";
  return fmt::format("{} {}{}", text(config, "strategy"), text(config, "engine"),
                     of_cluster ? " on " + text(config, "cluster.name") : "");
}

// Of whose results it means something that some lack a setting: it may have come later.
std::string program(const Labels::Config& marks) {
  return fmt::format(" by {} {} {}", text(marks, "commit"), text(marks, "build"), text(marks, "host"));
}

struct Row {
  std::string strategy, settings;
  std::int64_t workers = 1, minibatch = 1;
  double target = 0;
  std::string label = {};
  std::vector<const RunResult*> runs = {};
};

std::string with_interval(const std::vector<double>& x, const char* format) {
  if (x.empty()) return "-";
  const std::string middle = fmt::format(fmt::runtime(format), mean(x));
  return x.size() < 2 ? middle : middle + " ± " + fmt::format(fmt::runtime(format), interval(x));
}

// A number of each seed, of those that have it.
struct Numbers {
  std::vector<double> values;
  std::size_t of = 0;
  void add(std::optional<double> value) {
    ++of;
    if (value) values.push_back(*value);
  }
  bool complete() const { return !values.empty() && values.size() == of; }
  std::string missing() const { return fmt::format("{} of {}", values.size(), of); }
  // The mean of those that came through would flatter.
  std::string text(const char* format) const {
    return values.empty() || complete() ? with_interval(values, format) : missing();
  }
};

template <typename F>
Numbers collect(const Row& row, F derived) {
  Numbers result;
  for (const RunResult* run : row.runs) result.add(derived(*run));
  return result;
}

// The ratio of a derived number to that of the base run with the same seed, per seed that has a base.
template <typename F>
Numbers ratios(const Row& row, const Row& base, F derived) {
  Numbers result;
  for (const RunResult* run : row.runs)
    for (const RunResult* other : base.runs)
      if (run->integer("seed") == other->integer("seed")) {
        const std::optional<double> a = derived(*run), b = derived(*other);
        result.add(a && b ? std::optional(*a / *b) : std::nullopt);
      }
  return result;
}

// What is there of failures is told, too: claims are made of them.
std::string accuracy_text(const Row& row) {
  const auto percent = [](const RunResult& run) {
    const std::optional<double> accuracy = run.accuracy();
    return accuracy ? std::optional(100 * *accuracy) : std::nullopt;
  };
  const Numbers all = collect(row, percent);
  const auto learned = std::size_t(
      std::count_if(row.runs.begin(), row.runs.end(), [](const RunResult* run) { return run->ok(); }));
  if (learned == all.of) return all.text("{:.2f}");
  const std::string how_many = fmt::format("{} of {}", learned, all.of);
  if (all.values.empty()) return how_many;
  const auto [least, most] = std::minmax_element(all.values.begin(), all.values.end());
  return *least == *most ? fmt::format("{} ({:.2f})", how_many, *least)
                         : fmt::format("{} ({:.2f} to {:.2f})", how_many, *least, *most);
}

std::size_t width(const std::string& s) {  // of UTF-8 text on a terminal
  return std::size_t(std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
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

}  // namespace

std::optional<double> RunResult::accuracy() const {
  if (snapshots.empty()) return std::nullopt;
  return snapshots.back().accuracy();
}

std::optional<double> RunResult::throughput() const {
  if (!has_speed(outcome)) return std::nullopt;
  return double(std::get<std::int64_t>(result.at("samples"))) / std::get<double>(result.at("seconds"));
}

std::optional<double> RunResult::time_to(double target) const {
  if (!ok()) return std::nullopt;
  for (const SnapshotRow& s : snapshots)
    if (s.accuracy() >= target) return s.seconds;
  return std::nullopt;
}

std::optional<double> RunResult::mean_staleness() const {
  double sum = 0, count = 0;
  for (const StalenessRow& row : staleness) {
    sum += double(row.tau) * double(row.count);
    count += double(row.count);
  }
  if (count == 0) return std::nullopt;
  return sum / count;
}

std::optional<double> RunResult::megabytes_per_worker() const {
  double sum = 0, count = 0;
  for (const RankRow& row : ranks)
    if (!row.server) sum += double(row.bytes_sent) / 1e6, ++count;
  if (count == 0) return std::nullopt;
  return sum / count;
}

std::optional<double> RunResult::snapshot_share() const {
  const auto seconds = result.find("seconds");
  if (seconds == result.end() || ranks.empty()) return std::nullopt;
  const auto longest = std::max_element(ranks.begin(), ranks.end(), [](const RankRow& a, const RankRow& b) {
    return a.snapshot_s < b.snapshot_s;
  });
  return longest->snapshot_s / std::get<double>(seconds->second);
}

std::string RunResult::origin_of(const std::map<std::string, Value>& provenance) {
  return fmt::format("commit {}{}, {} {} {}, {} with {} cores", text(provenance, "commit").substr(0, 12),
                     text(provenance, "dirty") == "true" ? " with changes" : "", text(provenance, "compiler"),
                     text(provenance, "build_type"), text(provenance, "flags"), text(provenance, "cpu"),
                     text(provenance, "cores"));
}

RunResult read_result(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  RunResult run;
  run.file = path;
  if (!h5::has(file, "schema") || std::get<std::int64_t>(h5::get(file, "schema")) != schema_version)
    throw std::runtime_error(
        fmt::format("{}: not a result file of schema version {}", path.string(), schema_version));
  const auto own = attributes(file, "/");
  run.name = text(own, "name");
  run.id = text(own, "id");
  run.title = text(own, "title");
  run.engine = text(own, "engine");
  run.outcome = text(own, "outcome");
  run.detail = text(own, "outcome_detail");
  run.history = text(own, "history");
  run.config = attributes(file, "config");
  run.effective = attributes(file, "effective");
  run.expressions = attributes(file, "expressions");
  run.provenance = attributes(file, "provenance");
  run.result = attributes(file, "result");
  for (const auto& [group, key] :
       std::initializer_list<std::pair<const std::map<std::string, Value>*, const char*>>{
           {&run.config, "strategy"},
           {&run.config, "workers"},
           {&run.config, "minibatch"},
           {&run.config, "seed"},
           {&run.config, "target"},
           {&run.provenance, "started"}})
    if (!group->contains(key))
      throw std::runtime_error(fmt::format("{}: damaged: expected an attribute {}", path.string(), key));
  run.snapshots = h5::read_table<SnapshotRow>(file, "snapshots");
  run.ranks = h5::read_table<RankRow>(file, "ranks");
  run.staleness = h5::read_table<StalenessRow>(file, "staleness");
  run.departures = h5::read_table<DepartureRow>(file, "departures");
  run.traced = h5::exists(file, "spans");
  return run;
}

std::vector<StepRow> read_steps(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  return h5::read_table<StepRow>(file, "steps");
}

std::vector<RequestRow> read_requests(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  return h5::read_table<RequestRow>(file, "requests");
}

std::vector<SpanRow> read_spans(const std::filesystem::path& path) {
  const h5::Handle file = open_result(path);
  return h5::read_table<SpanRow>(file, "spans");
}

ResultFolder read_folder(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder))
    throw std::runtime_error(
        fmt::format("{}: no such folder (expected one with result files, NAME.h5)", folder.string()));
  ResultFolder result;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".h5") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) try {
      result.runs.push_back(read_result(file));
    } catch (const std::exception& e) {
      result.unreadable.emplace_back(e.what());
    }
  return result;
}

std::map<std::string, Value> said(std::map<std::string, Value> config,
                                  const std::map<std::string, Value>& expressions) {
  for (const auto& [key, expression] : expressions)
    if (const auto value = config.find(key); value != config.end()) value->second = expression;
  return config;
}

void Labels::add(const Config& config, const Config& marks) {
  for (const std::string& group : std::set{peers(config, ""), peers(config, "cluster.")})
    ++runs_[group + program(marks)];
  Config settings = settings_of(config);
  for (const auto& [key, value] : settings) experiments_[text(config, "title")][key].insert(plain(value));
  settings.insert(marks.begin(), marks.end());
  for (const auto& [key, value] : settings) {
    seen_[{peers(config, key), key}].insert(plain(value));
    ++having_[{peers(config, key) + program(marks), key}];
  }
}

// Whether an experiment has none of another's values.
bool Labels::tells_experiments(const std::string& key) const {
  if (key == "engine" || key.starts_with("strategy.") ||
      (key.starts_with("cluster.") && key != "cluster.name"))
    return false;
  for (const auto& [title, keys] : experiments_)
    for (const auto& [other_title, other] : experiments_)
      if (keys.contains(key) && other.contains(key) &&
          std::none_of(keys.at(key).begin(), keys.at(key).end(),
                       [&](const std::string& value) { return other.at(key).contains(value); }))
        return true;
  return false;
}

std::string Labels::of(const Config& config, const Config& marks) const {
  std::string result = text(config, "engine") == "simulated" ? " (simulated)" : "";
  Config settings = settings_of(config);
  settings.insert(marks.begin(), marks.end());
  for (const auto& [key, value] : settings) {
    const std::string group = peers(config, key), of_program = group + program(marks);
    const bool absent =
        having_.at({of_program, key}) < runs_.at(of_program) && !key.starts_with("cluster.straggler.");
    if (seen_.at({group, key}).size() > 1 || absent || tells_experiments(key))
      result += fmt::format(" {}={}", key.starts_with("strategy.") ? key.substr(9) : key,
                            plain(value).substr(0, key.ends_with("_sha256") ? 12 : std::string::npos));
  }
  return result;
}

std::string table(const std::vector<RunResult>& runs, std::optional<double> target, bool mixed) {
  std::set<std::string> origins;
  for (const RunResult& run : runs) origins.insert(run.origin());
  if (origins.size() > 1 && !mixed) {
    std::string message =
        "these runs do not compare, they come from different programs or hosts (--allow-mixed shows them all "
        "the "
        "same):";
    for (const std::string& origin : origins) message += "\n  " + origin;
    throw std::runtime_error(message);
  }

  std::vector<Row> rows;
  std::map<std::string, std::size_t> index;
  const std::vector<Labels::Config> marks = marks_of(runs, target);
  Labels labels;
  for (std::size_t i = 0; i < runs.size(); ++i)
    labels.add(said(runs[i].config, runs[i].expressions), marks[i]);
  std::set<double> targets;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunResult& run = runs[i];
    const std::int64_t workers = run.integer("workers");
    const auto [at, added] = index.try_emplace(
        fmt::format("{}; workers={}", signature(run, marks[i], true), workers), rows.size());
    if (added)
      rows.push_back({run.strategy(), signature(run, marks[i], false), workers, run.integer("minibatch"),
                      target.value_or(std::get<double>(run.config.at("target"))),
                      labels.of(said(run.config, run.expressions), marks[i])});
    Row& row = rows[at->second];
    for (const RunResult* other : row.runs)
      if (other->integer("seed") == run.integer("seed"))
        throw std::runtime_error(fmt::format(
            "{} and {} are the same settings and seed twice (expected: once; keep one of them in the folder)",
            other->file.string(), run.file.string()));
    row.runs.push_back(&run);
    targets.insert(row.target);
  }
  const auto find_base = [&](const Row& row, std::int64_t minibatch) -> const Row* {
    for (const Row& other : rows)
      if (other.workers == 1 && other.minibatch == minibatch && other.settings == row.settings) return &other;
    return nullptr;
  };
  std::stable_sort(rows.begin(), rows.end(), [&](const Row& a, const Row& b) {
    const auto order = [](const std::string& name) {
      const auto& all = all_strategies();
      return std::find_if(all.begin(), all.end(), [&](const auto* e) { return e->name == name; }) -
             all.begin();
    };
    return std::pair(order(a.strategy), a.workers) < std::pair(order(b.strategy), b.workers);
  });

  std::vector<std::vector<std::string>> cells{
      {"strategy", "workers", "test accuracy %",
       targets.size() == 1 && *targets.begin() > 0 ? fmt::format("time to {:g} % (s)", 100 * *targets.begin())
                                                   : "time to target",
       "samples/s", "speed-up (base: 1 worker)", "mean staleness", "MB sent/worker", "runs"}};
  for (const Row& row : rows) {
    const auto throughput = [](const RunResult& r) { return r.throughput(); };
    const Numbers times = collect(row, [&](const RunResult& r) { return r.time_to(row.target); });
    std::string reached = "-";
    if (row.target > 0)
      reached = times.complete() ? with_interval(times.values, "{:.2f}") : times.missing() + " reached";

    std::string speedup = row.workers == 1 ? "1 (base)" : "no base";
    if (row.workers > 1) {
      std::string parts;
      const auto add = [&](const Row* base, const char* kind) {
        if (!base) return;
        const Numbers r = ratios(row, *base, throughput);
        if (r.of)
          parts += fmt::format("{}{} {}{}", parts.empty() ? "" : ", ",
                               r.complete() ? r.text("{:.2f}") : r.missing(), kind,
                               r.complete() && mean(r.values) > double(row.workers) ? " (super-linear)" : "");
      };
      add(find_base(row, row.minibatch), "weak");
      add(find_base(row, row.minibatch * row.workers), "strong");
      if (!parts.empty()) speedup = parts;
    }

    std::map<std::string, int> outcomes;
    for (const RunResult* run : row.runs) ++outcomes[run->outcome];
    std::string summary;
    for (const auto& [outcome, count] : outcomes)
      summary += fmt::format("{}{} {}", summary.empty() ? "" : ", ", count, outcome);
    cells.push_back({row.strategy + row.label, std::to_string(row.workers), accuracy_text(row), reached,
                     collect(row, throughput).text("{:.0f}"), speedup,
                     collect(row, [](const RunResult& r) { return r.mean_staleness(); }).text("{:.2f}"),
                     collect(row, [](const RunResult& r) { return r.megabytes_per_worker(); }).text("{:.1f}"),
                     summary});
  }
  std::string notes =
      "mean ± 95 % confidence interval over seeds (Student's t); weak: same minibatch per worker, strong: "
      "same "
      "global minibatch\n";
  if (!std::all_of(runs.begin(), runs.end(), [](const RunResult& run) { return run.ok(); }))
    notes +=
        "k of n: so many of n seeds have the number, or ended ok; no mean is made of these alone (in "
        "brackets "
        "what all reached)\n";
  if (std::any_of(runs.begin(), runs.end(), [](const RunResult& run) { return run.simulated(); }))
    notes += "simulated: seconds are virtual, those of a modelled cluster\n";
  if (const auto skipped = std::count_if(runs.begin(), runs.end(), [](const RunResult& r) {
        return text(r.config, "gradient") == "skipped";
      }))
    notes += fmt::format("gradient=skipped ({} of {} runs): timing alone, nothing was learned\n", skipped,
                         runs.size());
  return aligned(cells) + notes;
}

std::string show(const RunResult& run) {
  std::string out = fmt::format("{}\n{}: {} ({})\n", run.file.string(), run.name, run.outcome, run.detail);
  if (run.simulated())
    out += fmt::format("simulated: seconds are virtual, those of the cluster {}\n",
                       text(run.config, "cluster.name"));
  if (!run.history.empty()) out += "earlier attempts:\n" + run.history;
  const auto section = [&](const char* title, const std::map<std::string, Value>& values) {
    if (values.empty()) return;
    out += fmt::format("\n{}\n", title);
    for (const auto& [key, value] : values)
      if (key != "text" && key != "plan") out += fmt::format("  {:<32} {}\n", key, plain(value));
  };
  section("configuration", run.config);
  section("expressions", run.expressions);
  section("effective", run.effective);
  section("result", run.result);
  section("provenance", run.provenance);
  if (const std::string plan = text(run.provenance, "plan"); !plan.empty()) {
    out += "\nplan\n";
    for (std::size_t at = 0; at < plan.size();) {
      const std::size_t end = plan.find('\n', at);
      out += "  " + plan.substr(at, end - at) + "\n";
      at = end + 1;
    }
  }
  if (!run.snapshots.empty()) {
    std::vector<std::vector<std::string>> cells{
        {"samples", "seconds", "version", "test loss", "test accuracy %"}};
    for (const SnapshotRow& s : run.snapshots)
      cells.push_back({std::to_string(s.used), fmt::format("{:.3f}", s.seconds),
                       s.version_min == s.version_max ? std::to_string(s.version_min)
                                                      : fmt::format("{}-{}", s.version_min, s.version_max),
                       fmt::format("{:.4f}", s.test_loss), fmt::format("{:.2f}", 100 * s.accuracy())});
    out += "\nsnapshots\n" + aligned(cells);
    if (const auto share = run.snapshot_share())
      out += fmt::format("copied in {:.3f} % of the clock, scored in {:.2f} s after it\n", 100 * *share,
                         std::get<double>(run.result.at("scoring_s")));
  }
  if (!run.ranks.empty()) {
    std::vector<std::vector<std::string>> cells{{"rank", "role", "steps", "samples", "total s", "compute s",
                                                 "communication s", "wait s", "snapshot s", "MB sent",
                                                 "MB received", "messages", "synchronisations"}};
    for (const RankRow& r : run.ranks)
      cells.push_back({std::to_string(r.rank), r.server ? "server" : "worker", std::to_string(r.steps),
                       std::to_string(r.samples), fmt::format("{:.3f}", r.total_s),
                       fmt::format("{:.3f}", r.compute_s), fmt::format("{:.3f}", r.communication_s),
                       fmt::format("{:.3f}", r.wait_s), fmt::format("{:.3f}", r.snapshot_s),
                       fmt::format("{:.2f}", double(r.bytes_sent) / 1e6),
                       fmt::format("{:.2f}", double(r.bytes_received) / 1e6), std::to_string(r.messages),
                       std::to_string(r.synchronisations)});
    out += "\nranks\n" + aligned(cells);
  }
  if (const auto staleness = run.mean_staleness()) {
    out += fmt::format("\nstaleness: mean {:.3f}\n", *staleness);
    for (const StalenessRow& s : run.staleness)
      out += fmt::format("  shard {}  tau {:>3}  {}\n", s.shard, s.tau, s.count);
  }
  return out;
}

}  // namespace dsgd
