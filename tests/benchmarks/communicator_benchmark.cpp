// SPDX-License-Identifier: Apache-2.0
// What the communicator's verbs cost, with memory shared between the ranks of this host and without, side by
// side in every round of one run; and the memory bandwidth to compare with.
//   mpirun -n P communicator_benchmark [--benchmark_filter=REGEX]
// sum, mean     P workers; a row's time is that of vectors from Group::vector
// push_pull     P - 1 workers, each pushes and pulls, and 1 server that adds up
// update, copy, triad     all ranks at the same time, each in its own memory
// Times are the largest of all ranks; `us` columns are medians of the rounds. Results are checked once
// before.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <tuple>

#include "communicator.h"
#include "optimizer.h"
#include "server.h"
#include "shared_memory.h"

namespace dsgd {
namespace {

constexpr int rounds = 41, largest = 1 << 25;  // bytes

// Several worlds of the same ranks.
struct Worlds {
  std::unique_ptr<World> shared = World::open(0, 1), messages = World::open(0, 1, 1);
  std::unique_ptr<World> shared_servers, message_servers;
  Vec tiny, large;
  Worlds() : tiny(shared->group().vector(1)), large(shared->group().vector(largest / sizeof(float))) {
    if (shared->size() == 1) return;
    shared_servers = World::open(1, 1);
    message_servers = World::open(1, 1, 1);
  }
  void line_up() {  // closer than a barrier
    shared->barrier();
    shared->group().sum(tiny);
  }
  bool everywhere(bool good) {
    std::array<double, 1> least{double(good)};
    shared->min(least);
    return least[0] != 0;
  }
};

// Seconds of `work`, largest of all ranks.
template <typename Work>
double timed(Worlds& worlds, Work work) {
  worlds.line_up();
  const double begun = worlds.shared->now();
  work();
  std::array<double, 1> took{worlds.shared->now() - begun};
  worlds.shared->max(took);
  return took[0];
}

// One variant of what a row measures.
struct Variant {
  std::string name;
  std::function<double()> seconds;
};

// Measures the variants in turns; the first one's time is the row's.
void measure(benchmark::State& state, const std::vector<Variant>& variants, double bytes) {
  std::vector<std::vector<double>> took(variants.size());
  for (const Variant& v : variants) v.seconds();
  for (auto _ : state) {
    for (std::size_t i = 0; i < variants.size(); ++i) took[i].push_back(variants[i].seconds());
    state.SetIterationTime(took[0].back());
  }
  for (std::size_t i = 0; i < variants.size(); ++i) {
    std::sort(took[i].begin(), took[i].end());
    state.counters[variants[i].name + "_us"] = 1e6 * took[i][took[i].size() / 2];
    state.counters[variants[i].name + "_best"] = 1e6 * took[i].front();
  }
  const double median = took[0][took[0].size() / 2];
  if (variants.size() > 1) state.counters["gain"] = took.back()[took.back().size() / 2] / median;
  state.counters["GB/s"] = 1e-9 * bytes / median;
}

template <typename Verb>
void reduce(benchmark::State& state, Worlds& worlds, Verb verb, double expected_of_sum) {
  const auto n = std::size_t(state.range(0)) / sizeof(float);
  Vector private_vector(host_space(), n);
  const Vec shared_vector = worlds.large.part(0, n);
  const auto variant = [&](World& world, Vec v) {
    return [&worlds, &world, v, verb] {
      fill(1, v);  // as a gradient is: written by its owner, in its cache
      return timed(worlds, [&] { verb(world.group(), v); });
    };
  };
  const std::vector<Variant> variants{{"shared", variant(*worlds.shared, shared_vector)},
                                      {"copied", variant(*worlds.shared, private_vector)},
                                      {"mpi", variant(*worlds.messages, private_vector)}};
  for (const Variant& v : variants) {
    v.seconds();
    const Vec result = &v == &variants[0] ? shared_vector : private_vector.view();
    const bool good =
        std::all_of(result.data, result.data + n, [&](float x) { return x == float(expected_of_sum); });
    if (!worlds.everywhere(good)) return state.SkipWithError((v.name + " is wrong").c_str());
  }
  measure(state, variants, double(n) * sizeof(float));
}

struct Adder final : Rule {
  void apply(Vec w, const Arrival& a, std::int64_t) override { axpy(a.scale, a.g, w); }
};

// Every worker pushes ones and pulls, `pairs` times: seconds of one such pair, or a negative number when the
// servers' vector is wrong.
double push_pull(Worlds& worlds, World& world, std::size_t n, int pairs) {
  std::array<double, 1> took{0}, good{1};
  Vector w(host_space(), n);
  if (world.is_worker()) {
    ParameterServer& server = world.server(n);
    Vector g(host_space(), n), together(host_space(), 1);
    fill(1, g);
    server.pull(w);
    world.group().sum(together);
    const double begun = world.now();
    for (int i = 0; i < pairs; ++i) {
      server.push(1, g, 1);
      server.pull(w);
    }
    took[0] = (world.now() - begun) / pairs;
    world.group().sum(together);
    server.pull(w);
    good[0] =
        std::all_of(w.data(), w.data() + n, [&](float x) { return x == float(pairs * world.workers()); });
    server.leave();
  } else {
    Adder rule;
    Shard shard({world.workers(), 1, std::int64_t(1) << 40}, rule, w);
    world.serve(shard);
  }
  worlds.shared->max(took);
  worlds.shared->min(good);
  return good[0] ? took[0] : -1;
}

void servers(benchmark::State& state, Worlds& worlds) {
  const auto n = std::size_t(state.range(0)) / sizeof(float);
  const int pairs = int(std::clamp(std::size_t(1 << 20) / n, std::size_t(1), std::size_t(100)));
  // The least that could be: the first worker adds its vector to shared memory and copies the sum from there.
  const SharedMemory memory(n * sizeof(float));
  const Vec there{reinterpret_cast<float*>(memory.data()), n, &host_space()};
  Vector g(host_space(), n), w(host_space(), n);
  const auto load_store = [&] {
    return timed(worlds,
                 [&] {
                   for (int i = 0; i < pairs && worlds.shared->rank() == 0; ++i) {
                     axpy(1, g, there);
                     copy(there, w);
                   }
                 }) /
           pairs;
  };
  const std::vector<Variant> variants{
      {"shared", [&] { return push_pull(worlds, *worlds.shared_servers, n, pairs); }},
      {"load_store", load_store},
      {"messages", [&] { return push_pull(worlds, *worlds.message_servers, n, pairs); }}};
  for (const Variant& v : variants)
    if (v.seconds() < 0) return state.SkipWithError((v.name + " is wrong").c_str());
  measure(state, variants, 2 * double(n) * sizeof(float));
}

// A server's update of one part of the vector.
void update(benchmark::State& state, Worlds& worlds, OptimizerSettings::Rule rule, int floats_moved) {
  const auto n = std::size_t(state.range(0)) / sizeof(float);
  Vector w(host_space(), n), g(host_space(), n);
  Optimizer optimizer({.rule = rule, .learning_rate = 0.5, .initial_accumulator = 1, .epsilon = 0},
                      host_space(), n);
  fill(1, g);
  optimizer.step(w, g, 1, 0);
  const float first = rule == OptimizerSettings::Rule::adagrad    ? -0.5f / std::sqrt(2.0f)
                      : rule == OptimizerSettings::Rule::nesterov ? -0.5f * 1.9f
                                                                  : -0.5f;
  const bool good = std::all_of(w.data(), w.data() + n, [&](float x) { return std::abs(x - first) < 1e-6f; });
  if (!worlds.everywhere(good)) return state.SkipWithError("wrong");
  const std::vector<Variant> variants{
      {"update", [&] { return timed(worlds, [&] { optimizer.step(w, g, 1, 0); }); }}};
  measure(state, variants, double(floats_moved * n * sizeof(float)));
}

// What memory (or, for small sizes, a cache) gives: y <- x, and the triad y <- y + a*x.
void bandwidth(benchmark::State& state, Worlds& worlds, bool triad) {
  const auto n = std::size_t(state.range(0)) / sizeof(float);
  Vector x(host_space(), n), y(host_space(), n);
  fill(1, x);
  const auto pass = [&] { triad ? axpy(2, x, y) : copy(x, y); };
  pass();
  const bool good = std::all_of(y.data(), y.data() + n, [&](float v) { return v == (triad ? 2 : 1); });
  if (!worlds.everywhere(good)) return state.SkipWithError("wrong");
  fill(0, x);
  measure(state, {{"pass", [&] { return timed(worlds, pass); }}},
          double((triad ? 3 : 2) * n * sizeof(float)));
}

void add_all(Worlds& worlds) {
  // 256 KB are about LeNet, 6.5 MB about the dense nets.
  const auto add = [](const std::string& name, auto run) {
    auto* bench = benchmark::RegisterBenchmark(name.c_str(), run);
    for (const int bytes : {1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 6500000, 1 << 24, largest})
      bench->Arg(bytes);
    bench->UseManualTime()->Iterations(rounds)->Unit(benchmark::kMicrosecond);
  };
  const int workers = worlds.shared->size();
  add("sum", [&worlds, workers](benchmark::State& s) {
    reduce(
        s, worlds, [](Group& g, Vec v) { g.sum(v); }, workers);
  });
  add("mean", [&worlds](benchmark::State& s) {
    reduce(
        s, worlds, [](Group& g, Vec v) { g.mean(v); }, 1);
  });
  if (worlds.shared_servers) add("push_pull", [&worlds](benchmark::State& s) { servers(s, worlds); });
  using Rule = OptimizerSettings::Rule;
  for (const auto& [name, rule, floats] : {std::tuple{"sgd", Rule::sgd, 3},
                                           {"momentum", Rule::momentum, 5},
                                           {"nesterov", Rule::nesterov, 5},
                                           {"adagrad", Rule::adagrad, 5}})
    add(fmt::format("update/{}", name),
        [&worlds, rule = rule, floats = floats](benchmark::State& s) { update(s, worlds, rule, floats); });
  add("copy", [&worlds](benchmark::State& s) { bandwidth(s, worlds, false); });
  add("triad", [&worlds](benchmark::State& s) { bandwidth(s, worlds, true); });
}

class Silent final : public benchmark::BenchmarkReporter {
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

}  // namespace
}  // namespace dsgd

int main(int argc, char** argv) {
  dsgd::Worlds worlds;
  dsgd::add_all(worlds);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  if (worlds.shared->rank() == 0) {
    benchmark::RunSpecifiedBenchmarks();
  } else {
    dsgd::Silent silent;
    benchmark::RunSpecifiedBenchmarks(&silent);
  }
}
