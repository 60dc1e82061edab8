// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <deque>
#include <vector>

#include "communicator.h"
#include "mpi/ranks.h"

namespace dsgd {

// Lengths and offsets of concatenated byte strings, as MPI_Alltoallv takes them. The constructor throws
// std::length_error beyond 2 GB in all.
struct Layout {
  explicit Layout(const std::vector<std::int64_t>& lengths);
  std::vector<Bytes> split(const Bytes& all) const;
  std::vector<int> counts, firsts;
  std::int64_t total = 0;
};

// each(at, count) for consecutive pieces of [begin, end), of at most `most` elements.
template <typename Each>
void in_pieces(std::size_t begin, std::size_t end, std::size_t most, Each each) {
  for (std::size_t at = begin; at < end; at += most) each(at, std::min(most, end - at));
}
// Elements [first, first + count) of `sum` <- their sum over the copies, in the order of `copies`. sum may be
// copies[0].
void add_up(const Space& space, const std::vector<float*>& copies, std::size_t first, std::size_t count,
            float* sum);
// Elements [first, first + count) of all copies <- a times those of copies[0].
void spread(const Space& space, float a, const std::vector<float*>& copies, std::size_t first,
            std::size_t count);

// Sums in memory that the workers of a host share, and by MPI between hosts. The vector is cut into as many
// slices as the host with the fewest workers has workers. Worker k of every host adds up slice k of the
// host's copies in rank order, sums it with its peers on the other hosts (MPI_Allreduce), and writes it to
// all copies. Vectors that are not shared, or not in host memory, are copied through shared memory in
// portions. Simulated ranks count as hosts of their own, but are in one process. Their messages only
// determine the time. The first rank that has received them all adds up the copies of all ranks in place, on
// a GPU too.
class MpiGroup final : public Group {
 public:
  MpiGroup(const Ranks& ranks, MPI_Comm workers, Traffic& traffic);
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Vec vector(std::size_t n) override;
  std::string library() const override { return World::library(); }
  void tree_sum(int fan, Vec v) override;
  std::vector<Bytes> all_gather(const Bytes& message) override;
  std::vector<Bytes> all_to_all(const std::vector<Bytes>& messages) override;
  ConstVec end_sum(Vec v) override;
  void all_gather_into(Vec v, const Bytes& message, std::size_t n, const Unpack& unpack) override;
  void begin_mix(ConstVec v, const std::vector<int>& offsets) override;
  void end_mix(Vec v) override;
  void compress(std::size_t n, const std::function<void()>& work) override {
    const Stopwatch stopwatch(traffic_.compressed);
    work();
    if (compression_ > 0) advance_clock(compression_ * double(n));
  }
  void charge_compression(double seconds_per_element) override { compression_ = seconds_per_element; }

 private:
  static constexpr std::size_t portion = 1 << 16, cached = 1 << 12;  // floats

  struct Shared {
    std::vector<float*> copies;  // one per worker of this host
    std::size_t n;
  };

  void reduce(float a, Vec v) override;
  template <typename Sum>
  void counted(ConstVec v, Sum sum) {
    ++traffic_.synchronisations;
    if (size_ == 1) return;
    const Stopwatch stopwatch(traffic_.seconds);
    sum();
    const auto volume = std::int64_t(2 * sizeof(float) * v.size * (size_ - 1) / size_);
    traffic_.bytes_sent += volume;
    traffic_.bytes_received += volume;
    ++traffic_.messages;
  }
  void sum_vectors(float a, Vec v);
  Layout gather(const Bytes& message, Bytes& all);  // all <- `message` of every worker
  std::vector<Bytes> exchange(const std::vector<Bytes>& messages, const Layout& out, const Layout& in);
  void count(std::int64_t sent, std::int64_t received);
  // Collective. Allocates n zeros on every worker; returns those of this host's workers in rank order.
  std::vector<float*> share(std::size_t n);
  // Elements [first, first + n) of all copies <- a times their sum over all workers.
  void in_place(float a, const std::vector<float*>& copies, std::size_t first, std::size_t n);
  void send(ConstVec v, int to);
  void receive(Vec v, int from);
  void meet();  // barrier of this host's workers, by spin-wait

  const Comm comm_;
  const Ranks& ranks_;
  const Comm host_;
  const int rank_, size_, neighbour_, neighbours_;  // rank and size in comm_ and in host_
  const int slices_;
  const bool shared_;  // some host has several workers
  const Comm peers_;   // the workers with the same slice, one per host
  const int hosts_;
  Traffic& traffic_;
  std::deque<SharedMemory> memory_;
  std::deque<Vector> private_;
  std::vector<Shared> vectors_;
  std::vector<float*> portions_, alone_{nullptr};
  Vector branch_;              // received along a tree
  std::vector<Vector> mixed_;  // the neighbours' vectors, in the order of the offsets
  Vector staged_;              // host copy of a GPU's vector
  std::vector<MPI_Request> mixing_;
  std::vector<int> members_;  // of host_, as ranks of the world
  std::uint32_t met_ = 0;
  double compression_ = 0;
};

}  // namespace dsgd
