#include "strategies/mpi_server.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace dsgd {

MpiParameterServer::MpiParameterServer(const Ranks& ranks, int workers, int minibatch, std::size_t n,
                                       Traffic& traffic)
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

void MpiParameterServer::ask(Kind kind, int minibatches) {
  for (Link& link : links_) {
    link.reply.receive(link.server, reply_tag);
    link.request.wait();
    link.request.header() = {
        .kind = kind,
        .slot = std::int16_t(link.slots && kind == Kind::pull ? link.slots.for_pull() : 0),
        .worker = ranks_.rank,
        .used = minibatches == 0 ? used_ : 0,
        .samples = std::int64_t(minibatches) * minibatch_};
    link.request.send(link.server, request_tag);
    count(0);
  }
}

void MpiParameterServer::await(Link& link) {
  {
    const Stopwatch waiting(traffic_.waited);
    if (link.slots) {
      link.reply.await(true);
    } else {
      link.reply.wait();
    }
  }
  traffic_.bytes_received += std::int64_t(sizeof(Header));
}

void MpiParameterServer::granted() {
  const Header& first = links_.front().reply.header();  // the first server keeps the budget
  if (first.samples > 0) granted_.push_back({first.position, first.samples});
  used_ = first.used;
  position_ = first.position;
  number_ = 0;
  const auto n = double(links_.back().range.first + links_.back().range.count);
  for (Link& link : links_) number_ += link.reply.header().number * double(link.range.count) / n;
}

void MpiParameterServer::begin_pull(int minibatches) {
  const Stopwatch stopwatch(traffic_.seconds);
  ask(Kind::pull, minibatches);
  work_pulled_ = minibatches > 0;
}

void MpiParameterServer::end_pull(Vec w) {
  const Stopwatch stopwatch(traffic_.seconds);
  pulled_ = std::numeric_limits<std::int64_t>::max();
  for (Link& link : links_) {
    await(link);
    const Vec part = w.part(link.range.first, link.range.count);
    if (!link.slots) {
      copy({link.reply.payload(), part.size, &host_space()}, part);
      link.reply.forget();
    } else if (part.space->host()) {
      link.slots.read_pulled(part.data, part.size, ranks_.patience);
    } else {
      if (staged_.size() < part.size) staged_ = Vector(host_space(), part.size);
      link.slots.read_pulled(staged_.data(), part.size, ranks_.patience);
      copy(staged_.view().part(0, part.size), part);
    }
    link.version = link.reply.header().version;
    pulled_ = std::min(pulled_, link.reply.header().used);
    traffic_.bytes_received += std::int64_t(link.range.count * sizeof(float));
  }
  if (work_pulled_) granted();
}

void MpiParameterServer::pull_work(int minibatches) {
  const Stopwatch stopwatch(traffic_.seconds);
  ask(Kind::pull_work, minibatches);
  for (Link& link : links_) await(link);
  granted();
}

Header MpiParameterServer::push_header(Kind kind, std::int64_t version, std::int64_t samples) const {
  return {.kind = kind,
          .worker = ranks_.rank,
          .version = version,
          .used = used_,
          .samples = samples,
          .position = position_};
}

void MpiParameterServer::push(float a, ConstVec g, std::int64_t samples, double number) {
  const Stopwatch stopwatch(traffic_.seconds);
  for (Link& link : links_) {
    const std::size_t n = link.range.count;
    const int which = link.slots ? link.slots.for_push(ranks_.patience) : link.next;
    Message& message = link.push[which];
    message.wait();
    message.header() = push_header(Kind::push, link.version, samples);
    message.header().slot = std::int16_t(which);
    message.header().number = number;
    link.pushed = link.version;
    const float* from = g.data + link.range.first;
    float* to = link.slots ? link.slots[which].data() : message.payload();
    if (g.space->host()) {
      for (std::size_t i = 0; i < n; ++i) to[i] = a * from[i];
    } else {
      copy(g.part(link.range.first, n), {to, n, &host_space()});
      scale(a, {to, n, &host_space()});
    }
    if (link.slots) link.slots[which].filled(n);
    message.send(link.server, request_tag, link.slots ? 0 : n);
    count(n);
    link.next = 1 - which;
  }
}

void MpiParameterServer::push_again(std::int64_t samples) {
  const Stopwatch stopwatch(traffic_.seconds);
  for (Link& link : links_) {
    link.request.wait();
    link.request.header() = push_header(Kind::push_again, link.pushed, samples);
    link.request.send(link.server, request_tag);
    count(0);
  }
}

ParameterServer::Portion MpiParameterServer::take(int count) {
  if (granted_.empty()) return {};
  Granted& work = granted_.front();
  const Portion taken{work.position, int(std::min<std::int64_t>(count, work.count))};
  work.position += taken.count;
  work.count -= taken.count;
  if (work.count == 0) granted_.pop_front();
  return taken;
}

void MpiParameterServer::leave(bool early) {
  for (Link& link : links_) {
    link.request.wait();
    link.request.header() = {.kind = early ? Kind::leave : Kind::done, .worker = ranks_.rank};
    link.request.send(link.server, request_tag);  // the runtime's, not the strategy's traffic
    link.request.wait();
    for (Message& message : link.push) message.wait();
  }
}

Service::Service(const Ranks& ranks, int workers, Shard& shard, Traffic& traffic)
    : ranks_(ranks), shard_(shard), traffic_(traffic), present_(workers), incoming_(ranks) {
  for (int k = 0; k < workers; ++k) {
    const bool shared = ranks.shares_with(k);
    clients_.push_back({.reply = Message(ranks, shared ? 0 : size())});
    if (!shared) incoming_ = Message(ranks, size());
    all_ring_ = all_ring_ && shared;
  }
}

void Service::run() {
  while (present_ > 0) {
    incoming_.receive(source(), request_tag);
    {
      const Stopwatch waiting(traffic_.waited);
      incoming_.await(all_ring_);
    }
    const Stopwatch stopwatch(traffic_.seconds);
    serve(incoming_.header());
  }
  traffic_.seconds += traffic_.waited;
  for (Client& client : clients_) client.reply.wait();
}

// A replay waits for the worker that was next, whoever else has sent something: MPI keeps what comes early,
// and the order of what one worker sends.
int Service::source() const {
  const std::size_t taken = shard_.requests.size();
  return taken < shard_.replayed.size() ? shard_.replayed[taken].worker : MPI_ANY_SOURCE;
}

void Service::serve(const Header& header) {
  Client& client = clients_[header.worker];
  const auto record = [&](Request::Kind kind, std::int64_t version, std::int64_t samples,
                          std::int64_t position) {
    shard_.requests.push_back({header.worker, kind, version, samples, position});
  };
  switch (header.kind) {
    case Kind::attach:
      client.memory = SharedMemory(header.memory);
      client.slots = Slots(client.memory.data() + header.position, size());
      break;
    case Kind::push:
      traffic_.bytes_received += std::int64_t(sizeof(Header) + size() * sizeof(float));
      record(Request::push, header.version, header.samples, 0);
      push(client, header);
      answer_held();
      break;
    case Kind::push_again:
      traffic_.bytes_received += std::int64_t(sizeof(Header));
      record(Request::push_again, header.version, header.samples, 0);
      shard_.push_again(header.worker, header.version, header.samples);
      answer_held();
      break;
    case Kind::pull:
    case Kind::pull_work:
      traffic_.bytes_received += std::int64_t(sizeof(Header));
      client.waits = true;
      client.pull = header;
      client.request = shard_.requests.size();
      record(header.kind == Kind::pull ? Request::pull : Request::pull_work, 0, 0, 0);
      answer(header.worker);
      break;
    case Kind::leave:
      record(Request::leave, shard_.version(), shard_.leave(header.worker), 0);
      answer_held();
      [[fallthrough]];
    case Kind::done:
      --present_;
      break;
  }
}

void Service::push(Client& client, const Header& header) {
  const Shard::Origin origin{header.used, header.position, header.number};
  if (!client.slots) {
    shard_.push(header.worker, header.version, header.samples,
                {incoming_.payload(), size(), shard_.w().space}, origin);
    return;
  }
  Slot& slot = client.slots[header.slot];
  slot.await(size(), ranks_.patience);
  shard_.push(header.worker, header.version, header.samples, {slot.data(), size(), shard_.w().space}, origin);
  slot.emptied();
}

void Service::answer_held() {
  for (int k = 0; k < int(clients_.size()); ++k)
    if (clients_[k].waits) answer(k);
}

void Service::answer(int worker) {
  Client& client = clients_[worker];
  const bool vector = client.pull.kind == Kind::pull;
  const auto reply = shard_.pull(worker, client.pull.samples, {vector, client.pull.used});
  if (!reply) return;
  client.waits = false;
  Request& request = shard_.requests[client.request];
  request = {worker, request.kind, reply->version, reply->granted, reply->position};
  Message& message = client.reply;
  message.wait();
  message.header() = {.kind = Kind::pull,
                      .version = reply->version,
                      .used = reply->used,
                      .samples = reply->granted,
                      .position = reply->position};
  message.header().number = reply->number;
  if (!vector) {
    message.send(worker, reply_tag);
  } else if (client.slots) {
    Slot& slot = client.slots[client.pull.slot];
    if (!ranks_.patience.crowded) message.send(worker, reply_tag);  // both go through the slot at a time
    slot.write(shard_.w().data, size());
    if (ranks_.patience.crowded) message.send(worker, reply_tag);
  } else {
    copy(shard_.w(), {message.payload(), size(), shard_.w().space});
    message.send(worker, reply_tag, size());
  }
  traffic_.bytes_sent += std::int64_t(sizeof(Header) + (vector ? size() * sizeof(float) : 0));
  ++traffic_.messages;
}

double MpiShards::sum(double x) {
  if (all_.size() == 1) return x;
  MPI_Request request;
  MPI_Iallgather(&x, 1, MPI_DOUBLE, all_.data(), 1, MPI_DOUBLE, comm_, &request);
  ranks_.wait(request, false);
  traffic_.bytes_sent += std::int64_t(sizeof(double) * (all_.size() - 1));
  ++traffic_.messages;
  return std::accumulate(all_.begin(), all_.end(), 0.0);
}

}  // namespace dsgd
