// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

#include "cli/doctor.h"
#include "cli/list.h"
#include "cli/mistakes.h"
#include "config/cluster.h"
#include "config/experiment.h"
#include "config/files.h"
#include "fetch.h"
#include "launch/calibrate.h"
#include "launch/launch.h"
#include "launch/sweep.h"
#include "results/record.h"
#include "results/results.h"
#include "results/table.h"
#include "results/trace.h"
#include "run/probe.h"
#include "run/run.h"

using namespace dsgd;

namespace {

int show_file(const std::string& file, bool plan_only) {
  const RunResult run = read_result(file);
  if (plan_only)
    fmt::print("{}", std::get<std::string>(run.provenance.at("plan")));
  else
    fmt::print("{}", show(run));
  return 0;
}

int print_table(const std::string& folder, double target, bool mixed) {
  const ResultFolder results = read_folder(folder);
  for (const std::string& problem : results.unreadable) fmt::print(stderr, "{}\n", problem);
  if (results.runs.empty())
    throw std::runtime_error(fmt::format("{}: no result files (NAME.h5) in this folder", folder));
  fmt::print("{}", table(results.runs, target < 0 ? std::nullopt : std::optional(target), mixed));
  return results.unreadable.empty() ? 0 : 1;
}

// Exit code 1 when the named set is not complete, or when any file is damaged.
int check_data(const std::string& name, const std::string& data_dir) {
  bool good = true;
  for (const DatasetEntry& entry : all_datasets()) {
    if (!name.empty() && entry.name != name) continue;
    const DatasetCheck check = check_dataset(entry, data_dir);
    fmt::print("{}", to_string(check));
    good = good && !check.damaged() && (name.empty() || check.complete());
  }
  if (!name.empty() && !find_dataset(name)) check_dataset(name, data_dir);  // says what there is
  return good ? 0 : 1;
}

int rank_main(const std::string& plan, const std::string& part, const std::string& data_dir) {
  die_with_parent(SIGKILL);
  std::ifstream in(plan);
  std::stringstream text;
  text << in.rdbuf();
  if (!in)
    throw std::runtime_error(
        fmt::format("{}: cannot be read; ranks on other hosts need the results folder too", plan));
  run_rank(parse_run(text.str()), part, data_dir);
  return 0;
}

// The plots' program takes the place of this one.
int plot(const std::string& folder, const std::vector<std::string>& arguments) {
  const std::string program = shipped_folder("plots") / "all.py";
  if (!std::filesystem::exists(program))
    throw std::runtime_error(
        fmt::format("{}: is not there; plots are Python files that come with the program", program));
  std::vector<std::string> words{"/usr/bin/python3", program, folder};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  throw std::runtime_error(
      fmt::format("{}: {}; plots need it, h5py, matplotlib and SciPy (Debian: apt install python3-h5py "
                  "python3-matplotlib python3-scipy)",
                  argv[0], std::strerror(errno)));
}

// The simulation's program takes the place of this one.
int replay(const std::string& file, bool anyway, const std::string& data_dir) {
  if (const auto lack = no_simulator())
    throw std::runtime_error(
        fmt::format("{}: replay needs the simulator: {}; {}", file, lack->why, lack->remedy));
  setenv("OMP_NUM_THREADS", "1", 0);  // as in every rank
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "dsgd-sim";
  execl(program.c_str(), program.c_str(), "--replay", file.c_str(), anyway ? "1" : "0", data_dir.c_str(),
        nullptr);
  throw std::runtime_error(fmt::format("{}: {}; replay needs it", program, std::strerror(errno)));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "dsgd compares distributed-SGD strategies on the same model, data and clock.\n\n"
      "  dsgd sweep quickstart                              five strategies, 1 and 2 workers, 3 seeds\n"
      "  dsgd sweep quickstart --dry-run                    what it would run, and how long that takes\n"
      "  dsgd sweep mine.toml -o out/mine --set samples=30000 --set strategy.averaging.tau=[1,10,100]\n"
      "  dsgd table out/mine                                the table again\n"
      "  dsgd plot out/mine                                 its figures\n"
      "  dsgd show out/mine/sync-2w-seed1-0123456789ab.h5   everything about one run"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "dsgd " DSGD_VERSION ", " + build_summary());

  SweepOptions options;
  const auto add_run_options = [&](CLI::App* command) {
    command
        ->add_option("experiment", options.experiment,
                     "a TOML file, or the name of a shipped experiment (dsgd list experiments)")
        ->required();
    command->add_option("-o,--out", options.out,
                        "folder for the results (default: out/NAME); finished runs there are not repeated");
    command
        ->add_option("--set", options.overrides,
                     "key=value in TOML syntax, as often as needed; strategy.NAME.key=value for one strategy "
                     "(dsgd list keys)")
        ->take_all()
        ->allow_extra_args(false);
    command->add_option("--data-dir", options.data_dir, "where data sets are looked for first")
        ->check(CLI::ExistingDirectory);
    command->add_option(
        "--launcher", options.launcher,
        "how ranks are started, e.g. \"mpirun --hostfile hosts -n {ranks}\" (default: mpirun on this host)");
    command->add_flag("--dry-run", options.dry_run, "only print the runs and an estimate of their cost");
    command->add_flag("--keep-stale", options.keep_stale,
                      "keep results that another program version or host has made");
    command->add_flag("--redo", options.redo, "make finished runs again");
  };
  CLI::App* run = app.add_subcommand("run", "make one run, and show its result");
  add_run_options(run);
  run->footer("  dsgd run sync --set workers=2 --set seed=1 --set strategy.sync.minibatch=32");
  CLI::App* sweep_command =
      app.add_subcommand("sweep", "make all runs of an experiment, and print the table");
  add_run_options(sweep_command);
  sweep_command->footer(
      "Arrays in the experiment are axes. Ctrl-C stops; the same command goes on where it stopped.\nExit "
      "code 0: every run ended ok, unlearned or diverged; 1: some did not; 2: mistakes in the experiment or "
      "its "
      "options.");

  std::string folder, file, json, topic, word, name, url, plan, part, data_dir;
  double target = -1;
  bool mixed = false, plan_only = false, anyway = false;
  CLI::App* table_command = app.add_subcommand("table", "print the table of a folder of results");
  table_command->add_option("folder", folder)->required();
  table_command->add_option("--target", target, "test accuracy in 0..1 (default: each run's own)")
      ->check([](const std::string& text) {
        double value = -1;
        const bool good = CLI::detail::lexical_cast(text, value) && value >= 0 && value <= 1;
        return good ? "" : "expected a number from 0 to 1, got " + text;
      });
  table_command->add_flag("--allow-mixed", mixed,
                          "show runs of different programs or hosts, each with rows of its own");
  std::vector<std::string> figures;
  std::string figures_folder;
  double plot_target = -1;
  CLI::App* plot_command = app.add_subcommand("plot", "draw the figures of a folder of results");
  plot_command->add_option("folder", folder)->required();
  plot_command->add_option("figure", figures, "e.g. convergence (default: all that the results make)");
  plot_command->add_option("-o,--out", figures_folder, "where figures go (default: FOLDER/plots)");
  plot_command->add_option("--target", plot_target,
                           "test accuracy to reach, in 0..1 (default: each run's own)");
  plot_command->add_flag("--allow-mixed", mixed,
                         "runs of different programs or hosts, each with lines of its own");
  plot_command->footer(
      "  dsgd plot out/quickstart\n  dsgd plot out/quickstart convergence traffic -o paper/figures");
  CLI::App* list_command = app.add_subcommand(
      "list", "what there is: strategies, models, datasets, devices, clusters, experiments, keys");
  list_command->add_option("topic", topic)
      ->required()
      ->check(
          CLI::IsMember({"strategies", "models", "datasets", "devices", "clusters", "experiments", "keys"}));
  list_command->add_option(
      "word", word,
      "of strategies: a part of a name or paper, e.g. sasgd; of keys: a part of one or of its help");
  CLI::App* show_command = app.add_subcommand("show", "show one result file");
  show_command->add_option("file", file)->required();
  show_command->add_flag("--plan", plan_only, "only which implementation each layer got");
  CLI::App* replay_command = app.add_subcommand(
      "replay",
      "make a run once more, every request to its servers in the recorded order, and compare the weights");
  replay_command->add_option("file", file, "a result, of whatever engine")->required();
  replay_command->add_flag("--anyway", anyway, "even where other weights are to be expected");
  replay_command->add_option("--data-dir", data_dir, "where data sets are looked for first")
      ->check(CLI::ExistingDirectory);
  replay_command->footer(
      "Exit code 0: the same weights, to the last bit; 1: others; 2: it cannot be replayed here.");
  CLI::App* trace_command = app.add_subcommand(
      "trace",
      "write when the ranks of a run (trace = true) did what, for chrome://tracing or ui.perfetto.dev");
  trace_command->add_option("file", file, "a result")->required();
  trace_command->add_option("-o,--out", json, "where to write it (default: FILE.json)");
  trace_command->footer(
      "  dsgd run mine.toml -o out/mine --set trace=true\n  dsgd trace out/mine/NAME.h5 -o trace.json");
  CalibrateOptions calibration{.models = {"lenet", "softmax", "mlp", "dnn", "cifar_quick", "resnet20"},
                               .minibatches = {4, 32, 128}};
  for (const StrategyEntry* s : all_strategies()) calibration.strategies.push_back(s->name);
  CLI::App* calibrate_command = app.add_subcommand(
      "calibrate", "measure this machine, and write it as a cluster that simulated runs can have");
  calibrate_command->add_option("-o,--out", calibration.out,
                                "the cluster's file (default: \"local\" among the user's own clusters)");
  const auto add_list = [&](const char* option, auto& values, const char* help) {
    return calibrate_command->add_option(option, values, help)->delimiter(',');
  };
  add_list("--models", calibration.models,
           "whose gradients are timed; strategies' own work is timed with the first one")
      ->capture_default_str();
  add_list("--minibatches", calibration.minibatches, "of the gradients")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  add_list("--devices", calibration.devices,
           "who computes them, each as hosts of its own (default: the fastest; dsgd list devices)");
  add_list("--strategies", calibration.strategies, "whose work besides gradients is timed (default: all)");
  calibrate_command
      ->add_option("--ranks", calibration.ranks,
                   "how many compute at a time while gradients are timed "
                   "(default: one a core)")
      ->check(CLI::Range(1, 4096));
  calibrate_command->footer(
      "Close other programs first: the file says how much the measurements differ. Ranks of one host slow "
      "each other\ndown, so gradients are timed with as many ranks at work as the host has room for "
      "(slots).\n\n"
      "  dsgd calibrate                                  about a minute; then: cluster = \"local\"\n"
      "  dsgd calibrate --models lenet --minibatches 32 --strategies sync,downpour -o quick.toml\n"
      "  dsgd sweep quickstart --set engine=simulated --set cluster=local\n"
      "  dsgd sweep validate-simulation                  real runs and their simulated twins");
  CLI::App* data = app.add_subcommand("data", "get and check data sets");
  data->require_subcommand(1);
  CLI::App* fetch = data->add_subcommand("fetch", "get a data set by HTTPS, checked by SHA-256");
  fetch->add_option("name", name, "dsgd list datasets")->required();
  fetch->add_option("--data-dir", data_dir, "where to put it (default: the user's cache)");
  fetch->add_option("--from", url, "another address to get the files from, e.g. a mirror");
  fetch->footer("  dsgd data fetch mnist");
  CLI::App* check = data->add_subcommand("check", "verify what is there");
  check->add_option("name", name, "one data set (default: all)");
  check->add_option("--data-dir", data_dir, "where to look first")->check(CLI::ExistingDirectory);
  CLI::App* doctor_command =
      app.add_subcommand("doctor", "say what is there, what will not work here and why, and how to mend it");
  LaunchOptions here;
  int ranks = 2;
  doctor_command->add_option("--ranks", ranks, "how many ranks are started for a try (default 2)")
      ->check(CLI::Range(1, 4096));
  doctor_command->add_option("--launcher", here.launcher,
                             "how ranks are started (default: mpirun on this host)");
  doctor_command->add_option("--data-dir", data_dir, "where data sets are looked for first")
      ->check(CLI::ExistingDirectory);
  doctor_command->footer(
      "Exit code 0: an ordinary run has all it needs; 1: something is missing. GPUs, the simulator, plots "
      "and "
      "most\ndata sets are no part of an ordinary run.");
  CLI::App* meet_command = app.add_subcommand("meet", "")->group("");  // started by mpirun
  CLI::App* rank = app.add_subcommand("rank", "")->group("");          // started by mpirun
  rank->add_option("plan", plan)->required();
  rank->add_option("part", part)->required();
  rank->add_option("--data-dir", data_dir);
  CLI::App* probe = app.add_subcommand("probe", "")->group("");  // started by mpirun
  probe->add_option("folder", folder)->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    fmt::print(stderr, "{}\n", explain(app, e, {argv + 1, argv + argc}));
    return 2;
  }
  try {
    const auto command = [&] {
      if (*run || *sweep_command) {
        options.single = bool(*run);
        return sweep(options);
      }
      if (*table_command) return print_table(folder, target, mixed);
      if (*plot_command) {
        if (!figures_folder.empty()) figures.insert(figures.end(), {"--output", figures_folder});
        if (plot_target >= 0) figures.insert(figures.end(), {"--target", fmt::format("{}", plot_target)});
        if (mixed) figures.push_back("--allow-mixed");
        return plot(folder, figures);
      }
      if (*list_command) return list(topic, word);
      if (*show_command) return show_file(file, plan_only);
      if (*trace_command) {
        write_trace(file, json.empty() ? std::filesystem::path(file).replace_extension(".json")
                                       : std::filesystem::path(json));
        return 0;
      }
      if (*replay_command) return replay(file, anyway, data_dir);
      if (*fetch) {
        fetch_dataset(name, data_dir.empty() ? cache_folder() / name : std::filesystem::path(data_dir), url);
        return 0;
      }
      if (*check) return check_data(name, data_dir);
      if (*doctor_command) {
        here.program = std::filesystem::read_symlink("/proc/self/exe");
        here.data_dir = data_dir;
        return doctor(ranks, here);
      }
      if (*meet_command) {
        meet();
        return 0;
      }
      if (*calibrate_command) return calibrate(calibration);
      if (*probe) {
        die_with_parent(SIGKILL);
        probe_rank(folder);
        return 0;
      }
      return rank_main(plan, part, data_dir);
    };
    const int code = command();
    if (std::fflush(stdout))
      throw std::runtime_error(fmt::format("standard output: {}", std::strerror(errno)));
    return code;
  } catch (const ConfigError& e) {
    for (const std::string& problem : e.problems()) fmt::print(stderr, "{}\n", problem);
  } catch (const std::filesystem::filesystem_error& e) {
    fmt::print(stderr, "dsgd: {}: {}\n", e.path1().string(), e.code().message());
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsgd: {}\n", e.what());
  }
  return 2;
}
