#include "strategies/mpi_messages.h"

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

class Messages {
 public:
  Messages(MPI_Comm comm, std::size_t n) : comm_(comm), n_(n) {
    MPI_Comm_rank(comm, &rank_);
    MPI_Comm_size(comm, &size_);
  }

  void all_reduce() const {
    const std::size_t bytes = n_ * sizeof(float);
    const auto least = std::find_if(std::begin(long_vectors), std::end(long_vectors),
                                    [&](const LongVector& l) { return size_ < l.ranks; });
    if (bytes >= least->bytes)
      halve_and_double();
    else if (size_ < 4 && bytes >= 4096 && (bytes < 8192 || bytes >= 16384))
      ring();
    else
      double_recursively(n_);
  }

 private:
  void exchange(int to, std::size_t sent, int from, std::size_t received) const {
    MPI_Sendrecv(MPI_BOTTOM, int(sent), MPI_FLOAT, to, 0, MPI_BOTTOM, int(received), MPI_FLOAT, from, 0,
                 comm_, MPI_STATUS_IGNORE);
  }
  void copy(std::size_t n) const { exchange(rank_, n, rank_, n); }  // within this rank's memory

  void ring() const {
    const std::size_t part = n_ / size_;
    copy(part);
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
      MPI_Send(MPI_BOTTOM, int(n), MPI_FLOAT, rank_ + 1, 0, comm_);
      MPI_Recv(MPI_BOTTOM, int(n), MPI_FLOAT, rank_ + 1, 0, comm_, MPI_STATUS_IGNORE);
      return;
    }
    if (paired) MPI_Recv(MPI_BOTTOM, int(n), MPI_FLOAT, rank_ - 1, 0, comm_, MPI_STATUS_IGNORE);
    among(power, paired ? rank_ / 2 : rank_ - beyond,
          [&](int place) { return place < beyond ? 2 * place + 1 : place + beyond; });
    if (paired) MPI_Send(MPI_BOTTOM, int(n), MPI_FLOAT, rank_ - 1, 0, comm_);
  }

  void double_recursively(std::size_t n) const {
    copy(n);
    in_power_of_two(n, [&](int power, int place, auto rank_at) {
      for (int distance = 1; distance < power; distance *= 2) {
        const int other = rank_at(place ^ distance);
        exchange(other, n, other, n);
        if (other > rank_) copy(n);
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

  MPI_Comm comm_;
  std::size_t n_;
  int rank_ = 0, size_ = 1;
};

}  // namespace

void send_all_reduce(std::size_t n, MPI_Comm comm) {
  constexpr std::size_t at_most = std::size_t(1) << 28;  // counts are int
  for (std::size_t done = 0; done < n; done += at_most)
    Messages(comm, std::min(at_most, n - done)).all_reduce();
}

}  // namespace dsgd
