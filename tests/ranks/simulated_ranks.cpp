// SPDX-License-Identifier: Apache-2.0
// main() of simulated_test: the tests of the mpi_*_test programs in this one process, on simulated ranks.

#include <simgrid/actor.h>

#include <map>
#include <stdexcept>

#include "simulated/simulation.h"
#include "ranks.h"

namespace dsgd::test {
namespace {

constexpr int most_ranks = 19;
std::map<aid_t, World*> worlds;  // by the rank's thread
Simulation* simulation = nullptr;

}  // namespace

World& world() {
  const auto own = worlds.find(sg_actor_self_get_pid());
  if (own == worlds.end()) throw std::logic_error("a world is there on ranks only: in TEST and RANKS_TEST_P");
  return *own->second;
}
int ranks_per_host = 1;

std::vector<Shape> shapes() {
  return {{1, 0}, {2, 0}, {3, 0}, {4, 0}, {7, 0}, {16, 0}, {1, 1}, {2, 1}, {3, 2}, {4, 1}, {7, 2}, {16, 3}};
}

void on_ranks(const Fits& fits, const std::function<void()>& body) {
  for (const Shape& shape : shapes()) {
    if (!fits(shape)) continue;
    SCOPED_TRACE(std::to_string(shape.workers) + " workers, " + std::to_string(shape.servers) + " servers");
    std::vector<int> hosts(shape.workers + shape.servers);
    for (std::size_t r = 0; r < hosts.size(); ++r) hosts[r] = int(r);
    simulation->run(hosts, [&](int) {
      const auto own = World::open(shape.servers, world_minibatch);
      worlds[sg_actor_self_get_pid()] = own.get();
      body();
      worlds.erase(sg_actor_self_get_pid());
    });
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace dsgd::test

int main(int argc, char** argv) {
  using namespace dsgd;
  Simulation simulation({.hosts = std::vector<Platform::Host>(test::most_ranks, {125e6, 25e-6, {}})});
  test::simulation = &simulation;
  testing::InitGoogleTest(&argc, argv);
  GTEST_FLAG_SET(catch_exceptions, false);
  return RUN_ALL_TESTS();
}
