// SPDX-License-Identifier: Apache-2.0
#include "mpi/ranks.h"

#include <chrono>
#include <thread>

#include "message.h"

namespace dsgd {

Ranks::Ranks(int ranks_per_host) : comm(duplicate(MPI_COMM_WORLD)), rank(comm.rank()), size(comm.size()) {
  MPI_Type_contiguous(int(block), MPI_BYTE, &block_type);
  MPI_Type_commit(&block_type);
  join(ranks_per_host);
}

void Ranks::send(const void* data, int blocks, int to, int tag, MPI_Request& request) const {
  MPI_Isend(data, blocks, block_type, to, tag, comm, &request);
  if (spin.crowded && shares_with(to)) flags(to).doorbell.ring();
}

void Ranks::wait(MPI_Request& request, bool rings) const {
  if (!spin.crowded) {
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    return;
  }
  for (;;) {
    const std::uint32_t seen = rings ? flags(rank).doorbell.rings() : 0;
    int arrived = 0;
    MPI_Test(&request, &arrived, MPI_STATUS_IGNORE);
    if (arrived) return;
    if (rings) {
      flags(rank).doorbell.sleep(seen, 10000);
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
  if (!ranks.spin.crowded) return any_of(messages, MPI_Waitany);
  for (;; std::this_thread::sleep_for(std::chrono::microseconds(50)))
    if (const int k = any_arrived(messages); k >= 0) return k;
}

}  // namespace dsgd
