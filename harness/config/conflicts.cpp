// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "config/cluster.h"
#include "config/experiment.h"
#include "device.h"
#include "network.h"
#include "results/record.h"

// What may not be said together: the rules between the keys of a run.

namespace dsgd {
namespace {

using Names = std::vector<std::string>;

// How many parameters a model has for these images, or why it cannot take them.
struct Fit {
  std::size_t parameters = 0;
  std::string problem;
};
const Fit& fit(const ModelEntry& model, const Shape& shape, int classes) {
  static std::map<std::string, Fit> known;  // an experiment may have thousands of runs
  const auto [at, fresh] = known.try_emplace(fmt::format("{} {} {}", model.name, to_string(shape), classes));
  if (fresh) try {
      at->second.parameters = parameters(model.make(shape, classes));
    } catch (const std::invalid_argument& e) {
      at->second.problem = e.what();
    }
  return at->second;
}

// Strategies without servers share out what is left of a budget, and make a step of it.
Least least_budget(const RunConfig& run) {
  const Context context = context_of(run, 0);
  if (run.strategy->least) return run.strategy->least(run.strategy_settings, context);
  if (run.strategy->kind != StrategyEntry::Kind::lock_step) return least_for_all(context);
  if (run.settings.number("sample_fraction") > 0) return {};
  return {std::int64_t(run.workers()) * run.minibatch(),
          fmt::format("a step of {} workers takes {} minibatches of {}", run.workers(), run.workers(),
                      run.minibatch())};
}

}  // namespace

// No step is larger than an epoch. Of a queue every worker takes minibatches for itself.
std::optional<Conflict> training_conflict(const RunConfig& run, std::size_t train) {
  if (const double fraction = run.settings.number("sample_fraction"); fraction > 0) {
    if (fraction * double(train) >= 1) return std::nullopt;
    return Conflict{
        {"sample_fraction"},
        fmt::format("{:g} of {} training samples is less than one in a step (allowed: 0, or numbers "
                    "from {:g} up)",
                    fraction, train, 1 / double(train))};
  }
  const auto sharing = std::size_t(run.data_order() == DataOrder::queue ? 1 : run.workers());
  const std::size_t step = sharing * std::size_t(run.minibatch());
  if (step <= train || train < sharing) return std::nullopt;
  const std::size_t most = train / std::size_t(run.minibatch());
  return Conflict{
      {"minibatch", "workers", "synthetic.train", "dataset"},
      fmt::format("{} worker{} would take {} samples in a step, more than the {} of the training set "
                  "(allowed: minibatch up to {}{})",
                  sharing, sharing == 1 ? "" : "s", step, train, train / sharing,
                  sharing > 1 && most > 0 ? fmt::format(", or workers up to {}", most) : "")};
}

std::vector<Conflict> conflicts(const RunConfig& run) {
  std::vector<Conflict> found;
  const auto conflict = [&](const Names& keys, const std::string& what) { found.push_back({keys, what}); };
  if (run.simulated()) found = Cluster(run).conflicts();

  if (run.skips_gradients()) {
    if (!run.simulated())
      conflict({"gradient", "engine"}, "\"skipped\" needs engine = \"simulated\" (allowed: computed)");
    if (run.strategy->elements || run.strategy->cost_is_bound)
      conflict({"gradient"},
               fmt::format("\"skipped\" leaves {} nothing to work on: what it sends depends on the "
                           "gradients' elements (allowed: computed)",
                           run.strategy->name));
    if (run.settings.number("target") > 0)
      conflict({"target", "gradient"}, "runs with gradient = \"skipped\" have no accuracy (allowed: 0)");
  }

  if (run.samples() < run.minibatch())
    conflict(
        {"samples", "minibatch"},
        fmt::format("a budget of {} samples is less than one minibatch of {} (allowed: samples from {} up)",
                    run.samples(), run.minibatch(), run.minibatch()));
  else if (const Least least = least_budget(run); run.samples() < least.samples)
    conflict({"samples", "workers", "minibatch"},
             fmt::format("a budget of {} samples is too small: {} (allowed: samples from {} up)",
                         run.samples(), least.why, least.samples));

  const bool served = run.strategy->served();
  if ((served || run.strategy->pairs()) && run.data_order() == DataOrder::global)
    conflict({"data_order"},
             fmt::format("\"global\" needs workers in lock-step, which {} has not (allowed: auto, shard{})",
                         run.strategy->name, served ? ", queue" : ""));
  if (!served && run.data_order() == DataOrder::queue)
    conflict({"data_order"},
             fmt::format("\"queue\" needs a parameter server, which {} has not (allowed: auto, {}shard)",
                         run.strategy->name, run.strategy->pairs() ? "" : "global, "));

  if ((served || run.strategy->pairs()) && run.settings.number("sample_fraction") > 0)
    conflict({"sample_fraction"},
             fmt::format("needs workers in lock-step, which {} has not (allowed: 0)", run.strategy->name));
  if (run.settings.text("shares") == "proportional" &&
      (run.data_order() != DataOrder::global || run.strategy->data_order != DataOrder::global))
    conflict(
        {"shares", "data_order"},
        fmt::format("\"proportional\" needs data_order \"global\" and a strategy that weighs workers by "
                    "their samples, which {} {} (allowed: equal)",
                    run.strategy->name, run.strategy->data_order == DataOrder::global ? "does" : "does not"));

  if (run.leaver() >= 0 && run.workers() == 1)
    conflict({"faults.leave_step", "workers"},
             "nobody would be left to go on (allowed: 0, or workers from 2 up)");
  if (run.leaver() >= run.workers())
    conflict({"faults.leave_worker", "workers"},
             fmt::format("there is no worker {} (allowed: up to {})", run.leaver(), run.workers() - 1));
  if (run.settings.number("cluster.straggler.slowdown") > 1 &&
      run.settings.integer("cluster.straggler.workers") > run.workers())
    conflict({"cluster.straggler.workers", "workers"},
             fmt::format("there {} only {} worker{} (allowed: up to {})", run.workers() == 1 ? "is" : "are",
                         run.workers(), run.workers() == 1 ? "" : "s", run.workers()));
  if (run.settings.number("faults.drop") > 0 && !run.strategy->tolerates_loss) {
    Names tolerant;
    for (const StrategyEntry* strategy : all_strategies())
      if (strategy->tolerates_loss) tolerant.push_back(strategy->name);
    conflict({"faults.drop"}, fmt::format("{} does not tolerate a push that never arrives (allowed: 0, or "
                                          "strategies {})",
                                          run.strategy->name, fmt::join(tolerant, ", ")));
  }

  if (run.strategy->in_batches && run.data_order() != DataOrder::queue)
    conflict({"data_order"},
             fmt::format("{} hands out portions of a batch (allowed: auto, queue)", run.strategy->name));

  const std::string& schedule = run.settings.text("optimizer.schedule");
  if (schedule != "constant" && run.settings.integer("optimizer.schedule_samples") == 0)
    conflict({"optimizer.schedule", "optimizer.schedule_samples"},
             fmt::format("\"{}\" needs a length (allowed: optimizer.schedule_samples from 1 up)", schedule));

  const OptimizerSettings optimizer = run.optimizer();
  if (const std::string key = needs_whole_vector(*run.strategy, optimizer); !key.empty() && run.servers() > 1)
    conflict({"servers", key}, fmt::format("{} needs norms over what {} servers hold in parts (allowed: 1)",
                                           key == "optimizer.rule" ? "lars" : key, run.servers()));
  if (state_vectors(optimizer.rule) == 2 && optimizer.momentum == 1)
    conflict(
        {"optimizer.momentum", "optimizer.rule"},
        fmt::format("{} never moves with 1 (allowed: numbers below 1)", run.settings.text("optimizer.rule")));

  const DatasetEntry& dataset = *find_dataset(run.settings.text("dataset"));
  const SyntheticSpec made = run.synthetic();
  const bool synthetic = dataset.name == "synthetic";
  if (synthetic && made.train < std::size_t(run.workers()))
    conflict(
        {"synthetic.train", "workers", "dataset"},
        fmt::format("{} training samples are too few for {} workers (allowed: synthetic.train from {} up)",
                    made.train, run.workers(), run.workers()));

  if (const auto misfit = training_conflict(run, synthetic ? made.train : dataset.train))
    found.push_back(*misfit);

  const DeviceEntry& device = run.device();
  if (const std::string reason = device.unavailable(run.precision());
      !reason.empty() && device.unavailable().empty()) {
    Names possible;
    for (const char* name : {"fp32", "tf32", "bf16"})
      if (device.unavailable(precision(name)).empty()) possible.push_back(name);
    conflict({"precision", "device"}, fmt::format("not with device {}: {} (allowed: {})", device.name, reason,
                                                  fmt::join(possible, ", ")));
  }

  const Shape shape = synthetic ? made.shape : dataset.shape;
  const int classes = synthetic ? made.classes : dataset.classes;
  if (run.augmentation().crop_flip && std::min(shape.height, shape.width) <= crop_margin)
    conflict({"augment", "synthetic.shape", "dataset"},
             fmt::format("\"crop_flip\" shifts by up to {} pixels and could leave nothing of images of {} "
                         "(allowed: none)",
                         crop_margin, to_string(shape)));
  const Fit& model = fit(*find_model(run.settings.text("model")), shape, classes);
  if (!model.problem.empty()) {
    Names fitting;
    for (const ModelEntry& other : all_models())
      if (fit(other, shape, classes).problem.empty()) fitting.push_back(other.name);
    conflict({"model", "synthetic.shape", "dataset"},
             fmt::format("{} (allowed: {})", model.problem, fmt::join(fitting, ", ")));
    return found;
  }
  try {
    effective_parameters(run, model.parameters);  // where a strategy can object to its parameters
  } catch (const std::invalid_argument& e) {
    conflict({}, e.what());
  }
  return found;
}

}  // namespace dsgd
