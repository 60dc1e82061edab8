// SPDX-License-Identifier: Apache-2.0
#include "mpi/service.h"

#include <numeric>

namespace dsgd {

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
      record(Request::push_again, shard_.version(), header.samples, 0);
      shard_.push_again(header.worker, header.samples);
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
      --present_;
      break;
    case Kind::done:
      shard_.finish(header.worker);
      answer_held();
      --present_;
      break;
  }
}

void Service::push(Client& client, const Header& header) {
  const Shard::Origin origin{header.used, header.position, header.number};
  if (!client.slots) {
    shard_.push(header.worker, header.version, header.samples, incoming_.payload(), origin);
    incoming_.forget();
    return;
  }
  Slot& slot = client.slots[header.slot];
  slot.await(size(), ranks_.spin);
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
    if (!ranks_.spin.crowded) message.send(worker, reply_tag);  // both go through the slot at a time
    slot.write(shard_.w().data, size());
    if (ranks_.spin.crowded) message.send(worker, reply_tag);
  } else {
    message.carry(shard_.w(), reply->version, sent_);
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
