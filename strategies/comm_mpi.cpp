#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <stdexcept>
#include <thread>

#include "strategies/communicator.h"
#include "strategies/server.h"
#include "strategies/wire.h"

namespace dsgd {
namespace {

constexpr int request_tag = 1, reply_tag = 2, gather_tag = 3;
constexpr std::size_t at_most = std::size_t(1) << 28;  // elements in one MPI call, whose counts are int

// MPI from the start of a world to its end, also where the world cannot be opened.
class Session {
 public:
  Session() {
    MPI_Init(nullptr, nullptr);
    MPI_Type_contiguous(int(block), MPI_BYTE, &block_type);
    MPI_Type_commit(&block_type);
  }
  Session(const Session&) = delete;
  ~Session() {
    MPI_Type_free(&block_type);
    MPI_Finalize();
  }
  MPI_Datatype block_type;
};

// A header and room for the floats behind it, sent as one message.
class Message {
 public:
  explicit Message(const Session& session, std::size_t floats = 0)
      : session_(&session),
        blocks_(blocks(floats)),
        memory_(host_space(), blocks_ * (block / sizeof(float))) {}
  Header& header() { return *reinterpret_cast<Header*>(memory_.data()); }
  float* payload() { return memory_.data() + block / sizeof(float); }

  void send(int to, int tag, std::size_t floats = 0) {
    MPI_Isend(memory_.data(), blocks(floats), session_->block_type, to, tag, MPI_COMM_WORLD, &request);
  }
  void receive(int from, int tag) {
    MPI_Irecv(memory_.data(), blocks_, session_->block_type, from, tag, MPI_COMM_WORLD, &request);
  }
  void wait() { MPI_Wait(&request, MPI_STATUS_IGNORE); }
  MPI_Request request = MPI_REQUEST_NULL;

 private:
  const Session* session_;
  int blocks_;
  Vector memory_;
};

// Adds the time of its life to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total), start_(MPI_Wtime()) {}
  ~Stopwatch() { total_ += MPI_Wtime() - start_; }

 private:
  double& total_;
  double start_;
};

class MpiGroup final : public Group {
 public:
  MpiGroup(MPI_Comm workers, Traffic& traffic) : comm_(workers), traffic_(traffic) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void sum(Vec v) override {
    ++traffic_.synchronisations;
    if (size_ == 1) return;
    const Stopwatch stopwatch(traffic_.seconds);
    for (std::size_t done = 0; done < v.size; done += at_most)
      MPI_Allreduce(MPI_IN_PLACE, v.data + done, int(std::min(at_most, v.size - done)), MPI_FLOAT, MPI_SUM,
                    comm_);
    const auto volume = std::int64_t(2 * sizeof(float) * v.size * (size_ - 1) / size_);
    traffic_.bytes_sent += volume;
    traffic_.bytes_received += volume;
    ++traffic_.messages;
  }

 private:
  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  Traffic& traffic_;
};

class MpiParameterServer final : public ParameterServer {
 public:
  MpiParameterServer(const Session& session, int worker, int workers, int servers, int minibatch,
                     std::size_t n, Traffic& traffic)
      : worker_(worker), workers_(workers), minibatch_(minibatch), traffic_(traffic) {
    for (int s = 0; s < servers; ++s) {
      const auto range = shard_range(n, s, servers);
      links_.push_back({range,
                        Message(session),
                        Message(session, range.count),
                        {Message(session, range.count), Message(session, range.count)}});
    }
  }

  void begin_pull(int minibatches) override {
    const Stopwatch stopwatch(traffic_.seconds);
    for (int s = 0; s < int(links_.size()); ++s) {
      Link& link = links_[s];
      link.reply.receive(workers_ + s, reply_tag);
      link.request.wait();
      link.request.header() = {
          .kind = Kind::pull, .worker = worker_, .samples = std::int64_t(minibatches) * minibatch_};
      post(link.request, s, 0);
    }
  }

  void end_pull(Vec w) override {
    const Stopwatch stopwatch(traffic_.seconds);
    for (Link& link : links_) {
      {
        const Stopwatch waiting(traffic_.waited);
        link.reply.wait();
      }
      std::memcpy(w.data + link.range.first, link.reply.payload(), link.range.count * sizeof(float));
      link.version = link.reply.header().version;
      traffic_.bytes_received += std::int64_t(sizeof(Header) + link.range.count * sizeof(float));
    }
    const Header& first = links_.front().reply.header();  // the first server keeps the budget
    used_ = first.used;
    if (first.samples > 0) granted_.push_back({first.position, first.samples});
  }

  void push(float a, ConstVec g, std::int64_t samples) override {
    const Stopwatch stopwatch(traffic_.seconds);
    for (int s = 0; s < int(links_.size()); ++s) {
      Link& link = links_[s];
      Message& message = link.push[link.next];
      link.next ^= 1;
      message.wait();
      message.header() = {.kind = Kind::push, .worker = worker_, .version = link.version, .samples = samples};
      const float* from = g.data + link.range.first;
      for (std::size_t i = 0; i < link.range.count; ++i) message.payload()[i] = a * from[i];
      post(message, s, link.range.count);
    }
  }

  std::int64_t used() const override { return used_; }

  Portion take(int count) override {
    if (granted_.empty()) return {};
    Granted& work = granted_.front();
    const Portion taken{work.position, int(std::min<std::int64_t>(count, work.count))};
    work.position += taken.count;
    work.count -= taken.count;
    if (work.count == 0) granted_.pop_front();
    return taken;
  }

  void leave() override {
    for (int s = 0; s < int(links_.size()); ++s) {
      Link& link = links_[s];
      link.request.wait();
      link.request.header() = {.kind = Kind::leave, .worker = worker_};
      link.request.send(workers_ + s, request_tag, 0);  // the runtime's, not the strategy's traffic
      link.request.wait();
      for (Message& message : link.push) message.wait();
    }
  }

 private:
  struct Link {  // to one server
    ShardRange range;
    Message request, reply;
    Message push[2];  // one is filled while the other travels
    int next = 0;
    std::int64_t version = 0;
  };
  struct Granted {
    std::int64_t position, count;
  };
  void post(Message& message, int s, std::size_t floats) {
    message.send(workers_ + s, request_tag, floats);
    traffic_.bytes_sent += std::int64_t(sizeof(Header) + floats * sizeof(float));
    ++traffic_.messages;
  }

  int worker_, workers_, minibatch_;
  Traffic& traffic_;
  std::vector<Link> links_;
  std::deque<Granted> granted_;
  std::int64_t used_ = 0;
};

class MpiWorld final : public World {
 public:
  MpiWorld(int servers, int minibatch) : minibatch_(minibatch) {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    workers_ = size_ - servers;
    if (workers_ < 1)
      throw std::runtime_error(
          fmt::format("{} MPI ranks for {} servers and at least 1 worker", size_, servers));
    MPI_Comm_split(MPI_COMM_WORLD, is_worker() ? 0 : 1, rank_, &role_);
    MPI_Comm host;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host);
    int neighbours = 0;
    MPI_Comm_size(host, &neighbours);
    MPI_Comm_free(&host);
    crowded_ = neighbours > int(std::thread::hardware_concurrency());
    group_.emplace(role_, traffic_);
  }
  ~MpiWorld() override { MPI_Comm_free(&role_); }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int workers() const override { return workers_; }
  double now() const override { return MPI_Wtime(); }
  Group& group() override { return *group_; }
  ParameterServer& server(std::size_t n) override {
    server_.emplace(session_, rank_, workers_, servers(), minibatch_, n, traffic_);
    return *server_;
  }

  void serve(Shard& shard) override {
    const std::size_t n = shard.w().size;
    Message incoming(session_, n);
    std::vector<Message> replies;
    for (int k = 0; k < workers_; ++k) replies.emplace_back(session_, n);
    std::vector<std::int64_t> held(workers_, 0);  // samples wanted by a pull that the rule holds back
    const auto answer = [&](int worker) {
      const auto reply = shard.pull(worker, held[worker]);
      if (!reply) return;
      held[worker] = 0;
      Message& message = replies[worker];
      message.wait();
      message.header() = {.kind = Kind::pull,
                          .version = reply->version,
                          .used = reply->used,
                          .samples = reply->granted,
                          .position = reply->position};
      std::memcpy(message.payload(), shard.w().data, n * sizeof(float));
      message.send(worker, reply_tag, n);
      traffic_.bytes_sent += std::int64_t(sizeof(Header) + n * sizeof(float));
      ++traffic_.messages;
    };

    for (int present = workers_; present > 0;) {
      incoming.receive(MPI_ANY_SOURCE, request_tag);
      {
        const Stopwatch waiting(traffic_.waited);
        wait_for_work(incoming.request);
      }
      const Stopwatch stopwatch(traffic_.seconds);
      const Header header = incoming.header();
      traffic_.bytes_received +=
          std::int64_t(sizeof(Header) + (header.kind == Kind::push ? n * sizeof(float) : 0));
      switch (header.kind) {
        case Kind::push:
          shard.push(header.worker, header.version, header.samples, {incoming.payload(), n, shard.w().space});
          for (int k = 0; k < workers_; ++k)
            if (held[k]) answer(k);
          break;
        case Kind::pull:
          held[header.worker] = header.samples;
          answer(header.worker);
          break;
        case Kind::leave:
          --present;
          break;
      }
    }
    traffic_.seconds += traffic_.waited;
    for (Message& message : replies) message.wait();
  }

  Traffic& traffic() override { return traffic_; }
  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }
  void broadcast(void* data, std::size_t bytes, int root) override {
    for (std::size_t done = 0; done < bytes; done += at_most)
      MPI_Bcast(static_cast<char*>(data) + done, int(std::min(at_most, bytes - done)), MPI_BYTE, root,
                MPI_COMM_WORLD);
  }
  void sum(std::span<std::int64_t> v) override { reduce(v.data(), v.size(), MPI_INT64_T, MPI_SUM); }
  void sum(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_SUM); }
  void min(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_MIN); }
  void max(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_MAX); }

  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> data) override {
    std::vector<std::int64_t> sizes(size_);
    const auto own = std::int64_t(data.size());
    MPI_Gather(&own, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
    std::vector<std::vector<std::byte>> all;
    if (rank_ > 0) {
      for (std::size_t done = 0; done < data.size(); done += at_most)
        MPI_Send(data.data() + done, int(std::min(at_most, data.size() - done)), MPI_BYTE, 0, gather_tag,
                 MPI_COMM_WORLD);
      return all;
    }
    all.emplace_back(data.begin(), data.end());
    for (int r = 1; r < size_; ++r) {
      auto& part = all.emplace_back(sizes[r]);
      for (std::size_t done = 0; done < part.size(); done += at_most)
        MPI_Recv(part.data() + done, int(std::min(at_most, part.size() - done)), MPI_BYTE, r, gather_tag,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    return all;
  }

  std::string library() const override {
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(text, &length);
    const std::string whole(text, length);
    return whole.substr(0, whole.find_first_of(",\n"));
  }
  void abort() override {
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::abort();
  }

 private:
  static void reduce(void* data, std::size_t count, MPI_Datatype type, MPI_Op op) {
    MPI_Allreduce(MPI_IN_PLACE, data, int(count), type, op, MPI_COMM_WORLD);
  }

  // Spinning for work would take a core from a worker where ranks outnumber cores; a nap of about 100 us
  // costs less than MPI_Wait's busy loop takes from the others.
  void wait_for_work(MPI_Request& request) {
    if (!crowded_) {
      MPI_Wait(&request, MPI_STATUS_IGNORE);
      return;
    }
    for (int arrived = 0;;) {
      MPI_Test(&request, &arrived, MPI_STATUS_IGNORE);
      if (arrived) return;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  Session session_;
  int rank_ = 0, size_ = 1, workers_ = 1, minibatch_;
  bool crowded_ = false;
  MPI_Comm role_ = MPI_COMM_NULL;
  Traffic traffic_;
  std::optional<MpiGroup> group_;
  std::optional<MpiParameterServer> server_;
};

}  // namespace

std::unique_ptr<World> World::open(int servers, int minibatch) {
  return std::make_unique<MpiWorld>(servers, minibatch);
}

}  // namespace dsgd
