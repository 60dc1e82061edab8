// dsgd-sim: one simulated run, all of its ranks in this process. Started by dsgd:
//   dsgd-sim PLAN PART [DATA_DIR]
//   dsgd-sim --check PLAN          whether the plan's cluster can be simulated

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "harness/run.h"

int main(int argc, char** argv) {
  using namespace dsgd;
  try {
    if (argc < 3)
      throw std::runtime_error("started by `dsgd run` and `dsgd sweep` with engine = \"simulated\"");
    const bool check = argv[1] == std::string("--check");
    std::ifstream in(argv[check ? 2 : 1]);
    std::stringstream text;
    text << in.rdbuf();
    const RunConfig config = parse_run(text.str());
    const Cluster cluster(config);
    Simulation simulation(cluster.platform());
    if (check) return 0;
    Process process(config, argc > 3 ? argv[3] : "", 0);
    simulation.run(cluster.seats(), [&](int) { run_rank(config, argv[2], process, cluster); });
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsgd: {}\n", e.what());
    return 2;
  }
}
