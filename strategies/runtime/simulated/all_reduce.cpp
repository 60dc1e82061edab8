// SPDX-License-Identifier: Apache-2.0
#include "simulated/all_reduce.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>

namespace dsgd {
namespace {

// Bytes from which on fewer ranks than these halve and double.
struct LongVector {
  int ranks;
  std::size_t bytes;
};
constexpr LongVector long_vectors[] = {
    {4, 262144},   {16, 8192},  {32, 4096},    {64, 128},
    {256, 262144}, {512, 4096}, {4096, 16384}, {std::numeric_limits<int>::max(), 32768}};

class AllReduce {
 public:
  AllReduce(std::size_t n, int rank, int size, Mailboxes& through)
      : through_(through), n_(n), rank_(rank), size_(size) {}

  void all_reduce() const {
    const auto least = std::find_if(std::begin(long_vectors), std::end(long_vectors),
                                    [&](const LongVector& l) { return size_ < l.ranks; });
    if (bytes(n_) >= least->bytes)
      halve_and_double();
    else if (size_ < 4 && bytes(n_) >= 4096 && (bytes(n_) < 8192 || bytes(n_) >= 16384))
      ring();
    else
      double_recursively(n_);
  }

 private:
  static std::size_t bytes(std::size_t floats) { return floats * sizeof(float); }
  void exchange(int to, std::size_t sent, int from, std::size_t received) const {
    through_.exchange(rank_, bytes(sent), to, bytes(received), from);
  }

  void ring() const {
    const std::size_t part = n_ / size_;
    for (int i = 0; i < 2 * (size_ - 1); ++i)
      exchange((rank_ + 1) % size_, part, (rank_ + size_ - 1) % size_, part);
    if (n_ % size_) double_recursively(n_ % size_);
  }

  // Does `among(power, place, rank_at)` with a power of two of places. Ranks beyond that give what they have
  // to a neighbour, and get the sum from it.
  template <typename Among>
  void in_power_of_two(std::size_t n, Among among) const {
    const int power = int(std::bit_floor(unsigned(size_))), beyond = size_ - power;
    const bool paired = rank_ < 2 * beyond;
    if (paired && rank_ % 2 == 0) {
      through_.send(rank_, bytes(n), rank_ + 1);
      through_.receive(rank_, bytes(n), rank_ + 1);
      return;
    }
    if (paired) through_.receive(rank_, bytes(n), rank_ - 1);
    among(power, paired ? rank_ / 2 : rank_ - beyond,
          [&](int place) { return place < beyond ? 2 * place + 1 : place + beyond; });
    if (paired) through_.send(rank_, bytes(n), rank_ - 1);
  }

  void double_recursively(std::size_t n) const {
    in_power_of_two(n, [&](int power, int place, auto rank_at) {
      for (int distance = 1; distance < power; distance *= 2) {
        const int other = rank_at(place ^ distance);
        exchange(other, n, other, n);
      }
    });
  }

  void halve_and_double() const {
    in_power_of_two(n_, [&](int power, int place, auto rank_at) {
      const auto elements = [&](int first, int blocks) {  // the last block has the rest
        return n_ / power * blocks + (first + blocks == power ? n_ % power : 0);
      };
      int first = 0, blocks = power;  // that this rank adds up, later has
      for (int distance = 1; distance < power; distance *= 2) {
        const int other = rank_at(place ^ distance);
        blocks /= 2;
        const int kept = place & distance ? first + blocks : first;
        exchange(other, elements(2 * first + blocks - kept, blocks), other, elements(kept, blocks));
        first = kept;
      }
      for (int distance = power / 2; distance > 0; distance /= 2) {
        const int other = rank_at(place ^ distance),
                  others = place & distance ? first - blocks : first + blocks;
        exchange(other, elements(first, blocks), other, elements(others, blocks));
        first = std::min(first, others);
        blocks *= 2;
      }
    });
  }

  Mailboxes& through_;
  std::size_t n_;
  int rank_, size_;
};

}  // namespace

void send_all_reduce(std::size_t n, int rank, int size, Mailboxes& through) {
  constexpr std::size_t at_most = std::size_t(1) << 28;  // as MPI's counts, which are int
  for (std::size_t done = 0; done < n; done += at_most)
    AllReduce(std::min(at_most, n - done), rank, size, through).all_reduce();
}

}  // namespace dsgd
