// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "mpi/group.h"
#include "mpi/pairs.h"
#include "mpi/parameter_server.h"
#include "mpi/service.h"

namespace dsgd {
namespace {

// MPI from the first world of the process to its end.
class Session {
 public:
  Session() {
    int running = 0;
    MPI_Initialized(&running);
    first_ = !running;
    if (first_) MPI_Init(nullptr, nullptr);
  }
  ~Session() {
    if (first_) MPI_Finalize();
  }

 private:
  bool first_;
};

class MpiWorld final : public World {
 public:
  MpiWorld(int servers, int minibatch, int ranks_per_host)
      : ranks_(ranks_per_host), workers_(ranks_.size - servers), minibatch_(minibatch) {
    if (workers_ < 1)
      throw std::runtime_error(
          fmt::format("{} MPI ranks for {} servers and at least 1 worker", ranks_.size, servers));
    // A split waits for all ranks one by one.
    const MPI_Comm equals = servers ? split(ranks_.comm, is_worker()) : duplicate(ranks_.comm);
    if (is_worker())
      group_.emplace(ranks_, equals, traffic_);
    else
      shards_.emplace(ranks_, equals, traffic_);
  }
  int rank() const override { return ranks_.rank; }
  int size() const override { return ranks_.size; }
  int workers() const override { return workers_; }
  double now() const override { return clock_now(); }
  void charge(double seconds) override { advance_clock(seconds); }
  void sleep(double seconds) override {
    if (ranks_are_processes)
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    else
      advance_clock(seconds);
  }
  bool simulated() const override { return !ranks_are_processes; }
  Group& group() override { return *group_; }
  ParameterServer& server(std::size_t n) override {
    server_.emplace(ranks_, workers_, minibatch_, n, traffic_);
    return *server_;
  }
  Shards& shards() override { return *shards_; }
  void serve(Shard& shard) override { Service(ranks_, workers_, shard, traffic_).run(); }

  Pairs& pairs(Vec x, std::int64_t budget, const std::vector<Request>* replayed) override {
    pairs_.emplace(ranks_, workers_, minibatch_, x, budget, replayed, traffic_);
    return *pairs_;
  }

  Traffic& traffic() override { return traffic_; }
  // Whoever is early leaves the core to those who still work.
  void barrier() override {
    if (!ranks_.spin.crowded) {
      MPI_Barrier(ranks_.comm);
      return;
    }
    MPI_Request all;
    MPI_Ibarrier(ranks_.comm, &all);
    ranks_.wait(all, false);
  }
  void broadcast(void* data, std::size_t bytes, int root) override {
    for (std::size_t done = 0; done < bytes; done += at_most)
      MPI_Bcast(static_cast<char*>(data) + done, int(std::min(at_most, bytes - done)), MPI_BYTE, root,
                ranks_.comm);
  }
  void sum(std::span<std::int64_t> v) override { reduce(v.data(), v.size(), MPI_INT64_T, MPI_SUM); }
  void sum(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_SUM); }
  void min(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_MIN); }
  void max(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_MAX); }

  std::vector<Bytes> gather(std::span<const std::byte> data) override { return dsgd::gather(ranks_, data); }

  void abort() override {
    if (ranks_are_processes) MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }

 private:
  void reduce(void* data, std::size_t count, MPI_Datatype type, MPI_Op op) const {
    if (count == 0) return;  // SimGrid 3.32 would divide by it
    MPI_Allreduce(MPI_IN_PLACE, data, int(count), type, op, ranks_.comm);
  }

  Session session_;
  Ranks ranks_;
  int workers_, minibatch_;
  Traffic traffic_;
  std::optional<MpiGroup> group_;
  std::optional<MpiParameterServer> server_;
  std::optional<MpiPairs> pairs_;
  std::optional<MpiShards> shards_;
};

}  // namespace

std::unique_ptr<World> World::open(int servers, int minibatch, int ranks_per_host) {
  return std::make_unique<MpiWorld>(servers, minibatch, ranks_per_host);
}

std::string World::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, length);
  return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace dsgd
