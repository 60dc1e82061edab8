// SPDX-License-Identifier: Apache-2.0
#include "mpi/group.h"

#include <algorithm>

#include "simulated/all_reduce.h"

namespace dsgd {
namespace {

constexpr std::size_t cached = 1 << 12;  // floats

// v <- a times the sum of all v, or *shared <- the sum. Messages tell the ranks the time alone; the first who
// comes out of them adds up the copies of all.
void sum_copies(float a, Vec v, Vector* shared, int rank, int size, Common& common) {
  common.summands.resize(size);
  common.summands[rank] = v.data;
  send_all_reduce(v.size, rank, size, common.mailboxes);
  if (common.done == 0 && !hollow(v)) {
    if (shared && shared->size() != v.size) *shared = Vector(*v.space, v.size);
    in_pieces(0, v.size, v.space->host() ? cached : v.size, [&](std::size_t at, std::size_t count) {
      add_up(*v.space, common.summands, at, count, shared ? shared->data() : common.summands[0]);
      if (!shared) spread(*v.space, a, common.summands, at, count);
    });
  }
  common.done = (common.done + 1) % size;
}

}  // namespace

void MpiGroup::sum_vectors(float a, Vec v) { sum_copies(a, v, nullptr, rank_, size_, ranks_.common()); }

ConstVec MpiGroup::end_sum(Vec v) {
  if (size_ == 1 || !v.space->host()) return Group::end_sum(v);
  Vector& sum = ranks_.common().sum;
  counted(v, [&] { sum_copies(1, v, &sum, rank_, size_, ranks_.common()); });
  return sum;
}

// All receive into the same memory: what is written there is the same.
void MpiGroup::all_gather_into(Vec v, const Bytes& message, std::size_t n, const Unpack& unpack) {
  if (size_ == 1) return Group::all_gather_into(v, message, n, unpack);
  ++traffic_.synchronisations;
  Common& common = ranks_.common();
  common.summands.resize(size_);
  common.summands[rank_] = v.data;
  const Layout in = [&] {
    const Stopwatch stopwatch(traffic_.seconds);
    return gather(message, common.messages);
  }();
  compress(n, [&] {
    if (common.done == 0) {
      unpack(in.split(common.messages));
      for (float* const copy : common.summands)
        if (copy != v.data) std::copy_n(v.data, v.size, copy);
    }
    common.done = (common.done + 1) % size_;
  });
}

std::vector<Bytes> MpiGroup::exchange(const std::vector<Bytes>& messages, const Layout&, const Layout& in) {
  const std::vector<std::int64_t> lengths(in.counts.begin(), in.counts.end());
  return ranks_.common().mailboxes.all_to_all(rank_, messages, lengths);
}

}  // namespace dsgd
