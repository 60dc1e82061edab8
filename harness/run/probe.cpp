// SPDX-License-Identifier: Apache-2.0
#include "run/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <sstream>

#include "communicator.h"
#include "optimizer.h"
#include "run/run.h"
#include "server.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

constexpr int rounds = 40;

class Sgd final : public Rule {
 public:
  Sgd(std::size_t n, bool idle) : optimizer_({}, host_space(), n), idle_(idle) {}
  void apply(Vec w, const Arrival& a, std::int64_t used) override {
    if (!idle_) optimizer_.step(w, a.g, a.scale, used);
  }

 private:
  Optimizer optimizer_;
  bool idle_;
};

class Measure {
 public:
  explicit Measure(World& world) : world_(world) {}

  void sum(std::size_t n) {
    const Vec v = world_.group().vector(n);
    repeat(
        "sum", n, world_, [&] { fill(1, v); }, [&] { world_.group().sum(v); });
  }

  // Times are the worker's.
  void exchange(World& served, const char* what, std::size_t n, bool idle) {
    Vector w(host_space(), n), g(host_space(), n);
    if (served.is_worker()) {
      ParameterServer& server = served.server(n);
      server.pull(w);
      const auto both = [&] {
        server.push(1, g, 1);
        server.pull(w);
      };
      for (int i = 0; i < rounds; ++i) {
        fill(1e-6f, g);  // as a gradient is: in its owner's cache
        add(what, n, timed(both));
      }
      server.leave();
    } else {
      Sgd rule(n, idle);
      Shard shard({served.workers(), 1, std::int64_t(1) << 40}, rule, w);
      served.serve(shard);
    }
  }

  void vectors(std::size_t n) {
    Vector x(host_space(), n), y(host_space(), n);
    repeat(
        "copy", n, world_, [] {}, [&] { copy(x, y); });
    repeat(
        "axpy", n, world_, [] {}, [&] { axpy(1, x, y); });
  }

  const std::vector<Probe>& probes() const { return probes_; }

 private:
  double timed(const std::function<void()>& work) const {
    const double begun = world_.now();
    work();
    return world_.now() - begun;
  }
  void add(const char* what, std::size_t n, double seconds) { probes_.push_back({what, n, seconds}); }

  // A time is that of the rank that came last and so did not wait.
  void repeat(const char* what, std::size_t n, World& world, const std::function<void()>& prepare,
              const std::function<void()>& work) {
    for (int i = 0; i < rounds + 1; ++i) {
      prepare();
      world.barrier();
      std::array<double, 1> least{timed(work)};
      world.min(least);
      if (i > 0) add(what, n, least[0]);
    }
  }

  World& world_;
  std::vector<Probe> probes_;
};

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw std::runtime_error(fmt::format("{}: cannot be read", file.string()));
  return text.str();
}

void measure_messages(World& world, const fs::path& folder) {
  Measure measure(world);
  const auto served = World::open(1, 1);
  for (std::size_t n = 1; n <= std::size_t(1) << 22; n = n == 1 ? 256 : 4 * n) {
    measure.sum(n);
    measure.exchange(*served, "exchange", n, true);
    measure.exchange(*served, "update", n, false);
  }
  measure.vectors(std::size_t(1) << 22);
  if (world.rank() > 0) return;
  std::ofstream out(folder / "probes.txt");
  for (const Probe& p : measure.probes()) out << fmt::format("{} {} {:.9g}\n", p.what, p.floats, p.seconds);
}

}  // namespace

void probe_rank(const fs::path& folder) {
  const auto world = World::open(0, 1);
  try {
    if (world->size() == 2) measure_messages(*world, folder);
    std::vector<fs::path> plans;
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".toml") plans.push_back(entry.path());
    std::sort(plans.begin(), plans.end());
    for (fs::path& plan : plans) {
      const RunConfig config = parse_run(text_of(plan));
      if (config.ranks() == world->size()) run_rank(config, plan.replace_extension(".h5.part"), "");
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "rank {}: {}\n", world->rank(), e.what());
    world->abort();
  }
}

std::vector<Probe> read_probes(const fs::path& folder) {
  std::vector<Probe> probes;
  std::ifstream in(folder / "probes.txt");
  for (Probe p; in >> p.what >> p.floats >> p.seconds;) probes.push_back(p);
  return probes;
}

}  // namespace dsgd
