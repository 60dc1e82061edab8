// SPDX-License-Identifier: Apache-2.0
// Vectors of a GPU between workers and servers that share the card. On a machine without a GPU all of it is
// skipped.
//   mpirun -n P+S mpi_servers_gpu_test S

#include <algorithm>
#include <cmath>
#include <random>

#include "device.h"
#include "mpi_job.h"

namespace dsgd::test {
namespace {

bool fits(const Shape& shape) { return shape.servers > 0; }

// A server that adds up what arrives.
struct Adder final : Rule {
  void apply(Vec w, const Arrival& a, std::int64_t) override { axpy(a.scale, a.g, w); }
};

TEST(Gpu, PushesAndPullsHaveTheHostsBits) {
  const DeviceEntry& entry = *find_device("cudnn");
  if (const std::string why = entry.unavailable(); !why.empty()) GTEST_SKIP() << why;
  constexpr std::size_t portion = 1 << 16;
  const auto device = entry.make();
  for (const std::size_t n :
       {std::size_t(1), std::size_t(1000), portion, 2 * portion + 1, 9 * portion + 12345}) {
    world().barrier();
    if (!world().is_worker()) {
      const ShardRange part = shard_range(n, world().rank() - world().workers(), world().servers());
      Vector w(host_space(), part.count);
      Adder rule;
      Shard shard({world().workers(), world_minibatch, std::int64_t(1) << 40}, rule, w);
      world().serve(shard);
      continue;
    }
    // The first worker alone pushes, so that all is added in one order.
    ParameterServer& server = world().server(n);
    const Space& space = device->space();
    Vector here(host_space(), n), g(space, n), w(space, n), is(host_space(), n), should(host_space(), n);
    std::mt19937 bits(1);
    server.pull(w);
    for (int pushes = 0; pushes < 3; ++pushes) {
      if (world().rank() > 0) {
        server.pull(w);
        continue;
      }
      for (std::size_t j = 0; j < n; ++j) here.data()[j] = std::ldexp(float(bits()), -int(bits() % 40));
      copy(here, g);
      scale(0.75f, g.view());
      server.push(0.3f, g, world_minibatch);
      fill(NAN, g.view());
      fill(NAN, w.view());
      server.pull(w);
      copy(w, is);
      scale(0.75f, here.view());
      scale(0.3f, here.view());
      axpy(1, here, should.view());
      EXPECT_TRUE(std::equal(is.data(), is.data() + n, should.data())) << n << " elements, push " << pushes;
    }
    server.leave();
  }
}

}  // namespace
}  // namespace dsgd::test
