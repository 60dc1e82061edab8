#include "mpi/ranks.h"

#include <chrono>
#include <random>
#include <stdexcept>
#include <thread>

namespace dsgd {

Ranks::Ranks([[maybe_unused]] int ranks_per_host)
    : comm(duplicate(MPI_COMM_WORLD)), rank(comm.rank()), size(comm.size()) {
  MPI_Type_contiguous(int(block), MPI_BYTE, &block_type);
  MPI_Type_commit(&block_type);
#ifdef SMPI_H
  auto* office = &office_;  // the first rank's, for all
  if (rank == 0) office_ = std::make_shared<Office>(size);
  MPI_Bcast(&office, sizeof office, MPI_BYTE, 0, comm);
  office_ = *office;
  office_->mailboxes.open(rank);
  MPI_Barrier(comm);
#else
  MPI_Comm neighbours;
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours);
  const Comm machine(neighbours);
  patience.crowded = machine.size() > int(std::thread::hardware_concurrency());
  const Comm own(split(machine, ranks_per_host ? rank / ranks_per_host : 0));
  const int first = agree(rank, MPI_INT, MPI_MIN, own);
  hosts_.resize(size);
  hosts_[rank] = share_places(own) ? first : rank;
  MPI_Allgather(MPI_IN_PLACE, 0, MPI_INT, hosts_.data(), 1, MPI_INT, comm);
#endif
}

bool Ranks::share_places(const Comm& own) {
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

void Ranks::send(const void* data, int blocks, int to, int tag, MPI_Request& request) const {
  MPI_Isend(data, blocks, block_type, to, tag, comm, &request);
  if (patience.crowded && shares_with(to)) place(to).bell.ring();
}

void Ranks::wait(MPI_Request& request, bool rings) const {
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

namespace {

// `find` has MPI_Testany's or MPI_Waitany's words: (count, requests, index, status).
template <typename Find>
int any_of(std::vector<Message>& messages, Find find) {
  std::vector<MPI_Request> requests;
  for (Message& message : messages) requests.push_back(message.request());
  int at = MPI_UNDEFINED;
  MPI_Status status;
  find(int(requests.size()), requests.data(), &at, &status);
  if (at == MPI_UNDEFINED) return -1;
  messages[at].request() = requests[at];
  messages[at].collect(status);
  return at;
}

}  // namespace

int any_arrived(std::vector<Message>& messages) {
  return any_of(messages, [](int n, MPI_Request* requests, int* at, MPI_Status* status) {
    int arrived = 0;
    MPI_Testany(n, requests, at, &arrived, status);
    if (!arrived) *at = MPI_UNDEFINED;
  });
}

int await_any(const Ranks& ranks, std::vector<Message>& messages) {
  if (!ranks.patience.crowded) return any_of(messages, MPI_Waitany);
  for (;; std::this_thread::sleep_for(std::chrono::microseconds(50)))
    if (const int k = any_arrived(messages); k >= 0) return k;
}

}  // namespace dsgd
