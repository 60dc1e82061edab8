// SPDX-License-Identifier: Apache-2.0
#include "results/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "results/labels.h"
#include "results/statistics.h"
#include "results/text.h"
#include "strategy.h"

namespace dsgd {
namespace {

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

}  // namespace

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

}  // namespace dsgd
