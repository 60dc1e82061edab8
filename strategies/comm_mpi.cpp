#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

#include "strategies/communicator.h"
#include "strategies/server.h"
#include "strategies/shared_memory.h"
#include "strategies/wire.h"

namespace dsgd {
namespace {

constexpr int request_tag = 1, reply_tag = 2, gather_tag = 3, idle_tag = 4;
constexpr std::size_t at_most = std::size_t(1) << 28;  // elements in one MPI call, whose counts are int

// Whether ranks of one host can share memory and wait for each other by reading it. SimGrid's are threads of
// one process, whose clock advances in MPI calls alone.
#ifdef SMPI_H
constexpr bool ranks_are_processes = false;
#else
constexpr bool ranks_are_processes = true;
#endif

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

class Comm {
 public:
  explicit Comm(MPI_Comm comm) : comm_(comm) {}
  Comm(const Comm&) = delete;
  ~Comm() {
    if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
  }
  operator MPI_Comm() const { return comm_; }
  int rank() const {
    int r = 0;
    MPI_Comm_rank(comm_, &r);
    return r;
  }
  int size() const {
    int s = 0;
    MPI_Comm_size(comm_, &s);
    return s;
  }

 private:
  MPI_Comm comm_;
};

MPI_Comm duplicate(MPI_Comm of) {
  MPI_Comm comm;
  MPI_Comm_dup(of, &comm);
  return comm;
}

// The ranks of the same colour, in their order; none with colour MPI_UNDEFINED.
MPI_Comm split(MPI_Comm of, int colour) {
  MPI_Comm comm;
  MPI_Comm_split(of, colour, 0, &comm);
  return comm;
}

template <typename T>
T agree(T value, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, type, op, comm);
  return value;
}

// What every rank shows the others of its host.
struct alignas(block) Place {
  Bell bell;                   // rung when a message is on its way
  std::uint32_t meetings = 0;  // of the host's workers that it has come to
  std::uint32_t secret = 0;
};

// Where all ranks of a world meet.
class Ranks {
 public:
  explicit Ranks(int ranks_per_host) : comm(duplicate(MPI_COMM_WORLD)), rank(comm.rank()), size(comm.size()) {
    MPI_Type_contiguous(int(block), MPI_BYTE, &block_type);
    MPI_Type_commit(&block_type);
    MPI_Comm neighbours;
    MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours);
    const Comm machine(neighbours);
    patience.crowded = ranks_are_processes && machine.size() > int(std::thread::hardware_concurrency());
    const Comm own(split(machine, ranks_per_host ? rank / ranks_per_host : 0));
    const int first = agree(rank, MPI_INT, MPI_MIN, own);
    hosts_.resize(size);
    hosts_[rank] = share_places(own) ? first : rank;
    MPI_Allgather(MPI_IN_PLACE, 0, MPI_INT, hosts_.data(), 1, MPI_INT, comm);
  }
  Ranks(const Ranks&) = delete;
  ~Ranks() { MPI_Type_free(&block_type); }

  int host() const { return hosts_[rank]; }  // the first rank that this one shares memory with
  bool shares_with(int other) const { return other != rank && hosts_[other] == host(); }
  Place& place(int of) const { return reinterpret_cast<Place*>(places_.data())[of]; }

  void send(const void* data, int blocks, int to, int tag, MPI_Request& request) const {
    MPI_Isend(data, blocks, block_type, to, tag, comm, &request);
    if (patience.crowded && shares_with(to)) place(to).bell.ring();
  }
  // Where ranks outnumber cores, MPI_Wait's busy loop takes a core from those who work. `rings`: so does who
  // will send the message. Otherwise a nap of about 100 us between two looks costs them less.
  void wait(MPI_Request& request, bool rings) const {
    if (!patience.crowded) {
      MPI_Wait(&request, MPI_STATUS_IGNORE);
      return;
    }
    for (;;) {
      const std::uint32_t seen = rings ? place(rank).bell.rings() : 0;
      int arrived = 0;
      MPI_Test(&request, &arrived, MPI_STATUS_IGNORE);
      if (arrived) return;
      if (rings) {
        place(rank).bell.sleep(seen, 10000);
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }

  const Comm comm;
  const int rank, size;
  MPI_Datatype block_type;
  // For ranks that share memory. Whoever waits lets MPI send what it still has in hand.
  Patience patience{false, [this] {
                      int arrived = 0;
                      MPI_Iprobe(MPI_ANY_SOURCE, idle_tag, comm, &arrived, MPI_STATUS_IGNORE);
                    }};

 private:
  // Whether all of `own` see what the first one writes.
  bool share_places(const Comm& own) {
    if (!ranks_are_processes || own.size() == 1) return false;
    struct {
      SharedMemory::Handle handle;
      std::uint32_t secret = 0;
    } offer;
    bool works = true;
    const auto attempt = [&](bool here, auto map) {
      try {
        if (here) places_ = map();
      } catch (const std::runtime_error&) {
        works = false;
      }
    };
    const bool first = own.rank() == 0;
    attempt(first, [&] { return SharedMemory(size * sizeof(Place)); });
    offer.handle = places_.handle();
    offer.secret = std::random_device()();
    if (first && works) place(0).secret = offer.secret;
    MPI_Bcast(&offer, sizeof offer, MPI_BYTE, 0, own);
    attempt(!first, [&] { return SharedMemory(offer.handle); });
    works = works && place(0).secret == offer.secret;
    return agree(int(works), MPI_INT, MPI_MIN, own);
  }

  std::vector<int> hosts_;  // of every rank
  SharedMemory places_;
};

// A header and room for the floats behind it, sent as one message.
class Message {
 public:
  explicit Message(const Ranks& ranks, std::size_t floats = 0)
      : ranks_(&ranks), blocks_(blocks(floats)), memory_(host_space(), blocks_ * (block / sizeof(float))) {}
  Header& header() { return *reinterpret_cast<Header*>(memory_.data()); }
  float* payload() { return memory_.data() + block / sizeof(float); }

  void send(int to, int tag, std::size_t floats = 0) {
    ranks_->send(memory_.data(), blocks(floats), to, tag, request);
  }
  void receive(int from, int tag) {
    MPI_Irecv(memory_.data(), blocks_, ranks_->block_type, from, tag, ranks_->comm, &request);
  }
  void wait() { MPI_Wait(&request, MPI_STATUS_IGNORE); }
  MPI_Request request = MPI_REQUEST_NULL;

 private:
  const Ranks* ranks_;
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

// Sums in memory that the workers of a host share, and through MPI between hosts. The vector is cut into as
// many slices as the host with the fewest workers has; the k-th worker of every host adds up the k-th slice
// of the host's copies in rank order, sums it with its peers on the other hosts, and writes it into all
// copies. Vectors that are not shared pass through shared ones in portions.
class MpiGroup final : public Group {
 public:
  MpiGroup(const Ranks& ranks, MPI_Comm workers, Traffic& traffic)
      : comm_(workers),
        ranks_(ranks),
        host_(split(comm_, ranks.host())),
        rank_(comm_.rank()),
        size_(comm_.size()),
        neighbour_(host_.rank()),
        neighbours_(host_.size()),
        slices_(agree(neighbours_, MPI_INT, MPI_MIN, comm_)),
        shared_(agree(neighbours_, MPI_INT, MPI_MAX, comm_) > 1),
        peers_(split(comm_, neighbour_ < slices_ ? neighbour_ : MPI_UNDEFINED)),
        hosts_(neighbour_ < slices_ ? peers_.size() : 0),
        traffic_(traffic) {
    members_.resize(neighbours_);
    MPI_Allgather(&ranks.rank, 1, MPI_INT, members_.data(), 1, MPI_INT, host_);
    if (shared_) portions_ = share(portion);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Vec vector(std::size_t n) override {
    if (shared_) {
      vectors_.push_back({share(n), n});
      return {vectors_.back().copies[neighbour_], n, &host_space()};
    }
    return private_.emplace_back(host_space(), n);
  }

 private:
  static constexpr std::size_t portion = 1 << 16, cached = 1 << 12;  // floats

  struct Shared {
    std::vector<float*> copies;  // of every worker of this host
    std::size_t n;
  };

  // Collective: n zeros on every worker; where those of this host are.
  std::vector<float*> share(std::size_t n) {
    SharedMemory own(n * sizeof(float));
    std::vector<SharedMemory::Handle> handles(neighbours_, own.handle());
    MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, handles.data(), sizeof handles[0], MPI_BYTE, host_);
    std::vector<float*> copies;
    for (int k = 0; k < neighbours_; ++k) {
      memory_.push_back(k == neighbour_ ? std::move(own) : SharedMemory(handles[k]));
      copies.push_back(reinterpret_cast<float*>(memory_.back().data()));
    }
    MPI_Barrier(host_);  // all have found what they map
    return copies;
  }

  void reduce(float a, Vec v) override {
    ++traffic_.synchronisations;
    if (size_ == 1) return;
    const Stopwatch stopwatch(traffic_.seconds);
    const auto holds = [&](const Shared& s) {
      return v.data >= s.copies[neighbour_] && v.data + v.size <= s.copies[neighbour_] + s.n;
    };
    const auto in = std::find_if(vectors_.begin(), vectors_.end(), holds);
    if (in != vectors_.end()) {
      in_place(a, in->copies, v.data - in->copies[neighbour_], v.size);
    } else if (!shared_) {
      alone_[0] = v.data;
      in_place(a, alone_, 0, v.size);
    } else {
      for (std::size_t done = 0; done < v.size; done += portion) {
        const Vec from = v.part(done, std::min(portion, v.size - done));
        const Vec staged{portions_[neighbour_], from.size, v.space};
        copy(from, staged);
        in_place(a, portions_, 0, from.size);
        copy(staged, from);
      }
    }
    const auto volume = std::int64_t(2 * sizeof(float) * v.size * (size_ - 1) / size_);
    traffic_.bytes_sent += volume;
    traffic_.bytes_received += volume;
    ++traffic_.messages;
  }

  // Elements [first, first + n) of all copies.
  void in_place(float a, const std::vector<float*>& copies, std::size_t first, std::size_t n) {
    meet();
    const auto bound = [&](int slice) { return slice == slices_ ? n : n * slice / slices_ / 16 * 16; };
    if (neighbour_ < slices_) {
      const std::size_t begin = bound(neighbour_), end = bound(neighbour_ + 1);
      const auto part = [&](int k, std::size_t at, std::size_t count) {
        return Vec{copies[k] + first + at, count, &host_space()};
      };
      const auto spread = [&](std::size_t at, std::size_t count) {
        if (a != 1) scale(a, part(0, at, count));
        for (int k = 1; k < neighbours_; ++k) copy(part(0, at, count), part(k, at, count));
      };
      for (std::size_t at = begin; at < end; at += cached) {
        const std::size_t count = std::min(cached, end - at);
        for (int k = 1; k < neighbours_; ++k) axpy(1, part(k, at, count), part(0, at, count));
        if (hosts_ == 1) spread(at, count);
      }
      for (std::size_t at = begin; at < end && hosts_ > 1; at += at_most) {
        const std::size_t count = std::min(at_most, end - at);
        MPI_Allreduce(MPI_IN_PLACE, part(0, at, count).data, int(count), MPI_FLOAT, MPI_SUM, peers_);
        spread(at, count);
      }
    }
    meet();
  }

  // Returns when all workers of this host have called it.
  void meet() {
    if (neighbours_ == 1) return;
    ++met_;
    const auto meetings = [&](int rank) { return std::atomic_ref(ranks_.place(rank).meetings); };
    meetings(ranks_.rank).store(met_, std::memory_order_release);
    for (const int k : members_)
      ranks_.patience.wait(
          [&] { return std::int32_t(meetings(k).load(std::memory_order_acquire) - met_) >= 0; });
  }

  const Comm comm_;
  const Ranks& ranks_;
  const Comm host_;
  const int rank_, size_, neighbour_, neighbours_;  // in comm_ and host_
  const int slices_;
  const bool shared_;  // by some workers
  const Comm peers_;   // those with the same slice on all hosts
  const int hosts_;
  Traffic& traffic_;
  std::deque<SharedMemory> memory_;
  std::deque<Vector> private_;
  std::vector<Shared> vectors_;
  std::vector<float*> portions_, alone_{nullptr};
  std::vector<int> members_;  // of host_, as ranks of the world
  std::uint32_t met_ = 0;
};

class MpiParameterServer final : public ParameterServer {
 public:
  MpiParameterServer(const Ranks& ranks, int workers, int minibatch, std::size_t n, Traffic& traffic)
      : ranks_(ranks), minibatch_(minibatch), traffic_(traffic) {
    const int servers = ranks.size - workers;
    std::size_t bytes = 0;
    for (int s = 0; s < servers; ++s) {
      const auto range = shard_range(n, s, servers);
      const bool shared = ranks.shares_with(workers + s);
      const std::size_t floats = shared ? 0 : range.count;  // in messages
      links_.push_back({.server = workers + s,
                        .range = range,
                        .offset = bytes,
                        .request = Message(ranks),
                        .reply = Message(ranks, floats),
                        .push = {Message(ranks, floats), Message(ranks, floats)}});
      if (shared) bytes += Slots::size(range.count);
    }
    if (bytes == 0) return;
    memory_ = SharedMemory(bytes);
    for (Link& link : links_) {
      if (!ranks.shares_with(link.server)) continue;
      link.slots = Slots(memory_.data() + link.offset, link.range.count);
      link.request.header() = {.kind = Kind::attach,
                               .worker = ranks.rank,
                               .position = std::int64_t(link.offset),
                               .memory = memory_.handle()};
      link.request.send(link.server, request_tag);
    }
  }

  void begin_pull(int minibatches) override {
    const Stopwatch stopwatch(traffic_.seconds);
    for (Link& link : links_) {
      link.reply.receive(link.server, reply_tag);
      link.request.wait();
      link.request.header() = {.kind = Kind::pull,
                               .worker = ranks_.rank,
                               .samples = std::int64_t(minibatches) * minibatch_,
                               .position = link.slots ? link.slots.for_pull() : 0};
      link.request.send(link.server, request_tag);
      count(0);
    }
  }

  void end_pull(Vec w) override {
    const Stopwatch stopwatch(traffic_.seconds);
    for (Link& link : links_) {
      {
        const Stopwatch waiting(traffic_.waited);
        if (link.slots) {
          ranks_.wait(link.reply.request, true);
        } else {
          link.reply.wait();
        }
      }
      const Vec part = w.part(link.range.first, link.range.count);
      if (link.slots) {
        link.slots.read_pulled(part.data, part.size, ranks_.patience);
      } else {
        copy({link.reply.payload(), part.size, part.space}, part);
      }
      link.version = link.reply.header().version;
      traffic_.bytes_received += std::int64_t(sizeof(Header) + link.range.count * sizeof(float));
    }
    const Header& first = links_.front().reply.header();  // the first server keeps the budget
    used_ = first.used;
    if (first.samples > 0) granted_.push_back({first.position, first.samples});
  }

  void push(float a, ConstVec g, std::int64_t samples) override {
    const Stopwatch stopwatch(traffic_.seconds);
    for (Link& link : links_) {
      const std::size_t n = link.range.count;
      const int which = link.slots ? link.slots.for_push(ranks_.patience) : link.next;
      Message& message = link.push[which];
      message.wait();
      message.header() = {.kind = Kind::push,
                          .worker = ranks_.rank,
                          .version = link.version,
                          .samples = samples,
                          .position = which};
      const float* from = g.data + link.range.first;
      float* to = link.slots ? link.slots[which].data() : message.payload();
      for (std::size_t i = 0; i < n; ++i) to[i] = a * from[i];
      if (link.slots) link.slots[which].filled(n);
      message.send(link.server, request_tag, link.slots ? 0 : n);
      count(n);
      link.next = 1 - which;
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
    for (Link& link : links_) {
      link.request.wait();
      link.request.header() = {.kind = Kind::leave, .worker = ranks_.rank};
      link.request.send(link.server, request_tag);  // the runtime's, not the strategy's traffic
      link.request.wait();
      for (Message& message : link.push) message.wait();
    }
  }

 private:
  struct Link {  // to one server
    int server;
    ShardRange range;
    std::size_t offset;  // of its slots
    Message request, reply;
    Message push[2];  // one is filled while the other travels
    Slots slots;      // none: the server is on another host, and the messages carry the floats
    int next = 0;     // of `push`, without slots
    std::int64_t version = 0;
  };
  struct Granted {
    std::int64_t position, count;
  };
  void count(std::size_t floats) {
    traffic_.bytes_sent += std::int64_t(sizeof(Header) + floats * sizeof(float));
    ++traffic_.messages;
  }

  const Ranks& ranks_;
  int minibatch_;
  Traffic& traffic_;
  SharedMemory memory_;
  std::vector<Link> links_;
  std::deque<Granted> granted_;
  std::int64_t used_ = 0;
};

// A server's side of the same.
class Service {
 public:
  Service(const Ranks& ranks, int workers, Shard& shard, Traffic& traffic)
      : ranks_(ranks), shard_(shard), traffic_(traffic), present_(workers), incoming_(ranks) {
    for (int k = 0; k < workers; ++k) {
      const bool shared = ranks.shares_with(k);
      clients_.push_back({.reply = Message(ranks, shared ? 0 : size())});
      if (!shared) incoming_ = Message(ranks, size());
      all_ring_ = all_ring_ && shared;
    }
  }

  void run() {
    while (present_ > 0) {
      incoming_.receive(MPI_ANY_SOURCE, request_tag);
      {
        const Stopwatch waiting(traffic_.waited);
        ranks_.wait(incoming_.request, all_ring_);
      }
      const Stopwatch stopwatch(traffic_.seconds);
      serve(incoming_.header());
    }
    traffic_.seconds += traffic_.waited;
    for (Client& client : clients_) client.reply.wait();
  }

 private:
  struct Client {
    Message reply;
    SharedMemory memory;
    Slots slots;
    std::int64_t reply_slot = 0;
    std::int64_t held = 0;  // samples wanted by a pull that the rule holds back
  };
  std::size_t size() const { return shard_.w().size; }

  void serve(const Header& header) {
    Client& client = clients_[header.worker];
    switch (header.kind) {
      case Kind::attach:
        client.memory = SharedMemory(header.memory);
        client.slots = Slots(client.memory.data() + header.position, size());
        break;
      case Kind::push:
        traffic_.bytes_received += std::int64_t(sizeof(Header) + size() * sizeof(float));
        push(client, header);
        for (int k = 0; k < int(clients_.size()); ++k)
          if (clients_[k].held) answer(k);
        break;
      case Kind::pull:
        traffic_.bytes_received += std::int64_t(sizeof(Header));
        client.held = header.samples;
        client.reply_slot = header.position;
        answer(header.worker);
        break;
      case Kind::leave:
        --present_;
        break;
    }
  }

  void push(Client& client, const Header& header) {
    if (!client.slots) {
      shard_.push(header.worker, header.version, header.samples,
                  {incoming_.payload(), size(), shard_.w().space});
      return;
    }
    Slot& slot = client.slots[header.position];
    slot.await(size(), ranks_.patience);
    shard_.push(header.worker, header.version, header.samples, {slot.data(), size(), shard_.w().space});
    slot.emptied();
  }

  void answer(int worker) {
    Client& client = clients_[worker];
    const auto reply = shard_.pull(worker, client.held);
    if (!reply) return;
    client.held = 0;
    Message& message = client.reply;
    message.wait();
    message.header() = {.kind = Kind::pull,
                        .version = reply->version,
                        .used = reply->used,
                        .samples = reply->granted,
                        .position = reply->position};
    if (client.slots) {
      Slot& slot = client.slots[client.reply_slot];
      if (!ranks_.patience.crowded) message.send(worker, reply_tag);  // both go through the slot at a time
      slot.write(shard_.w().data, size());
      if (ranks_.patience.crowded) message.send(worker, reply_tag);
    } else {
      copy(shard_.w(), {message.payload(), size(), shard_.w().space});
      message.send(worker, reply_tag, size());
    }
    traffic_.bytes_sent += std::int64_t(sizeof(Header) + size() * sizeof(float));
    ++traffic_.messages;
  }

  const Ranks& ranks_;
  Shard& shard_;
  Traffic& traffic_;
  int present_;
  bool all_ring_ = true;
  std::vector<Client> clients_;
  Message incoming_;
};

class MpiWorld final : public World {
 public:
  MpiWorld(int servers, int minibatch, int ranks_per_host)
      : ranks_(ranks_per_host), workers_(ranks_.size - servers), minibatch_(minibatch) {
    if (workers_ < 1)
      throw std::runtime_error(
          fmt::format("{} MPI ranks for {} servers and at least 1 worker", ranks_.size, servers));
    const MPI_Comm group = split(ranks_.comm, is_worker() ? 0 : MPI_UNDEFINED);
    if (is_worker()) group_.emplace(ranks_, group, traffic_);
  }
  int rank() const override { return ranks_.rank; }
  int size() const override { return ranks_.size; }
  int workers() const override { return workers_; }
  double now() const override { return MPI_Wtime(); }
  Group& group() override { return *group_; }
  ParameterServer& server(std::size_t n) override {
    server_.emplace(ranks_, workers_, minibatch_, n, traffic_);
    return *server_;
  }
  void serve(Shard& shard) override { Service(ranks_, workers_, shard, traffic_).run(); }

  Traffic& traffic() override { return traffic_; }
  void barrier() override { MPI_Barrier(ranks_.comm); }
  void broadcast(void* data, std::size_t bytes, int root) override {
    for (std::size_t done = 0; done < bytes; done += at_most)
      MPI_Bcast(static_cast<char*>(data) + done, int(std::min(at_most, bytes - done)), MPI_BYTE, root,
                ranks_.comm);
  }
  void sum(std::span<std::int64_t> v) override { reduce(v.data(), v.size(), MPI_INT64_T, MPI_SUM); }
  void sum(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_SUM); }
  void min(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_MIN); }
  void max(std::span<double> v) override { reduce(v.data(), v.size(), MPI_DOUBLE, MPI_MAX); }

  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> data) override {
    std::vector<std::int64_t> sizes(ranks_.size);
    const auto own = std::int64_t(data.size());
    MPI_Gather(&own, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, 0, ranks_.comm);
    std::vector<std::vector<std::byte>> all;
    if (ranks_.rank > 0) {
      for (std::size_t done = 0; done < data.size(); done += at_most)
        MPI_Send(data.data() + done, int(std::min(at_most, data.size() - done)), MPI_BYTE, 0, gather_tag,
                 ranks_.comm);
      return all;
    }
    all.emplace_back(data.begin(), data.end());
    for (int r = 1; r < ranks_.size; ++r) {
      auto& part = all.emplace_back(sizes[r]);
      for (std::size_t done = 0; done < part.size(); done += at_most)
        MPI_Recv(part.data() + done, int(std::min(at_most, part.size() - done)), MPI_BYTE, r, gather_tag,
                 ranks_.comm, MPI_STATUS_IGNORE);
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
  void reduce(void* data, std::size_t count, MPI_Datatype type, MPI_Op op) const {
    MPI_Allreduce(MPI_IN_PLACE, data, int(count), type, op, ranks_.comm);
  }

  Session session_;
  Ranks ranks_;
  int workers_, minibatch_;
  Traffic traffic_;
  std::optional<MpiGroup> group_;
  std::optional<MpiParameterServer> server_;
};

}  // namespace

std::unique_ptr<World> World::open(int servers, int minibatch, int ranks_per_host) {
  return std::make_unique<MpiWorld>(servers, minibatch, ranks_per_host);
}

}  // namespace dsgd
