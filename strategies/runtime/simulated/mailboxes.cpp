// SPDX-License-Identifier: Apache-2.0
#include "simulated/mailboxes.h"

#include <fmt/format.h>

#include <memory>
#include <simgrid/s4u.hpp>

namespace dsgd {
namespace {

namespace sg = simgrid::s4u;

// As SimGrid's MPI has them: a message's own bytes, and those that travel before the receiver asks for them
// (smpi/async-small-thresh).
constexpr std::size_t envelope = 16, early = 65536;
char nothing;  // what travels

}  // namespace

void Mailboxes::open(int rank) {
  if (ranks_.size() <= std::size_t(rank)) ranks_.resize(rank + 1);
  ranks_[rank] = sg::Actor::self();
}

// Other ranks run while SimGrid makes a mailbox: whoever comes then makes the same one.
sg::Mailbox& Mailboxes::box(int from, int to, std::size_t bytes) {
  const bool small = bytes < early;
  auto& known = boxes_[(std::uint64_t(from) << 31 | std::uint32_t(to)) << 1 | std::uint64_t(small)];
  if (!known) {
    auto* const made =
        sg::Mailbox::by_name(fmt::format("{}: {} to {}, {}", number_, from, to, small ? "early" : "late"));
    if (small) made->set_receiver(ranks_.at(to));
    known = made;
  }
  return *known;
}

void Mailboxes::send(int rank, std::size_t bytes, int to) {
  auto message = box(rank, to, bytes).put_init(&nothing, bytes + envelope);
  if (bytes < early)
    message->detach();
  else
    message->wait();
}

void Mailboxes::receive(int rank, std::size_t bytes, int from) { box(from, rank, bytes).get<char>(); }

void Mailboxes::exchange(int rank, std::size_t sent, int to, std::size_t received, int from) {
  char* got = nullptr;
  const auto message = box(from, rank, received).get_async(&got);
  send(rank, sent, to);
  message->wait();
}

std::vector<Bytes> Mailboxes::all_to_all(int rank, const std::vector<Bytes>& messages,
                                         const std::vector<std::int64_t>& lengths) {
  const int size = int(messages.size());
  std::vector<Bytes*> arrived(size);
  std::vector<sg::CommPtr> under_way;
  for (int from = 0; from < size; ++from)
    if (from != rank) under_way.push_back(box(from, rank, lengths[from]).get_async(&arrived[from]));
  for (int to = 0; to < size; ++to) {
    if (to == rank) continue;
    const std::size_t bytes = messages[to].size();
    auto message = box(rank, to, bytes).put_init(new Bytes(messages[to]), bytes + envelope);
    if (bytes < early)
      message->detach();
    else
      under_way.push_back(message->start());
  }
  for (const auto& message : under_way) message->wait();
  std::vector<Bytes> received(size);
  received[rank] = messages[rank];
  for (int from = 0; from < size; ++from)
    if (const std::unique_ptr<Bytes> bytes{arrived[from]}) received[from] = std::move(*bytes);
  return received;
}

}  // namespace dsgd
