// SPDX-License-Identifier: Apache-2.0
// Vectors of a GPU under the strategies and the groups. On a machine without a GPU all of it is skipped.
//   mpirun -n P mpi_lockstep_gpu_test      P ranks on one card; NCCL where each has a card of its own

#include <algorithm>
#include <cmath>
#include <random>

#include "device.h"
#include "mpi_job.h"
#include "nccl/group.h"

namespace dsgd::test {
namespace {

bool fits(const Shape& shape) { return shape.servers == 0; }

// Null where there is no GPU; `why` then says so.
const Space* gpu(std::string& why) {
  const DeviceEntry& entry = *find_device("cudnn");
  why = entry.unavailable();
  static const std::unique_ptr<Device> device = why.empty() ? entry.make() : nullptr;
  return device ? &device->space() : nullptr;
}
#define DSGD_NEEDS_GPU(space)          \
  std::string why;                     \
  const Space* const space = gpu(why); \
  if (!space) GTEST_SKIP() << why

std::vector<float> on_host(ConstVec v) {
  std::vector<float> values(v.size);
  copy(v, {values.data(), v.size, &host_space()});
  return values;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double far = 0, size = 0;
  for (std::size_t j = 0; j < b.size(); ++j) {
    far += std::pow(double(a[j]) - b[j], 2);
    size += std::pow(double(b[j]), 2);
  }
  return std::sqrt(far / std::max(size, 1e-300));
}

TEST(Gpu, StrategiesGiveTheHostsWeights) {
  DSGD_NEEDS_GPU(space);
  for (const StrategyEntry* entry : all_strategies()) {
    if (entry->make_rule || entry->pairs() || entry->elements) continue;
    Job job{.strategy = entry->name, .settings = entry->tests.conformance};
    job.problem.curved = true;
    job.budget = 12 * world().workers() * world_minibatch + 1;
    job.optimizer = {.rule = OptimizerSettings::Rule::momentum, .learning_rate = 1.0 / 64};
    const JobOutcome should = run(job);
    job.space = space;
    const JobOutcome is = run(job);
    EXPECT_LT(distance(is.weights, should.weights), 1e-6) << entry->name;
    EXPECT_LT(distance(is.master, should.master), 1e-6) << entry->name;
  }
}

// Any values, of very different sizes; on worker k others than on the rest.
std::vector<float> values(std::size_t n, int k) {
  std::mt19937 bits(unsigned(k) + 1);
  std::vector<float> v(n);
  for (float& e : v) e = std::ldexp(float(bits()) * 0x1p-31f - 1, int(bits() % 8) - 4);
  return v;
}

TEST(Gpu, GroupsAddUpWhatIsThere) {
  DSGD_NEEDS_GPU(space);
  const int workers = world().workers();
  const auto nccl = nccl_group(world(), *space, 60, why);
  EXPECT_TRUE(nccl || !why.empty());
  testing::Test::RecordProperty("group", nccl ? nccl->library() : why);
  for (const std::size_t n :
       {std::size_t(0), std::size_t(1), std::size_t(1000), std::size_t(100003), std::size_t(1) << 22}) {
    std::vector<double> exact(n);
    for (int k = 0; k < workers; ++k) {
      const auto v = values(n, k);
      for (std::size_t j = 0; j < n; ++j) exact[j] += v[j];
    }
    for (Group* group : std::initializer_list<Group*>{&world().group(), nccl.get()}) {
      if (!group) continue;
      for (const bool own : {true, false}) {  // a vector of the group's or any other
        Vector other(*space, own ? 0 : n);
        const Vec v = own ? group->vector(n) : other.view(), mean{v.data, v.size, space};
        if (v.space != space) continue;  // the group's own are the host's
        const auto mine = values(n, group->rank());
        copy({mine.data(), n, &host_space()}, v);
        group->sum(v);
        const auto sum = on_host(v);
        EXPECT_TRUE(same_on_all_workers(sum)) << n;
        group->mean(mean);  // of equal sums: the sum
        const auto again = on_host(mean);
        double far = 0, farther = 0, size = 1e-300;
        for (std::size_t j = 0; j < n; ++j) {
          far += std::pow(sum[j] - exact[j], 2);
          farther += std::pow(again[j] - exact[j], 2);
          size += std::pow(exact[j], 2);
        }
        EXPECT_LT(std::sqrt(far / size), 1e-6) << group->library() << ", " << n;
        EXPECT_LT(std::sqrt(farther / size), 2e-6) << group->library() << ", " << n;
      }
    }
  }
}

// Around the portions in which vectors pass through the host, and right behind work that fills them.
TEST(Gpu, SumsHaveTheHostsBits) {
  DSGD_NEEDS_GPU(space);
  Group& group = world().group();
  constexpr std::size_t portion = 1 << 16;
  for (const std::size_t n : {std::size_t(3), portion - 1, portion, portion + 1, 4 * portion, 4 * portion + 1,
                              9 * portion + 12345}) {
    const auto mine = values(n, group.rank());
    Vector here(host_space(), n), there(*space, n), twice(*space, n);
    std::copy(mine.begin(), mine.end(), here.data());
    copy(here, there);
    for (int times = 0; times < 3; ++times) {
      scale(0.75f, here.view());
      scale(0.75f, there.view());
      times == 1 ? group.mean(here) : group.sum(here);
      times == 1 ? group.mean(there) : group.sum(there);
      copy(there, twice);
      axpy(1, twice, there.view());
      scale(2, here.view());
    }
    EXPECT_EQ(on_host(there), on_host(here)) << n;
  }
}

}  // namespace
}  // namespace dsgd::test
