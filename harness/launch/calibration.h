// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "config/experiment.h"
#include "launch/calibrate.h"
#include "network.h"
#include "results/schema.h"

namespace dsgd {

constexpr double slowest = 0.03;  // share of the measurements that other programs may have disturbed

// Measurements of one thing.
struct Measured {
  explicit Measured(std::vector<double> all);  // throws std::runtime_error: there is none
  std::string spread() const;                  // "± 1.2 %", half the distance of the quartiles
  double median = 0, low = 0, high = 0;        // quartiles
  double mean = 0;                             // without the slowest
  double sigma = 0;                            // of the logarithm, without the slowest
};

// A folder for the runs, gone with the object.
class RunsFolder {
 public:
  RunsFolder();  // throws std::runtime_error
  ~RunsFolder();
  RunsFolder(const RunsFolder&) = delete;
  std::filesystem::path path;
};

// What `dsgd calibrate` measures: gradients and whole steps of short runs, and what passes between two ranks.
class Calibration {
 public:
  explicit Calibration(const CalibrateOptions& options);

  // Starts one MPI job for each number of ranks. Throws std::runtime_error where one fails or `interrupted`
  // is set.
  void measure(const volatile std::sig_atomic_t& interrupted);

  std::string text() const;  // the cluster's file

 private:
  struct Kind {  // of runs
    std::string device, model;
    int minibatch = 0;
    std::string strategy, settings;
    int workers = 0, servers = 1;
    auto operator<=>(const Kind&) const = default;
  };
  static inline const std::string round_trips = "staleness_aware";
  Kind gradients(const std::string& device, const std::string& model, int minibatch, int ranks) const {
    return {device, model, minibatch, "averaging", "tau = 1000000", ranks};
  }
  Kind steps(const std::string& device, const std::string& strategy, int workers, int servers = 1) const {
    return {device, o_.models.front(), middle_, strategy, "", workers, servers};
  }

  void plan(std::int64_t pass);
  void add(const Kind& kind, std::int64_t pass);

  // The runs of one MPI job, one after the other.
  void job(int ranks, const std::vector<std::pair<Kind, RunConfig>>& planned, std::size_t& done,
           std::size_t runs, const volatile std::sig_atomic_t& interrupted);

  template <typename Of>  // a number of a step and the one before it, of the same rank
  Measured of_steps(const Kind& kind, Of of) const {
    std::vector<double> all;
    for (const auto& run : rows_.at(kind)) {
      std::map<int, const StepRow*> before;
      for (const StepRow& row : run) {
        if (before[row.rank]) all.push_back(of(row, *before[row.rank]));
        before[row.rank] = &row;
      }
    }
    return Measured(all);
  }
  Measured seconds(const Kind& kind) const {
    return of_steps(kind, [](const StepRow& row, const StepRow&) { return double(row.compute_s); });
  }
  // Seconds per parameter of a step, gradient and communicator apart.
  Measured work(const Kind& kind) const {
    return of_steps(kind, [n = double(parameters(network()))](const StepRow& row, const StepRow& before) {
      return std::max(0.0, row.seconds - before.seconds - row.compute_s - row.communication_s) / n;
    });
  }
  Measured trip(const Kind& kind) const {
    return of_steps(kind, [](const StepRow& row, const StepRow&) { return double(row.communication_s); });
  }
  Network network() const {
    const ModelEntry& model = *find_model(o_.models.front());
    return model.make(model.images, 10);
  }
  Measured probe(const std::string& what, std::size_t n) const { return Measured(probes_.at(what).at(n)); }
  // Over all sizes that matter, of a number that should be the same for all of them.
  Measured over_sizes(const std::function<double(double n)>& of) const {
    std::vector<double> all;
    for (const auto& [n, took] : probes_.at("sum"))
      if (const double x = of(double(n)); n >= 4096 && x > 0) all.push_back(x);
    return Measured(all);
  }

  CalibrateOptions o_;
  const int cores_, middle_;
  RunsFolder folder_;
  std::map<int, std::vector<std::pair<Kind, RunConfig>>> jobs_;  // by ranks
  std::map<Kind, std::vector<std::vector<StepRow>>> rows_;       // of every pass
  std::map<std::string, std::map<std::size_t, std::vector<double>>> probes_;
};

}  // namespace dsgd
