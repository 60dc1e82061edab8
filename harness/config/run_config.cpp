// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "config/cluster.h"
#include "config/experiment.h"
#include "device.h"
#include "fetch.h"
#include "network.h"

namespace dsgd {
namespace {

template <class Table>
std::vector<std::string> names_of(const Table& table, std::vector<std::string> first = {}) {
  for (const auto& entry : table) first.push_back(entry.name);
  return first;
}

// The helpers of Parameter, with the help last.
RunKey text(const char* name, const char* fallback, const char* help, std::vector<std::string> choices = {}) {
  return {Parameter::choice(name, fallback, std::move(choices), help)};
}
RunKey integer(const char* name, std::int64_t fallback, double min, double max, const char* help) {
  return {Parameter::integer(name, fallback, help, min, max)};
}
RunKey number(const char* name, double fallback, double min, double max, const char* help) {
  return {Parameter::number(name, fallback, help, min, max)};
}
RunKey flag(const char* name, bool fallback, const char* help) {
  return {Parameter::flag(name, fallback, help)};
}
RunKey added(RunKey key) {
  key.added = true;
  return key;
}
RunKey policy(RunKey key) {
  key.policy = true;
  return key;
}

}  // namespace

const std::vector<RunKey>& run_keys() {
  constexpr double any = std::numeric_limits<double>::infinity();
  static const std::vector<RunKey> own{
      text("dataset", "fashion-mnist", "images to learn (dsgd list datasets)", names_of(all_datasets())),
      added(text(
          "dataset_sha256", "",
          "of the set's content, found where it lies: files with other content than published are another "
          "set; "
          "empty: the published one, or one that is made")),
      text("model", "lenet", "network that learns them (dsgd list models)", names_of(all_models())),
      text("normalise", "auto",
           "what a model reads of a pixel; none: 0 to 1, channel: mean 0 and standard deviation 1 over each "
           "channel of the training set; auto: the set's own, channel for CIFAR-10",
           {"auto", "none", "channel"}),
      text("augment", "none",
           "what happens to training images, anew in every epoch; crop_flip: random shifts by up to 4 pixels "
           "each way with black beyond the edge, half of them mirrored",
           {"none", "crop_flip"}),
      text("device", "auto", "who computes gradients (dsgd list devices); auto: the fastest usable here",
           names_of(all_devices(), {"auto"})),
      text("precision", "fp32",
           "what is multiplied; bf16: bfloat16 numbers, on processors that have them by dense layers alone, "
           "on GPUs by convolutions, too, whose activations are bfloat16 then; tf32: a GPU's TF32; weights, "
           "gradients and sums stay float32",
           {"fp32", "tf32", "bf16"}),
      text(
          "gradient", "computed",
          "skipped: none is computed and nothing learned; a simulated run then finds its seconds alone, with "
          "vectors and messages that have a size and no content",
          {"computed", "skipped"}),
      text("engine", "mpi",
           "what carries messages; mpi: real processes and real time, simulated: one process that models a "
           "cluster in virtual time",
           {"mpi", "simulated"}),
      integer("workers", 1, 1, 4096, "processes that compute gradients"),
      integer("servers", 1, 1, 1024,
              "processes that share the model's vector, for strategies that need them"),
      integer("minibatch", 32, 1, 65536, "samples per step and worker"),
      number("sample_fraction", 0, 0, 1,
             "in place of minibatches: every step draws each sample of the training set with this "
             "probability (Spark MLlib's miniBatchFraction); 0: minibatches"),
      text("shares", "equal",
           "of the workers in the global minibatch; proportional: to the speed of gradients, measured before "
           "the clock starts",
           {"equal", "proportional"}),
      integer("samples", 60000, 1, 1e12, "budget: training samples that all workers together use"),
      integer("seed", 1, 0, any, "decides first weights and order of samples; repeat runs with several"),
      integer(
          "statistics_samples", 2048, 1, 1e8,
          "training samples, drawn by the seed, over which batch norm's mean and variance are found anew for "
          "every snapshot before it is scored; at most all of them, in minibatches of the run's size"),
      integer(
          "snapshots", 10, 0, 1000,
          "copies of the model, spread evenly over the budget, whose test accuracy is found after the run; "
          "one of the start and one of the end come on top"),
      text("data_order", "auto",
           "who reads which samples; global: the workers' minibatches are parts of one, shard: each has its "
           "own share of the set, queue: whoever is idle takes the next; auto: the strategy's own",
           {"auto", "global", "shard", "queue"}),
      text("optimizer.rule", "sgd", "what is made of a gradient, at workers or at servers",
           optimizer_rules()),
      number("optimizer.learning_rate", 0.1, 0, 1e6, "step along the mean gradient of a minibatch"),
      number("optimizer.momentum", 0.9, 0, 1,
             "share of the last step kept (momentum, nesterov, lars); of the mean gradient (adam, adamw)"),
      number("optimizer.l2", 0, 0, 1e6,
             "weight decay: this times the weights is added to the gradient, with adamw beside it"),
      number("optimizer.initial_accumulator", 0.1, 0, 1e6, "first sum of squares (adagrad)"),
      number("optimizer.epsilon", 1e-8, 0, 1,
             "added to the root of the sum or mean of squares (adagrad, adam, adamw)"),
      number("optimizer.beta2", 0.999, 0, 0.999999, "share of the mean square kept (adam, adamw)"),
      number("optimizer.trust", 0.001, 0, 1e6,
             "step of a layer as a share of its weights' norm, before the rate (lars)"),
      number("optimizer.clip", 0, 0, 1e6,
             "longer gradients, means over a minibatch or over all, are cut to this norm; 0: none"),
      text("optimizer.schedule", "constant",
           "learning rate over the run; step: times schedule_factor after every schedule_samples, warmup: "
           "grows from schedule_factor to 1 times over schedule_samples",
           {"constant", "step", "warmup"}),
      integer("optimizer.schedule_samples", 0, 0, 1e12, "samples of all workers (step, warmup)"),
      number("optimizer.schedule_factor", 0.1, 0, 1, "see optimizer.schedule"),
      text("synthetic.shape", "1x28x28", "channels x height x width of the data set synthetic"),
      integer("synthetic.classes", 10, 2, 256, "classes, each with one prototype image"),
      integer("synthetic.train", 10000, 1, 1e8, "training samples"),
      integer("synthetic.test", 2000, 1, 1e8, "test samples"),
      number("synthetic.noise", 0.5, 0, 1, "0: samples equal their prototype, 1: noise of full range"),
      integer("synthetic.seed", 1, 0, any, "decides the images"),
      integer("faults.leave_step", 0, 0, 1e12,
              "steps after which a worker leaves: strategies with servers and adpsgd go on without it, the "
              "others end with an error; 0: nobody leaves"),
      integer("faults.leave_worker", -1, -1, 4095, "which one, from 0 up; -1: the last"),
      number("faults.drop", 0, 0, 0.99,
             "share of the pushes that never arrive, drawn by the seed; for strategies that tolerate it"),
      policy(text("title", "", "heading of tables and plots")),
      policy(number("target", 0, 0, 1, "test accuracy that runs are timed to; 0: none")),
      policy(number("time_limit", 600, 1, 1e8, "seconds after which a run is ended")),
      policy(number("stall_limit", 8, 1, 1e8, "seconds without progress after which a run is ended")),
      policy(number("setup_limit", 120, 1, 1e8, "seconds for start and loading")),
      policy(integer("snapshot_memory_mib", 1024, 0, 1e6, "MiB of snapshots in memory; more go to disk")),
      policy(flag("trace", false, "records when ranks compute, transfer and wait (dsgd trace)")),
  };
  static const std::vector<RunKey> keys = [] {
    std::vector<RunKey> all = own;
    for (const Parameter& key : cluster_keys())
      all.push_back({key, key.name == "cluster.title" || key.name == "cluster.platform"});
    return all;
  }();
  return keys;
}

const Parameter& base_key() {
  static const Parameter key{
      "base", "",
      "the experiment that this one starts from: a name, or a path from this file's folder; a key said here "
      "takes the place of the base's at the same level (at the top it leaves the base's tables "
      "[strategy.NAME] alone), cluster.name that of all that the base says there of its cluster; "
      "strategy.NAME = false "
      "leaves that strategy out"};
  return key;
}

const Parameter& together_key() {
  static const Parameter key{"together", "",
                             "arrays that go in step, in place of every combination: together = "
                             "[\"workers\", \"minibatch\"], several "
                             "such lists in a list; at the top, or in a strategy's table for its runs"};
  return key;
}

bool RunConfig::skips_gradients() const { return settings.text("gradient") == "skipped"; }
bool RunConfig::simulated() const { return settings.text("engine") == "simulated"; }
int RunConfig::workers() const { return int(settings.integer("workers")); }
int RunConfig::servers() const { return strategy->served() ? int(settings.integer("servers")) : 0; }
int RunConfig::minibatch() const { return int(settings.integer("minibatch")); }
std::int64_t RunConfig::samples() const { return settings.integer("samples"); }
std::uint64_t RunConfig::seed() const { return std::uint64_t(settings.integer("seed")); }
DataOrder RunConfig::data_order() const {
  return dsgd::data_order(settings.text("data_order")).value_or(strategy->data_order);  // auto
}

OptimizerSettings RunConfig::optimizer() const {
  const std::string& schedule = settings.text("optimizer.schedule");
  return {.rule = optimizer_rule(settings.text("optimizer.rule")),
          .learning_rate = settings.number("optimizer.learning_rate"),
          .momentum = settings.number("optimizer.momentum"),
          .l2 = settings.number("optimizer.l2"),
          .initial_accumulator = settings.number("optimizer.initial_accumulator"),
          .epsilon = settings.number("optimizer.epsilon"),
          .beta2 = settings.number("optimizer.beta2"),
          .trust = settings.number("optimizer.trust"),
          .clip = settings.number("optimizer.clip"),
          .schedule = {.kind = schedule == "step"     ? Schedule::Kind::step
                               : schedule == "warmup" ? Schedule::Kind::warmup
                                                      : Schedule::Kind::constant,
                       .samples = settings.integer("optimizer.schedule_samples"),
                       .factor = settings.number("optimizer.schedule_factor")}};
}

SyntheticSpec RunConfig::synthetic() const {
  return {.shape = parse_shape(settings.text("synthetic.shape")),
          .classes = int(settings.integer("synthetic.classes")),
          .train = std::size_t(settings.integer("synthetic.train")),
          .test = std::size_t(settings.integer("synthetic.test")),
          .noise = settings.number("synthetic.noise"),
          .seed = std::uint64_t(settings.integer("synthetic.seed"))};
}

bool RunConfig::normalised() const {
  const std::string& how = settings.text("normalise");
  return how == "auto" ? known_dataset(settings.text("dataset")).normalise : how == "channel";
}

const DeviceEntry& RunConfig::device() const {
  if (const DeviceEntry* named = find_device(settings.text("device"))) return *named;
  const auto usable = [](const DeviceEntry& d) { return d.unavailable().empty(); };
  // The table goes from the specification, which is always there, to the fastest.
  return *std::find_if(all_devices().rbegin(), all_devices().rend(), usable);
}
Precision RunConfig::precision() const { return dsgd::precision(settings.text("precision")); }

int RunConfig::leaver() const {
  const auto worker = int(settings.integer("faults.leave_worker"));
  return settings.integer("faults.leave_step") == 0 ? -1 : worker < 0 ? workers() - 1 : worker;
}

bool RunConfig::slowed() const {
  const auto exceeds = [&](const char* key, double least) {
    const auto found = settings.values().find(key);
    return found != settings.values().end() && std::get<double>(found->second) > least;
  };
  return exceeds("cluster.jitter", 0) || exceeds("cluster.straggler.slowdown", 1);
}

Augmentation RunConfig::augmentation() const {
  return {.crop_flip = settings.text("augment") == "crop_flip", .seed = seed()};
}

namespace {

bool matters(const Parameter& p, const RunConfig& run) {
  if (p.added && run.strategy_settings.values().at(p.name) == p.fallback) return false;
  return !p.between_gpus || (run.device().name == "cudnn" && run.workers() > 1 && !run.simulated());
}

// Whether the key can have any influence on the run's result.
bool matters(const RunKey& key, const RunConfig& run) {
  const auto is = [&](const char* other, std::initializer_list<const char*> values) {
    return std::find(values.begin(), values.end(), run.settings.text(other)) != values.end();
  };
  if (key.policy) return false;
  if (key.added && run.settings.values().at(key.name) == key.fallback) return false;
  if (key.name == "normalise")
    return run.normalised() || known_dataset(run.settings.text("dataset")).normalise;
  if (key.name == "statistics_samples") return find_model(run.settings.text("model"))->batch_norm;
  if (key.name == "sample_fraction") return run.settings.number("sample_fraction") > 0;
  if (key.name == "shares") return !is("shares", {"equal"});
  if (key.name == "precision") return !is("precision", {"fp32"});
  if (key.name == "gradient") return run.skips_gradients();
  if (key.name == "augment") return !is("augment", {"none"});
  if (key.name == "cluster.name") return false;  // what it stands for does
  if (key.name.starts_with("cluster.")) return run.simulated() || (slows_ranks(key.name) && run.slowed());
  if (key.name == "faults.leave_worker") return run.settings.integer("faults.leave_step") > 0;
  if (key.name == "faults.leave_step") return run.settings.integer(key.name) > 0;
  if (key.name == "faults.drop") return run.settings.number(key.name) > 0;
  if (key.name == "servers") return run.strategy->served();
  if (key.name == "optimizer.momentum")
    return is("optimizer.rule", {"momentum", "nesterov", "adam", "adamw", "lars"});
  if (key.name == "optimizer.initial_accumulator") return is("optimizer.rule", {"adagrad"});
  if (key.name == "optimizer.epsilon") return is("optimizer.rule", {"adagrad", "adam", "adamw"});
  if (key.name == "optimizer.beta2") return is("optimizer.rule", {"adam", "adamw"});
  if (key.name == "optimizer.trust") return is("optimizer.rule", {"lars"});
  if (key.name == "optimizer.clip") return run.settings.number("optimizer.clip") > 0;
  if (key.name.starts_with("optimizer.schedule_")) return is("optimizer.schedule", {"step", "warmup"});
  if (key.name.starts_with("synthetic.")) return is("dataset", {"synthetic"});
  return true;
}

std::string line(const std::string& key, const Value& value) {
  return fmt::format("{} = {}\n", key, to_string(value));
}

}  // namespace

void RunConfig::normalise() {
  for (const RunKey& key : run_keys())
    if (key.name.starts_with("cluster.")) {
      if (!simulated() && !matters(key, *this)) settings.drop(key.name);
    } else if (!key.policy && !matters(key, *this)) {
      settings.set(key.name, key.fallback);
    }
  for (const Parameter& p : strategy->parameters)
    if (!matters(p, *this)) strategy_settings.set(p.name, p.fallback);
  if (settings.integer("faults.leave_worker") == workers() - 1)
    settings.set("faults.leave_worker", std::int64_t(-1));
  settings.set("normalise", normalised() ? "channel" : "none");
  settings.set("data_order", to_string(data_order()));
  settings.set("synthetic.shape", to_string(synthetic().shape));
  settings.set("device", device().name);
}

std::string RunConfig::canonical() const {
  std::set<std::string> lines;
  for (const RunKey& key : run_keys())
    if (matters(key, *this)) lines.insert(line(key.name, settings.values().at(key.name)));
  if (simulated()) {  // complete without the file that it was read from
    lines.insert(line("cluster.name", std::string()));
    for (const auto& [key, value] : settings.values())
      if (find_host_key(key)) lines.insert(line(key, value));
  }
  const std::string prefix = "strategy." + strategy->name;
  for (const Parameter& p : strategy->parameters)
    if (matters(p, *this)) lines.insert(line(prefix + "." + p.name, strategy_settings.values().at(p.name)));
  if (strategy_settings.values().empty()) lines.insert(prefix + " = {}\n");
  return fmt::to_string(fmt::join(lines, ""));
}

std::string RunConfig::text() const {
  std::string out = canonical();
  for (const RunKey& key : run_keys())
    if (const auto value = settings.values().find(key.name); key.policy && value != settings.values().end())
      out += line(key.name, value->second);
  return out;
}

// Of the device's first name: what it is called today changes no id.
std::string RunConfig::id() const {
  std::string text = canonical();
  const DeviceEntry& d = device();
  const std::string now = line("device", d.name);
  if (!d.former_name.empty())
    if (const auto at = text.find("\n" + now); at != std::string::npos)
      text.replace(at + 1, now.size(), line("device", d.former_name));
  return sha256_text(text).substr(0, 12);
}

std::string RunConfig::name() const {
  return fmt::format("{}-{}w-seed{}-{}", strategy->name, workers(), seed(), id());
}

}  // namespace dsgd
