// SPDX-License-Identifier: Apache-2.0
// Virtual time has closed forms: latencies and bytes over bandwidth, and what is charged.

#include "simulated/simulation.h"

#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "communicator.h"
#include "server.h"
#include "simulated/all_reduce.h"

namespace dsgd {
namespace {

// Ten hosts: ten times the bandwidth and a tenth of the latency from the sixth on; and one whose ranks sleep
// while they wait.
constexpr double slow_rate = 1e8, slow_latency = 1e-3, fast_rate = 1e9, fast_latency = 1e-4;
constexpr double switch_latency = 2e-3, memory_rate = 4e9, memory_latency = 1e-5, wake = 1e-4;

Simulation& simulation() {
  static Simulation only = [] {
    Platform platform{.backbone_latency = switch_latency,
                      .memory_bandwidth = memory_rate,
                      .memory_latency = memory_latency};
    for (int host = 0; host < 10; ++host)
      platform.hosts.push_back(host < 5 ? Platform::Host{slow_rate, slow_latency, {}}
                                        : Platform::Host{fast_rate, fast_latency, {}});
    platform.hosts.push_back({.bandwidth = slow_rate, .latency = slow_latency, .wake = wake});
    return Simulation(platform);
  }();
  return only;
}

// Runs `work(world)` on ranks on the hosts; returns the seconds that it took on each rank.
template <typename Work>
std::vector<double> seconds_on(const std::vector<int>& hosts, int servers, Work work) {
  std::vector<double> seconds(hosts.size());
  simulation().run(hosts, [&](int rank) {
    const auto world = World::open(servers, 1);
    world->barrier();
    const double start = world->now();
    work(*world);
    seconds[rank] = world->now() - start;
  });
  return seconds;
}

struct Nothing final : Rule {
  void apply(Vec, const Arrival&, std::int64_t) override {}
};
void serve(World& world, std::size_t n, double seconds_an_arrival = 0) {
  Nothing rule;
  Vector w(host_space(), n);
  Shard shard({.workers = world.workers(), .minibatch = 1, .budget = 1 << 20}, rule, w);
  shard.arrived = [&](const Shard&) { world.charge(seconds_an_arrival); };
  world.serve(shard);
}

// Seconds of one pull of n floats, as worker 0 sees them, with another `workers` - 1 who pull nothing.
double pull_seconds(const std::vector<int>& hosts, std::size_t n) {
  double seconds = 0;
  seconds_on(hosts, 1, [&](World& world) {
    if (!world.is_worker()) return serve(world, n);
    ParameterServer& server = world.server(n);
    if (world.rank() == 0) {
      const double start = world.now();
      Vector w(host_space(), n);
      server.pull(w);
      seconds = world.now() - start;
    }
    server.leave();
  });
  return seconds;
}

constexpr std::size_t n = 1 << 20;
constexpr double bytes = 64 + 4.0 * n;

TEST(Clock, IsWhatIsCharged) {
  const auto seconds = seconds_on({0, 1, 2}, 0, [](World& world) { world.charge(0.5 * (world.rank() + 1)); });
  for (int rank = 0; rank < 3; ++rank) EXPECT_NEAR(seconds[rank], 0.5 * (rank + 1), 1e-3) << rank;
}

// Nothing else: neither computing nor asking for the time.
TEST(Clock, StandsWhileRanksCompute) {
  const auto seconds = seconds_on({0}, 0, [](World& world) {
    volatile double x = 1;
    for (int i = 0; i < 10000000; ++i) x = x * 1.0000001;
    for (int i = 0; i < 1000; ++i) world.now();
  });
  EXPECT_EQ(seconds[0], 0);
}

TEST(Messages, TakeLatencyAndBytesOverBandwidth) {
  const double request = 64 / slow_rate, reply = bytes / slow_rate;
  EXPECT_NEAR(pull_seconds({0, 1}, n), 2 * (2 * slow_latency + switch_latency) + request + reply, 1e-6);
  EXPECT_NEAR(pull_seconds({5, 6}, n),
              2 * (2 * fast_latency + switch_latency) + 64 / fast_rate + bytes / fast_rate, 1e-6);
  EXPECT_NEAR(pull_seconds({0, 6}, n), 2 * (slow_latency + fast_latency + switch_latency) + request + reply,
              1e-6);
}

TEST(Messages, WithinAHostGoThroughMemory) {
  const double through = 64 / memory_rate + bytes / memory_rate;
  EXPECT_NEAR(pull_seconds({3, 3}, n), 2 * memory_latency + through, 1e-7);
  EXPECT_NEAR(pull_seconds({10, 10}, n), 2 * (memory_latency + wake) + through, 1e-7);
}

std::vector<int> scattered(int ranks) {
  std::vector<int> hosts;
  for (int rank = 0; rank < ranks; ++rank) hosts.push_back(rank * 7 % 10);
  return hosts;
}

// Ranks that come one after the other to what follows.
void begin_apart(World& world, Mailboxes& mailboxes) {
  mailboxes.open(world.rank());
  world.barrier();
  world.charge(1e-3 * (world.rank() % 5));
}

// The messages of a sum, which carry nothing, and the all-reduce that carries the vectors: as many seconds on
// every rank, also where the ranks come one after the other.
TEST(Messages, OfASumTakeAsLongAsMPIs) {
  const auto compare = [](int ranks, std::size_t floats) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(floats) + " floats");
    const std::vector<int> hosts = scattered(ranks);
    Mailboxes mailboxes;
    const auto seconds = [&](const auto& sum) {
      return seconds_on(hosts, 0, [&](World& world) {
        begin_apart(world, mailboxes);
        sum(world.rank());
      });
    };
    const auto hollow = seconds([&](int rank) { send_all_reduce(floats, rank, ranks, mailboxes); });
    const auto whole = seconds([&](int) {
      std::vector<float> v(floats), sum(floats);
      MPI_Allreduce(v.data(), sum.data(), int(floats), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    });
    for (int rank = 0; rank < ranks; ++rank) EXPECT_NEAR(hollow[rank] / whole[rank], 1, 1e-9) << rank;
  };
  for (const int ranks : {2, 3, 4, 5, 7, 8, 13, 16, 31})
    for (const std::size_t floats : {32, 650, 1500, 3000, 10002, 67780}) compare(ranks, floats);
  compare(64, 32);
  compare(64, 67780);
  compare(3, 10001);
  compare(3, 1000000);
}

// Every rank's own bytes for every other, some none and some too long to travel unasked: as MPI_Alltoallv.
TEST(Messages, OfAllToAllTakeAsLongAsMPIsAndArrive) {
  for (const int ranks : {2, 3, 8, 13}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks");
    const std::vector<int> hosts = scattered(ranks);
    const auto message = [](int from, int to) {
      const std::size_t lengths[] = {0, 1, 60, 3000, 65535, 65536, 200000};
      return Bytes(lengths[(3 * from + 5 * to) % 7], std::byte(16 * from + to));
    };
    Mailboxes mailboxes;
    const auto seconds = [&](const auto& exchange) {
      return seconds_on(hosts, 0, [&](World& world) {
        begin_apart(world, mailboxes);
        exchange(world.rank());
      });
    };
    const auto own = seconds([&](int rank) {
      std::vector<Bytes> sent;
      std::vector<std::int64_t> lengths;
      for (int k = 0; k < ranks; ++k) {
        sent.push_back(message(rank, k));
        lengths.push_back(std::int64_t(message(k, rank).size()));
      }
      const auto received = mailboxes.all_to_all(rank, sent, lengths);
      for (int k = 0; k < ranks; ++k) EXPECT_EQ(received.at(k), message(k, rank)) << k << " to " << rank;
    });
    const auto mpi = seconds([&](int rank) {
      std::vector<int> out, out_first{0}, in, in_first{0};
      for (int k = 0; k < ranks; ++k) {
        out.push_back(int(message(rank, k).size()));
        in.push_back(int(message(k, rank).size()));
        out_first.push_back(out_first.back() + out.back());
        in_first.push_back(in_first.back() + in.back());
      }
      Bytes sent(out_first.back()), received(in_first.back());
      MPI_Alltoallv(sent.data(), out.data(), out_first.data(), MPI_BYTE, received.data(), in.data(),
                    in_first.data(), MPI_BYTE, MPI_COMM_WORLD);
    });
    for (int rank = 0; rank < ranks; ++rank) EXPECT_NEAR(own[rank] / mpi[rank], 1, 1e-9) << rank;
  }
}

// What is unpacked once takes every worker as long as what all unpack.
TEST(Messages, UnpackedOnceTakeAsLongAsOnEveryWorker) {
  for (const int ranks : {1, 2, 3, 5, 8})
    for (const std::size_t length : {0, 1, 1000, 100000}) {
      std::vector<int> hosts;
      for (int rank = 0; rank < ranks; ++rank) hosts.push_back(rank * 7 % 10);
      const auto seconds = [&](bool once) {
        std::vector<double> compressed(ranks);
        auto total = seconds_on(hosts, 0, [&](World& world) {
          Group& group = world.group();
          group.charge_compression(1e-7);
          Vector v(host_space(), 1);
          for (int step = 0; step < 3; ++step) {
            world.charge(1e-3 * (world.rank() % 3));
            const Bytes message(length * (world.rank() + step) / 2);
            if (once) {
              group.all_gather_into(v, message, 1000, [](const auto&) {});
            } else {
              group.all_gather(message);
              group.compress(1000, [] {});
            }
          }
          compressed[world.rank()] = world.traffic().compressed;
        });
        total.insert(total.end(), compressed.begin(), compressed.end());
        return total;
      };
      // The clock goes on from run to run, and rounds the difference of two of its times: to 1e-9.
      const auto one = seconds(true), every = seconds(false);
      for (std::size_t i = 0; i < one.size(); ++i)
        EXPECT_NEAR(one[i], every[i], 1e-9) << ranks << ", " << length;
    }
}

// Four workers pull at a time: the server's link carries four times the bytes.
TEST(Messages, ShareALink) {
  const auto seconds = seconds_on({5, 6, 7, 8, 9}, 1, [](World& world) {
    if (!world.is_worker()) return serve(world, n);
    Vector w(host_space(), n);
    ParameterServer& server = world.server(n);
    server.pull(w);
    server.leave();
  });
  const double ideal = 2 * (2 * fast_latency + switch_latency) + 4 * bytes / fast_rate;
  EXPECT_NEAR(*std::max_element(seconds.begin(), seconds.end()), ideal, 0.01 * ideal);
}

// Large vectors go round a ring: every worker sends 2(P-1)/P of one.
TEST(Sums, TakeWhatTheBestAlgorithmTakes) {
  constexpr int workers = 4;
  const auto seconds = seconds_on({0, 1, 2, 3}, 0, [](World& world) {
    const Vec v = world.group().vector(8 * n);
    const double start = world.now();
    world.group().sum(v);
    EXPECT_DOUBLE_EQ(world.traffic().seconds, world.now() - start);
  });
  const double ideal = 2.0 * (workers - 1) / workers * 4 * 8 * n / slow_rate;
  for (const double s : seconds) {
    EXPECT_GE(s, ideal);
    EXPECT_LE(s, 1.1 * ideal);
  }
}

// Workers meet: all take as long as the slowest.
TEST(Sums, WaitForTheSlowest) {
  const auto seconds = seconds_on({0, 1, 2, 3}, 0, [](World& world) {
    for (int step = 0; step < 10; ++step) {
      world.charge(world.rank() == 2 ? 4 : 1);
      world.group().sum(world.group().vector(1));
    }
  });
  for (const double s : seconds) EXPECT_NEAR(s, 40, 0.2);
}

TEST(Servers, AreBusyWithEveryArrival) {
  constexpr int pushes = 20;
  const auto seconds = seconds_on({5, 6, 7}, 1, [](World& world) {
    if (!world.is_worker()) return serve(world, 16, 0.25);
    Vector w(host_space(), 16);
    ParameterServer& server = world.server(16);
    for (int push = 0; push < pushes; ++push) server.push(1, w, 1);
    server.pull(w);
    server.leave();
  });
  EXPECT_NEAR(*std::max_element(seconds.begin(), seconds.end()), 2 * pushes * 0.25, 0.1);
}

TEST(Runs, RepeatToTheLastBit) {
  const auto once = [] {
    std::vector<std::int64_t> order;
    seconds_on({5, 6, 7, 8, 0}, 2, [&](World& world) {
      if (!world.is_worker()) return serve(world, 1000, 1e-5);
      Vector w(host_space(), 2000);
      ParameterServer& server = world.server(2000);
      for (int step = 0; step < 20; ++step) {
        server.pull(w);
        world.charge(1e-3 * (1 + (world.rank() * 7 + step * 5) % 11));
        server.push(1, w, 1);
        order.push_back(world.rank());
      }
      server.leave();
    });
    return order;
  };
  const auto first = once();
  EXPECT_EQ(first, once());
  EXPECT_EQ(first.size(), 60u);
}

struct Refusing final : Rule {
  void apply(Vec, const Arrival&, std::int64_t) override {}
  bool admit(int, std::int64_t) const override { return false; }
};

TEST(Failures, EndTheProcessWithOneLine) {
  EXPECT_EXIT(seconds_on({0, 1}, 0,
                         [](World& world) {
                           world.barrier();
                           if (world.rank() == 1) throw std::runtime_error("out of luck");
                           world.barrier();
                         }),
              testing::ExitedWithCode(1), "^rank 1: out of luck\n$");
  EXPECT_EXIT(seconds_on({0, 1}, 1,
                         [](World& world) {
                           Vector w(host_space(), 8);
                           Refusing rule;
                           Shard shard({.workers = 1, .minibatch = 1, .budget = 8}, rule, w);
                           if (!world.is_worker()) return world.serve(shard);
                           world.server(8).pull(w);
                         }),
              testing::ExitedWithCode(1), "\ndsgd: all ranks wait for each other for ever\n$");
  EXPECT_EXIT(seconds_on({0, 1}, 0, [](World& world) { world.abort(); }), testing::ExitedWithCode(1), "^$");
}

}  // namespace
}  // namespace dsgd
