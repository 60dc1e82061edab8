// SPDX-License-Identifier: Apache-2.0
#include "mpi/parameter_server.h"

#include <algorithm>
#include <limits>

namespace dsgd {

MpiParameterServer::MpiParameterServer(const Ranks& ranks, int workers, int minibatch, std::size_t n,
                                       Traffic& traffic)
    : ParameterServer(workers), ranks_(ranks), minibatch_(minibatch), traffic_(traffic) {
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
  if (minibatches > 0) count_asked();
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
  count_granted(used_);
  position_ = first.position;
  number_ = 0;
  const auto n = double(links_.back().range.first + links_.back().range.count);
  for (Link& link : links_) number_ += link.reply.header().number * double(link.range.count) / n;
}

void MpiParameterServer::begin_pull(int minibatches) {
  const Stopwatch stopwatch(traffic_.seconds);
  forget();
  ask(Kind::pull, minibatches);
  work_pulled_ = minibatches > 0;
}

ConstVec MpiParameterServer::end_pull(Vec room) {
  const Stopwatch stopwatch(traffic_.seconds);
  pulled_ = std::numeric_limits<std::int64_t>::max();
  const bool as_it_came = in_messages(room);
  for (Link& link : links_) {
    await(link);
    const Vec part = room.part(link.range.first, link.range.count);
    if (!link.slots) {
      if (!as_it_came) {
        copy(link.reply.payload(), part);
        link.reply.forget();
      }
    } else {
      part.space->through_host(part.data, part.size, Space::Way::write,
                               [&](std::size_t first, float* at, std::size_t count) {
                                 link.slots.read_pulled(first, at, count, ranks_.spin);
                               });
      link.slots.end_pull();
    }
    link.version = link.reply.header().version;
    pulled_ = std::min(pulled_, link.reply.header().used);
    traffic_.bytes_received += std::int64_t(link.range.count * sizeof(float));
  }
  if (work_pulled_) granted();
  return as_it_came ? links_[0].reply.payload() : room;
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

Vec MpiParameterServer::place(Vec own) {
  if (!in_messages(own)) return own;
  Message& message = links_[0].push[links_[0].next];
  message.wait();
  return message.payload(*own.space);
}

void MpiParameterServer::push(float a, ConstVec g, std::int64_t samples, double number) {
  const Stopwatch stopwatch(traffic_.seconds);
  count_pushed(samples);
  for (Link& link : links_) {
    const std::size_t n = link.range.count;
    const int which = link.slots ? link.slots.for_push(ranks_.spin) : link.next;
    Message& message = link.push[which];
    message.wait();
    message.header() = push_header(Kind::push, link.version, samples);
    message.header().slot = std::int16_t(which);
    message.header().number = number;
    float* const to = link.slots ? link.slots[which].data() : message.payload(*g.space).data;
    g.space->through_host(const_cast<float*>(g.data) + link.range.first, n, Space::Way::read,
                          [=](std::size_t first, const float* from, std::size_t count) {
                            const Vec there{to + first, count, &host_space()};
                            if (from == there.data)
                              scale(a, there);
                            else
                              copy_scaled(a, {from, count, &host_space()}, there);
                          });
    if (link.slots) link.slots[which].filled(n);
    message.send(link.server, request_tag, link.slots ? 0 : n);
    count(n);
    link.next = 1 - which;
  }
}

void MpiParameterServer::push_again(std::int64_t samples) {
  const Stopwatch stopwatch(traffic_.seconds);
  count_pushed(samples);
  for (Link& link : links_) {
    link.request.wait();
    link.request.header() = push_header(Kind::push_again, link.version, samples);
    link.request.send(link.server, request_tag);
    count(0);
  }
}

ParameterServer::Portion MpiParameterServer::take(int count) {
  if (granted_.empty()) {
    count_taken(0);
    return {};
  }
  Granted& work = granted_.front();
  const Portion taken{work.position, int(std::min<std::int64_t>(count, work.count))};
  count_taken(taken.count);
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

}  // namespace dsgd
