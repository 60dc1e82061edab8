// SPDX-License-Identifier: Apache-2.0
// The communicator's verbs against closed forms: every rank and element has another value, and the sums are
// exact in float32.
//   mpirun -n P mpi_communicator_test            workers as equals
//   mpirun -n P+S mpi_communicator_test S        and the parameter server
//   mpirun -n P+S mpi_communicator_test S H      memory is shared by every H ranks, as if hosts had no more

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "far_space.h"
#include "mpi_job.h"

namespace dsgd::test {
namespace {

bool fits(const Shape& shape) { return shape.workers < 16 || shape.servers == 0; }  // once is enough
constexpr std::size_t sizes[] = {0, 1, 2, 3, 1000, 100003};

// 1 + 2 + ... + workers
int series() { return world().workers() * (world().workers() + 1) / 2; }

TEST(World, KnowsItsRanks) {
  EXPECT_GE(world().workers(), 1);
  EXPECT_EQ(world().size(), world().workers() + world().servers());
  EXPECT_EQ(world().is_worker(), world().rank() < world().workers());
  EXPECT_FALSE(world().library().empty());
  std::array<std::int64_t, 1> ranks{world().rank()};
  world().sum(ranks);
  EXPECT_EQ(ranks[0], world().size() * (world().size() - 1) / 2);
  if (!world().is_worker()) return;
  EXPECT_EQ(world().group().rank(), world().rank());
  EXPECT_EQ(world().group().size(), world().workers());
}

TEST(World, ReducesOverAllRanks) {
  const int r = world().rank(), size = world().size();
  std::array<std::int64_t, 2> large{(std::int64_t(1) << 40) + r, -r};
  std::array<double, 2> sum{0.25 + r, -1.0 * r}, least{r + 1.0, -1.0 * r}, most = least;
  world().sum(large);
  world().sum(sum);
  world().min(least);
  world().max(most);
  const int all = size * (size - 1) / 2;
  EXPECT_EQ(large, (std::array<std::int64_t, 2>{(std::int64_t(size) << 40) + all, -all}));
  EXPECT_EQ(sum, (std::array<double, 2>{0.25 * size + all, double(-all)}));
  EXPECT_EQ(least, (std::array<double, 2>{1, 1.0 - size}));
  EXPECT_EQ(most, (std::array<double, 2>{double(size), 0}));
  world().sum(std::span<double>());
}

TEST(World, BroadcastsFromEveryRank) {
  for (int root = 0; root < world().size(); ++root)
    for (const std::size_t n : sizes) {
      std::vector<float> v(n);
      if (world().rank() == root)
        for (std::size_t j = 0; j < n; ++j) v[j] = float(j + root);
      world().broadcast(v.data(), n * sizeof(float), root);
      std::size_t wrong = 0;
      for (std::size_t j = 0; j < n; ++j) wrong += v[j] != float(j + root);
      EXPECT_EQ(wrong, 0u) << n << " floats from rank " << root;
    }
}

TEST(World, GathersPartsOfDifferentSizes) {
  for (const std::size_t unit : sizes) {
    std::vector<std::byte> own(unit * world().rank());  // nothing from rank 0
    for (std::size_t i = 0; i < own.size(); ++i) own[i] = std::byte((i + world().rank()) % 251);
    const auto all = world().gather(own);
    if (world().rank() > 0) continue;
    ASSERT_EQ(all.size(), std::size_t(world().size()));
    for (std::size_t r = 0; r < all.size(); ++r) {
      ASSERT_EQ(all[r].size(), unit * r);
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < all[r].size(); ++i) wrong += all[r][i] != std::byte((i + r) % 251);
      EXPECT_EQ(wrong, 0u) << "rank " << r << ", unit " << unit;
    }
  }
}

TEST(World, NeedsAWorker) {
  try {
    World::open(world().size(), 1);
    FAIL() << "opened";
  } catch (const std::runtime_error& e) {
    EXPECT_EQ(std::string(e.what()),
              fmt::format("{0} MPI ranks for {0} servers and at least 1 worker", world().size()));
  }
  EXPECT_EQ(World::open(0, 1)->workers(), world().size());  // MPI is still there
}

TEST(World, ClockRuns) {
  const double start = world().now();
  world().barrier();
  EXPECT_GE(world().now(), start);
}

// Computing is charged to the clock in virtual time alone.
TEST(World, ChargesSimulatedTime) {
  const double start = world().now();
  world().charge(1000);
  EXPECT_NEAR(world().now() - start, world().simulated() ? 1000 : 0, world().simulated() ? 1e-6 : 100);
}

TEST(Group, SumsAndAverages) {
  if (!world().is_worker()) return;  // the servers have nothing to check here
  Group& group = world().group();
  const int workers = group.size();
  for (const std::size_t n : sizes) {
    Vector sum(host_space(), n), mean(host_space(), n);
    for (std::size_t j = 0; j < n; ++j)
      sum.data()[j] = mean.data()[j] = float((group.rank() + 1) * double(j));
    group.sum(sum);
    group.mean(mean);
    std::size_t wrong = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const double exact = double(j) * series();
      wrong += sum.data()[j] != float(exact);
      wrong += std::abs(mean.data()[j] - exact / workers) > (power_of_two(workers) ? 0 : 1.2e-7 * exact);
    }
    EXPECT_EQ(wrong, 0u) << n << " elements";
  }
}

// Any value of element j on worker k, of very different sizes.
float element(int k, std::size_t j) {
  std::uint32_t bits = (std::uint32_t(j) + 77) * 2654435761u ^ std::uint32_t(k + 1) * 2246822519u;
  bits ^= bits >> 15;
  return std::ldexp(float(bits * 2654435761u) - 0x1p31f, int(bits % 24) - 12);
}

// The stated order: ranks within a host, then hosts.
float in_order(std::size_t j) {
  const int workers = world().workers(), share = ranks_per_host ? ranks_per_host : workers;
  float sum = 0;
  for (int first = 0; first < workers; first += share) {
    float of_host = element(first, j);
    for (int k = first + 1; k < std::min(first + share, workers); ++k) of_host += element(k, j);
    sum = first == 0 ? of_host : sum + of_host;
  }
  return sum;
}

// Vectors of all kinds: shared, part of a shared one, one's own, longer than what is copied at a time.
TEST(Group, AddsInTheStatedOrder) {
  const int hosts =
      ranks_per_host && !world().simulated() ? (world().workers() + ranks_per_host - 1) / ranks_per_host : 1;
  for (const std::size_t n : {1u, 7u, 16u, 1000u, 65536u, 200003u}) {
    std::vector<float> results;
    if (world().is_worker()) {
      Group& group = world().group();
      Vector own(host_space(), n), mean(host_space(), n);
      const Vec large = group.vector(n + 50), kinds[] = {own, large.part(0, n), large.part(37, n)};
      EXPECT_EQ(std::count(large.data, large.data + large.size, 0.0f), std::ptrdiff_t(large.size));
      for (const Vec v : kinds) {
        for (const bool averaged : {false, true}) {
          fill(-1, large);
          for (std::size_t j = 0; j < n; ++j) v.data[j] = element(group.rank(), j);
          averaged ? group.mean(v) : group.sum(v);
          std::size_t wrong = 0;
          for (std::size_t j = 0; j < n && hosts <= 2; ++j)
            wrong += v.data[j] != (averaged ? in_order(j) * (1.0f / float(group.size())) : in_order(j));
          EXPECT_EQ(wrong, 0u) << n << " elements, kind " << &v - kinds;
          results.insert(results.end(), v.data, v.data + n);
        }
        const auto spared = std::count(large.data, large.data + large.size, -1.0f);
        EXPECT_EQ(spared, std::ptrdiff_t(v.data == own.data() ? n + 50 : 50)) << "wrote beyond its part";
      }
    }
    EXPECT_TRUE(same_on_all_workers(results));
  }
}

// Whoever has read a sum overwrites his own vector while others still read.
TEST(Group, HoldsASumForAllToRead) {
  const int hosts =
      ranks_per_host && !world().simulated() ? (world().workers() + ranks_per_host - 1) / ranks_per_host : 1;
  if (!world().is_worker()) return;
  Group& group = world().group();
  for (const std::size_t n : {1u, 1000u, 65536u, 7u}) {
    Vector own(host_space(), n);
    for (const Vec v : {own.view(), group.vector(n)})
      for (int turn = 0; turn < 3; ++turn) {
        group.begin_sum(v, 100);
        for (std::size_t j = 0; j < n; ++j) v.data[j] = element(group.rank(), j + turn);
        const ConstVec sum = group.end_sum(v);
        ASSERT_EQ(sum.size, n);
        std::size_t wrong = 0;
        for (std::size_t j = 0; j < n && hosts <= 2; ++j) wrong += sum.data[j] != in_order(j + turn);
        EXPECT_EQ(wrong, 0u) << n << " elements, turn " << turn;
        fill(NAN, v);
      }
  }
}

TEST(Group, AddsWhatTheHostCannotReach) {
  if (!world().is_worker()) return;
  Group& group = world().group();
  for (const std::size_t n : {1u, 1000u, 200003u}) {
    Vector here(host_space(), n), there(test::far_space(), n), back(host_space(), n);
    for (std::size_t j = 0; j < n; ++j) here.data()[j] = element(group.rank(), j);
    copy(here, there);
    group.mean(here);
    group.mean(there);
    copy(there, back);
    EXPECT_TRUE(std::equal(here.data(), here.data() + n, back.data())) << n << " elements";
  }
}

// One after the other, without a pause: nobody may run ahead.
TEST(Group, KeepsManySumsApart) {
  if (!world().is_worker()) return;
  Group& group = world().group();
  const Vec shared = group.vector(300);
  Vector own(host_space(), 300);
  std::size_t wrong = 0;
  for (int round = 0; round < 2000; ++round) {
    const std::size_t n = 1 + round * 7 % 300;
    const Vec v = (round % 3 ? shared : own.view()).part(0, n);
    fill(float(round + group.rank()), v);
    group.sum(v);
    const float expected = float(round * group.size() + series() - group.size());
    wrong += n - std::count(v.data, v.data + n, expected);
  }
  EXPECT_EQ(wrong, 0u);
}

TEST(Group, CountsWhatTheBestAllReduceSends) {
  if (!world().is_worker()) return;
  const int workers = world().workers();
  for (const std::size_t n : {1u, 3u, 1000u, 100003u}) {
    Vector v(host_space(), n);
    world().traffic() = {};
    world().group().sum(v);
    world().group().sum(v);
    const Traffic& traffic = world().traffic();
    const auto volume = std::int64_t(8 * n * (workers - 1) / workers);
    EXPECT_EQ(traffic.bytes_sent, 2 * volume);
    EXPECT_EQ(traffic.bytes_received, 2 * volume);
    EXPECT_EQ(traffic.messages, workers > 1 ? 2 : 0);
    EXPECT_EQ(traffic.synchronisations, 2);
    EXPECT_GE(traffic.seconds, 0);
    const Context context{.parameters = n, .workers = workers};
    EXPECT_EQ(double(traffic.bytes_sent), (2 * all_reduce_cost(context)).bytes_sent);
    EXPECT_EQ(double(traffic.messages), (2 * all_reduce_cost(context)).messages);
  }
}

// What worker `from` has for worker `to`: some of them nothing, none of them as much as another.
Bytes message(int from, int to, std::size_t unit) {
  Bytes bytes(from == to + 1 ? 0 : unit * std::size_t(from) + std::size_t(to));
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = std::byte((i + 7 * std::size_t(from) + 31 * std::size_t(to)) % 251);
  return bytes;
}

TEST(Group, GathersByteStringsOfDifferentLengths) {
  if (!world().is_worker()) return;
  const int own = world().rank(), workers = world().workers();
  for (const std::size_t unit : sizes) {
    world().traffic() = {};
    const auto all = world().group().all_gather(message(own, 0, unit));
    ASSERT_EQ(all.size(), std::size_t(workers));
    std::size_t received = 0;
    for (int k = 0; k < workers; ++k) {
      EXPECT_TRUE(all[k] == message(k, 0, unit)) << "from worker " << k << ", unit " << unit;
      if (k != own) received += all[k].size();
    }
    EXPECT_EQ(world().traffic().bytes_sent, std::int64_t((workers - 1) * message(own, 0, unit).size()));
    EXPECT_EQ(world().traffic().bytes_received, std::int64_t(received));
    EXPECT_EQ(world().traffic().messages, workers > 1 ? 1 : 0);
    EXPECT_EQ(world().traffic().synchronisations, 1);
  }
}

// Against what each worker unpacks by itself, in rank order: 0.1 k + 1e-6 j is rounded. Rounds of different
// lengths follow each other without a pause, and sums, which simulated workers share the same way.
TEST(Group, UnpacksWhatItGathers) {
  if (!world().is_worker()) return;
  Group& group = world().group();
  const int own = group.rank(), workers = group.size();
  const auto unpacked = [](const std::vector<Bytes>& messages, Vec v) {
    fill(0, v);
    for (std::size_t k = 0; k < messages.size(); ++k)
      for (std::size_t j = 0; j < v.size && j < messages[k].size(); ++j)
        v.data[j] += 0.1f * float(k) + 1e-6f * float(messages[k][j]);
  };
  Vector calls(host_space(), 1);
  int rounds = 0;
  for (const std::size_t unit : sizes)
    for (const int late : {0, workers - 1}) {
      const Bytes leaving = message(own, 0, unit);
      Vector each(host_space(), unit), v(host_space(), unit), sum(host_space(), 3);
      fill(NAN, v);
      world().traffic() = {};
      unpacked(group.all_gather(leaving), each);
      const Traffic alone = world().traffic();
      world().traffic() = {};
      world().charge(own == late ? 1e-3 : 0);
      group.all_gather_into(v, leaving, unit, [&](const std::vector<Bytes>& messages) {
        ++calls.data()[0];
        unpacked(messages, v);
      });
      EXPECT_EQ(world().traffic().bytes_sent, alone.bytes_sent);
      EXPECT_EQ(world().traffic().bytes_received, alone.bytes_received);
      EXPECT_EQ(world().traffic().messages, alone.messages);
      EXPECT_EQ(world().traffic().synchronisations, alone.synchronisations);
      fill(float(own + 1), sum);
      group.sum(sum);
      EXPECT_EQ(sum.data()[2], float(series()));
      EXPECT_TRUE(std::equal(v.data(), v.data() + unit, each.data())) << "unit " << unit;
      ++rounds;
    }
  group.sum(calls);
  EXPECT_EQ(calls.data()[0], float(rounds * (world().simulated() ? 1 : workers)));
}

TEST(Group, ExchangesByteStringsOfDifferentLengths) {
  if (!world().is_worker()) return;
  const int own = world().rank(), workers = world().workers();
  for (const std::size_t unit : sizes) {
    std::vector<Bytes> leaving;
    std::size_t sent = 0, received = 0;
    for (int k = 0; k < workers; ++k) {
      leaving.push_back(message(own, k, unit));
      if (k != own) sent += leaving[k].size();
    }
    world().traffic() = {};
    const auto all = world().group().all_to_all(leaving);
    ASSERT_EQ(all.size(), std::size_t(workers));
    for (int k = 0; k < workers; ++k) {
      EXPECT_TRUE(all[k] == message(k, own, unit)) << "from worker " << k << ", unit " << unit;
      if (k != own) received += all[k].size();
    }
    EXPECT_EQ(world().traffic().bytes_sent, std::int64_t(sent));
    EXPECT_EQ(world().traffic().bytes_received, std::int64_t(received));
    EXPECT_EQ(world().traffic().messages, workers > 1 ? 1 : 0);
    EXPECT_EQ(world().traffic().synchronisations, 1);
  }
}

// In the order of the tree: worker 0 adds the sums of the other branches to that of its own.
TEST(Group, AddsAlongATree) {
  if (!world().is_worker()) return;
  const int own = world().rank(), workers = world().workers();
  for (const int fan : {2, 3, 16})
    for (const std::size_t n : sizes) {
      Vector v(host_space(), n);
      for (std::size_t j = 0; j < n; ++j) v.data()[j] = element(own, j);
      world().group().tree_sum(fan, v);
      std::size_t wrong = 0;
      for (std::size_t j = 0; j < n; ++j) {
        std::vector<float> sums(workers);
        for (int k = 0; k < workers; ++k) sums[k] = element(k, j);
        while (sums.size() > 1) {
          std::vector<float> level;
          for (std::size_t k = 0; k < sums.size(); ++k)
            if (k % std::size_t(fan) == 0)
              level.push_back(sums[k]);
            else
              level.back() += sums[k];
          sums = level;
        }
        wrong += v.data()[j] != sums[0];
      }
      EXPECT_EQ(wrong, 0u) << n << " elements, " << fan << " at a time";
    }
}

// Every worker's model with those of the neighbours, which travel while something else is done.
TEST(Group, MixesWithNeighbours) {
  if (!world().is_worker()) return;
  const int own = world().rank(), workers = world().workers();
  std::vector<int> offsets;
  for (int d = 1; d < workers; d += 2) offsets.push_back(d);
  for (const std::size_t n : sizes) {
    Vector v(host_space(), n), total(host_space(), n);
    for (std::size_t j = 0; j < n; ++j) v.data()[j] = total.data()[j] = element(own, j);
    world().traffic() = {};
    world().group().begin_mix(v, offsets);
    world().charge(0.001);
    world().group().end_mix(v);
    EXPECT_EQ(world().traffic().bytes_sent, std::int64_t(4 * n * offsets.size()));
    EXPECT_EQ(world().traffic().bytes_received, std::int64_t(4 * n * offsets.size()));
    EXPECT_EQ(world().traffic().messages, std::int64_t(offsets.size()));
    EXPECT_EQ(world().traffic().synchronisations, 0);
    std::size_t wrong = 0;
    for (std::size_t j = 0; j < n; ++j) {
      float sum = element(own, j);
      for (const int d : offsets) sum += element((own + d) % workers, j);
      wrong += v.data()[j] != sum * (1.0f / float(1 + offsets.size()));
    }
    EXPECT_EQ(wrong, 0u) << n << " elements";
    // The sum over the workers is what it was.
    Vector mixed(host_space(), n);
    copy(v, mixed);
    world().group().sum(mixed);
    world().group().sum(total);
    for (std::size_t j = 0; j < n; ++j)
      wrong += std::abs(mixed.data()[j] - total.data()[j]) > 0x1p43f * 1e-6f * float(workers);
    EXPECT_EQ(wrong, 0u) << n << " elements";
  }
}

// A server that adds up what arrives.
struct Adder final : Rule {
  void apply(Vec w, const Arrival& a, std::int64_t) override { axpy(a.scale, a.g, w); }
};

struct Ending {  // of the servers, on all ranks
  std::vector<float> w;
  std::int64_t arrivals = 0;  // fewest of all servers
};

// Every worker does `work` with a vector of n floats that the servers hold, zero at the start.
template <typename Work>
Ending with_servers(std::size_t n, Rule& rule, Work work) {
  Ending ending{std::vector<float>(n)};
  std::array<double, 1> arrivals{std::numeric_limits<double>::infinity()};
  world().barrier();
  if (world().is_worker()) {
    ParameterServer& server = world().server(n);
    work(server);
    server.leave();
  } else {
    const ShardRange part = shard_range(n, world().rank() - world().workers(), world().servers());
    Vector w(host_space(), part.count);
    Shard shard({world().workers(), world_minibatch, std::int64_t(1) << 40}, rule, w);
    world().serve(shard);
    std::copy(w.data(), w.data() + part.count, ending.w.begin() + part.first);
    arrivals[0] = double(shard.arrivals());
  }
  world().min(arrivals);
  ending.arrivals = std::int64_t(arrivals[0]);
  for (int s = 0; s < world().servers(); ++s) {
    const ShardRange part = shard_range(n, s, world().servers());
    world().broadcast(ending.w.data() + part.first, part.count * sizeof(float), world().workers() + s);
  }
  return ending;
}

// Only where there are servers.
class Servers : public testing::TestWithParam<std::size_t> {
 public:
  static bool fits(const Shape& shape) { return shape.servers > 0; }
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Servers);
INSTANTIATE_TEST_SUITE_P(Size, Servers,
                         testing::ValuesIn(fits_any(Servers::fits)
                                               ? std::vector<std::size_t>{1, 2, 3, 1000, 100003}
                                               : std::vector<std::size_t>{}),
                         testing::PrintToStringParamName());

// Worker r pushes (r + 1)*(1 + j mod 7) once, twice, ... seven times that: the servers end with 28 times the
// arithmetic series. Every push returns at once, and its buffer is spoilt while the message may still travel.
RANKS_TEST_P(Servers, AddUpTheArithmeticSeries) {
  const std::size_t n = GetParam();
  Adder rule;
  const Ending ending = with_servers(n, rule, [&](ParameterServer& server) {
    Vector w(host_space(), n), g(host_space(), n);
    for (int push = 0; push < 7; ++push) {
      if (push == 0) server.pull(w);
      const Vec made = push % 3 == 2 ? server.place(g) : g.view();
      for (std::size_t j = 0; j < n; ++j) made.data[j] = 4 * float(push + 1) * float(1 + j % 7);
      server.push(0.25f * float(world().rank() + 1), made, world_minibatch);
      fill(NAN, g);
    }
  });
  std::size_t wrong = 0;
  for (std::size_t j = 0; j < n; ++j) wrong += ending.w[j] != float(28 * series() * int(1 + j % 7));
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(ending.arrivals, 7 * world().workers());
}

RANKS_TEST_P(Servers, AddUpWhatTheHostCannotReach) {
  const std::size_t n = GetParam();
  Adder rule;
  std::size_t wrong = 0;
  const Ending ending = with_servers(n, rule, [&](ParameterServer& server) {
    Vector w(test::far_space(), n), g(test::far_space(), n), here(host_space(), n);
    server.pull(w);
    for (std::size_t j = 0; j < n; ++j) here.data()[j] = 4 * float(1 + j % 7);
    copy(here, g);
    server.push(0.25f * float(world().rank() + 1), g, world_minibatch);
    server.pull(w);  // holds at least this push
    copy(w, here);
    for (std::size_t j = 0; j < n; ++j)
      wrong += here.data()[j] < float((world().rank() + 1) * int(1 + j % 7));
  });
  for (std::size_t j = 0; j < n; ++j) wrong += ending.w[j] != float(series() * int(1 + j % 7));
  EXPECT_EQ(wrong, 0u);
}

// Worker r pushes 8^r, at most seven times, so the octal digits of what is pulled say how many pushes of whom
// it holds (exact for 8 workers; others push zeros): all of one's own, never fewer than before, and a
// server's part is of one moment.
RANKS_TEST_P(Servers, PullsAreConsistent) {
  const std::size_t n = GetParam();
  Adder rule;
  int lost = 0, torn = 0, backwards = 0;
  with_servers(n, rule, [&](ParameterServer& server) {
    Vector w(host_space(), n), g(host_space(), n);
    const int shown = std::min(world().workers(), 8);
    fill(world().rank() < shown ? float(1 << 3 * world().rank()) : 0, g);
    std::vector<std::vector<int>> before(world().servers(), std::vector<int>(shown));
    for (int pushes = 0; pushes < 7; ++pushes) {
      server.pull(w);
      for (int s = 0; s < world().servers(); ++s) {
        const ShardRange part = shard_range(n, s, world().servers());
        if (part.count == 0) continue;
        for (std::size_t j = 1; j < part.count; ++j) torn += w.data()[part.first + j] != w.data()[part.first];
        for (int k = 0; k < shown; ++k) {
          const int seen = int(w.data()[part.first]) >> 3 * k & 7;
          lost += k == world().rank() && seen != pushes;
          backwards += seen < before[s][k];
          before[s][k] = seen;
        }
      }
      server.push(1, g, world_minibatch);
    }
  });
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(backwards, 0);
}

// What was pulled stays where it is until more is asked for, whatever the servers do meanwhile.
RANKS_TEST_P(Servers, LeaveWhatWasPulledAlone) {
  const std::size_t n = GetParam();
  Adder rule;
  std::size_t changed = 0, old = 0;
  with_servers(n, rule, [&](ParameterServer& server) {
    Vector room(host_space(), n), g(host_space(), n), w(host_space(), n);
    fill(1, g);
    for (int turn = 0; turn < 5; ++turn) {
      server.begin_pull();
      const ConstVec pulled = server.end_pull(room);
      const std::vector<float> before(pulled.data, pulled.data + n);
      server.push(1, g, world_minibatch);
      world().sleep(1e-3);
      for (std::size_t j = 0; j < n; ++j) changed += pulled.data[j] != before[j];
      server.pull(w);
      for (std::size_t j = 0; j < n; ++j) old += w.data()[j] <= before[j];
    }
  });
  EXPECT_EQ(changed, 0u);
  EXPECT_EQ(old, 0u);
}

// Workers take turns, so the order of arrivals is fixed: the same bits whatever carries them.
RANKS_TEST_P(Servers, ApplyTheBitsThatWerePushed) {
  const std::size_t n = GetParam();
  constexpr int pushes = 3;
  const auto scale_of = [](int turn) { return 1.0f / float(3 + turn); };
  std::vector<float> expected(n);
  for (int turn = 0; turn < pushes * world().workers(); ++turn)
    for (std::size_t j = 0; j < n; ++j) expected[j] += scale_of(turn) * element(turn, j);
  Adder rule;
  const Ending ending = with_servers(n, rule, [&](ParameterServer& server) {
    Vector w(host_space(), n), g(host_space(), n);
    for (int turn = 0; turn < pushes * world().workers(); ++turn) {
      if (turn % world().workers() == world().rank()) {
        for (std::size_t j = 0; j < n; ++j) g.data()[j] = element(turn, j);
        server.push(scale_of(turn), g, 1);
        server.pull(w);  // answered after the push
      }
      world().group().sum(Vector(host_space(), 1));
    }
    server.pull(w);
    EXPECT_EQ(std::vector<float>(w.data(), w.data() + n), expected);
  });
  EXPECT_EQ(ending.w, expected);
}

// Pushes return at once, but overtake a slow server by two at most.
RANKS_TEST_P(Servers, LoseNothingWhenTheyAreSlow) {
  struct Slow final : Rule {
    void apply(Vec w, const Arrival& a, std::int64_t) override {
      world().charge(0.001);
      if (!world().simulated()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      axpy(a.scale, a.g, w);
    }
  } rule;
  const std::size_t n = GetParam();
  const Ending ending = with_servers(n, rule, [&](ParameterServer& server) {
    Vector g(host_space(), n);
    for (int push = 0; push < 6; ++push) {
      fill(float(1 << push), g);
      server.push(1, g, 1);
    }
  });
  EXPECT_EQ(ending.w, std::vector<float>(n, float(63 * world().workers())));
}

// All ones have arrived when the first server says so; one pull later, the vector is the series.
RANKS_TEST_P(Servers, EveryWorkerPullsTheWholeSeries) {
  const std::size_t n = GetParam();
  Adder rule;
  std::size_t wrong = 0;
  with_servers(n, rule, [&](ParameterServer& server) {
    Vector w(host_space(), n), g(host_space(), n);
    fill(float(world().rank() + 1), g);
    server.push(1, g, 1);
    // Servers run at their own pace: every one's part has to be seen complete (or the watchdog ends it).
    const auto complete = [&] {
      for (std::size_t j = 0; j < n; ++j)
        if (w.data()[j] != float(series())) return false;
      return true;
    };
    do server.pull(w);
    while (server.used() < world().workers() || !complete());
    EXPECT_EQ(server.used(), world().workers());
    server.pull(w);
    for (std::size_t j = 0; j < n; ++j) wrong += w.data()[j] != float(series());
  });
  EXPECT_EQ(wrong, 0u);
}

RANKS_TEST_P(Servers, CountHeadersAndFloats) {
  struct Repeating final : Rule {
    void apply(Vec w, const Arrival& a, std::int64_t) override { axpy(a.scale, a.g, w); }
    bool repeats() const override { return true; }
  };
  const std::size_t n = GetParam();
  Repeating rule;
  world().traffic() = {};
  with_servers(n, rule, [&](ParameterServer& server) {
    Vector w(host_space(), n), g(host_space(), n);
    server.pull(w);
    server.push(1, g, 1);
    server.push(1, g, 1);
    server.push_again(1);  // a header alone
    server.pull(w);
    server.pull(w);
  });
  const Traffic& traffic = world().traffic();
  if (world().is_worker()) {
    const Context context{.parameters = n, .workers = world().workers(), .servers = world().servers()};
    const Cost cost = 3 * pull_cost(context) + 2 * push_cost(context);
    EXPECT_EQ(double(traffic.bytes_sent), cost.bytes_sent + 64 * world().servers());
    EXPECT_EQ(double(traffic.messages), cost.messages + world().servers());
    EXPECT_EQ(traffic.messages, 6 * world().servers());
    EXPECT_EQ(traffic.bytes_sent, 6 * 64 * world().servers() + 2 * 4 * std::int64_t(n));
    EXPECT_EQ(traffic.bytes_received, 3 * (64 * world().servers() + 4 * std::int64_t(n)));
    EXPECT_EQ(traffic.synchronisations, 0);
  } else {
    const auto part =
        4 * std::int64_t(shard_range(n, world().rank() - world().workers(), world().servers()).count);
    EXPECT_EQ(traffic.messages, 3 * world().workers());
    EXPECT_EQ(traffic.bytes_sent, 3 * world().workers() * (64 + part));
    EXPECT_GE(traffic.seconds, traffic.waited);
  }
}

RANKS_TEST_P(Servers, LetWorkersLeaveAtOnce) {
  Adder rule;
  const Ending ending = with_servers(GetParam(), rule, [](ParameterServer&) {});
  EXPECT_EQ(ending.arrivals, 0);
  EXPECT_EQ(ending.w, std::vector<float>(GetParam()));
}

// Work is granted with pulls, in portions side by side, and taken in pieces.
RANKS_TEST_P(Servers, GrantPortionsOfTheStream) {
  Adder rule;
  std::vector<std::int64_t> positions;
  with_servers(GetParam(), rule, [&](ParameterServer& server) {
    Vector w(host_space(), GetParam());
    EXPECT_EQ(server.take(4).count, 0);
    for (int pull = 0; pull < 5; ++pull) {
      server.pull(w, 2);
      const auto first = server.take(3), second = server.take(world_minibatch), third = server.take(4),
                 none = server.take(4);
      EXPECT_EQ(first.count, 3);
      EXPECT_EQ(second.position, first.position + 3);
      EXPECT_EQ(second.count, world_minibatch);
      EXPECT_EQ(third.position, second.position + world_minibatch);
      EXPECT_EQ(third.count, 1);
      EXPECT_EQ(none.count, 0);
      positions.push_back(first.position / (2 * world_minibatch));
    }
  });
  // Nobody got what another had: the positions of all workers together are 0, 8, 16, ...
  std::vector<std::int64_t> owners(5 * world().workers());
  for (const std::int64_t at : positions) owners.at(at) += 1;
  world().sum(owners);
  EXPECT_EQ(owners, std::vector<std::int64_t>(owners.size(), 1));
}

}  // namespace
}  // namespace dsgd::test
