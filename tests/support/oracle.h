// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "strategy.h"
#include "twins.h"

// Traces that others' programs and formulas left: tests/oracles/README.md.
namespace dsgd::test {

// Vectors are float32 here and double in a trace: a step adds some roundings of 6e-8 of the largest element,
// and a trace has some twenty steps.
constexpr double oracle_tolerance = 1e-5;

struct Oracle {
  std::string name;
  std::map<std::string, std::string> settings;
  std::map<std::string, Doubles> vectors;  // by their names and indices, "grad 3 1"
  std::map<std::string, std::vector<std::vector<std::int64_t>>> events;  // integers behind a word, in order

  double number(const std::string& key) const { return std::stod(settings.at(key)); }
  bool flag(const std::string& key) const { return number(key) != 0; }
  int workers() const { return int(number("workers")); }
  static std::string key(std::string vector) { return vector; }
  template <typename... Rest>
  static std::string key(std::string vector, std::int64_t i, Rest... rest) {
    return key(std::move(vector) + " " + std::to_string(i), rest...);
  }
  template <typename... Index>
  bool has(const std::string& vector, Index... index) const {
    return vectors.count(key(vector, index...)) > 0;
  }
  template <typename... Index>
  const Doubles& operator()(const std::string& vector, Index... index) const {
    const auto at = vectors.find(key(vector, index...));
    if (at == vectors.end()) throw std::runtime_error(name + ": no vector " + key(vector, index...));
    return at->second;
  }
  std::string label() const {
    std::string all = name;
    for (const auto& [key, value] : settings) all += " " + key + "=" + value;
    return all;
  }
};

// All cases of tests/oracles/NAME.txt; what stands before the first belongs to each.
inline std::vector<Oracle> oracles(const std::string& file) {
  std::ifstream in(DSGD_SOURCE_DIR "/tests/oracles/" + file + ".txt");
  std::vector<Oracle> cases;
  Oracle common;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word;
    if (line.rfind("case ", 0) == 0) {
      Oracle& made = cases.emplace_back(common);
      words >> word >> made.name;
      while (words >> word) {
        const auto equals = word.find('=');
        made.settings[word.substr(0, equals)] = equals == word.npos ? "1" : word.substr(equals + 1);
      }
    } else if (const auto bar = line.find(" |"); bar != line.npos && line[0] != '#') {
      std::istringstream numbers(line.substr(bar + 2));
      Doubles& v = (cases.empty() ? common : cases.back()).vectors[line.substr(0, bar)];
      for (double x; numbers >> x;) v.push_back(x);
    } else if (line[0] != '#' && !cases.empty()) {
      words >> word;
      auto& event = cases.back().events[word].emplace_back();
      for (std::int64_t i; words >> i;) event.push_back(i);
    }
  }
  if (cases.empty()) throw std::runtime_error("tests/oracles/" + file + ".txt: no case in it");
  return cases;
}

// Largest distance, in units of the largest element of the trace's.
inline double relative(const Doubles& trace, const float* ours, std::size_t size) {
  double most = 0;
  for (const double x : trace) most = std::max(most, std::abs(x));
  return trace.size() == size ? difference(trace, ours) / most : INFINITY;
}
inline double relative(const Doubles& trace, ConstVec ours) { return relative(trace, ours.data, ours.size); }

// Writes over a vector that a checkpoint holds: where a trace begins elsewhere than a run.
class Overwrite final : public State {
 public:
  Overwrite(std::string name, Doubles values) : name_(std::move(name)), values_(std::move(values)) {}
  void vector(const std::string& name, Vec v) override {
    for (std::size_t i = 0; name == name_ && i < v.size; ++i) v.data[i] = float(values_.at(i));
  }
  void number(const std::string&, std::int64_t&) override {}
  void number(const std::string&, double&) override {}

 private:
  std::string name_;
  Doubles values_;
};

// A worker whose gradients are a trace's. Every step is one sample for each worker; the budget has no end.
class OracleReplica final : public Replica {
 public:
  using Gradient = std::function<const Doubles&(std::int64_t t)>;
  OracleReplica(const Doubles& init, int workers, Gradient gradient)
      : workers_(workers),
        gradient_(std::move(gradient)),
        w_(host_space(), init.size()),
        g_(host_space(), init.size()) {
    set(init, w_);
    w = w_;
    g = g_;
  }
  static void set(const Doubles& from, Vec to) {
    for (std::size_t i = 0; i < to.size; ++i) to.data[i] = float(from.at(i));
  }
  Batch next() override { return {ids_, workers_}; }
  Loss gradient(ConstVec at, const Batch&, Vec into) override {
    asked_at.assign(at.data, at.data + at.size);
    set(gradient_(t), into);
    return 0;
  }
  void step(Strategy& strategy) {
    strategy.step(*this);
    used += workers_;
    ++t;
  }
  std::vector<float> asked_at;  // where the last gradient is of

 private:
  int workers_;
  Gradient gradient_;
  std::vector<std::uint32_t> ids_{0};
  Vector w_, g_;
};

}  // namespace dsgd::test
