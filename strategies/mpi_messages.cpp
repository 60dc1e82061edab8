#include "strategies/mpi_messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>
#include <simgrid/s4u.hpp>

namespace dsgd {
namespace {

namespace sg = simgrid::s4u;

// As SimGrid's MPI has them: a message's own bytes, and those that travel before the receiver asks for them
// (smpi/async-small-thresh).
constexpr std::size_t envelope = 16, early = 65536;
char nothing;  // what travels

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

void send_all_reduce(std::size_t n, int rank, int size, Mailboxes& through) {
  constexpr std::size_t at_most = std::size_t(1) << 28;  // as MPI's counts, which are int
  for (std::size_t done = 0; done < n; done += at_most)
    AllReduce(std::min(at_most, n - done), rank, size, through).all_reduce();
}

}  // namespace dsgd
