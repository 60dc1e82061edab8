// SPDX-License-Identifier: Apache-2.0
#include "mpi/pairs.h"

#include <algorithm>
#include <utility>

namespace dsgd {

MpiPairs::MpiPairs(const Ranks& ranks, int workers, int minibatch, Vec x, std::int64_t budget,
                   const std::vector<Request>* replayed, Traffic& traffic)
    : ranks_(ranks),
      minibatch_(minibatch),
      x_(x),
      budget_(budget),
      replayed_(replayed),
      traffic_(traffic),
      at_work_(workers),
      out_(ranks, x.size),
      in_(ranks, ranks.rank % 2 ? 0 : x.size) {
  const auto up_to = [&](int k) { return std::min(budget, minibatches(budget) * k / workers * minibatch); };
  rest_ = up_to(ranks.rank + 1) - up_to(ranks.rank);
  if (answers()) {
    present_ = (workers + 1) / 2;
    for (int k = 0; k < present_; ++k) asks_.emplace_back(ranks, x.size);
    for (int k = 0; k < present_; ++k) open(k);
  } else {
    for (int j = 1; j < workers; j += 2) neighbours_.push_back(j);
  }
}

void MpiPairs::begin_average(int neighbour) {
  const Stopwatch stopwatch(traffic_.seconds);
  in_.receive(neighbour, answer_tag);
  send(neighbour, ask_tag, Kind::push, rest_);
  asked_ = true;
}

void MpiPairs::end_average() {
  const Stopwatch stopwatch(traffic_.seconds);
  ++calls_;
  if (asked_) {
    {
      const Stopwatch waiting(traffic_.waited);
      in_.await(false);
    }
    arrived(in_);
    if (in_.header().kind == Kind::leave)
      std::erase(neighbours_, in_.header().worker);
    else
      average(in_);
    rest_ = in_.header().samples;
    asked_ = false;
  }
  while (due()) answer();
}

bool MpiPairs::due() {
  if (replayed_) {
    const std::size_t done = answered_.size();
    return done < replayed_->size() && (*replayed_)[done].version == calls_;
  }
  if (come_ < 0) come_ = any_arrived(asks_);
  return come_ >= 0;
}

// A replay waits for the worker that was next.
int MpiPairs::next() {
  const std::size_t done = answered_.size();
  if (replayed_ && done < replayed_->size()) {
    const int k = (*replayed_)[done].worker / 2;
    asks_[k].await(false);
    return k;
  }
  const int k = std::exchange(come_, -1);
  return k < 0 ? await_any(ranks_, asks_) : k;
}

// The pair shares what is left to do as evenly as whole minibatches allow. Whoever leaves early gives all
// that it has to the other one, and no model.
void MpiPairs::answer() {
  const int k = next();
  Message& ask = asks_[k];
  arrived(ask);
  const Header asked = ask.header();
  if (asked.kind == Kind::leave) {
    rest_ += asked.samples;
    if (asked.samples > 0) answered_.push_back({asked.worker, Request::leave, calls_, asked.samples, 0});
    --present_;
    return;
  }
  {
    const std::int64_t both = rest_ + asked.samples;
    const std::int64_t theirs = left_ ? both : std::min(both, (minibatches(both) + 1) / 2 * minibatch_);
    rest_ = both - theirs;
    send(asked.worker, answer_tag, left_ ? Kind::leave : Kind::push, theirs);
    if (!left_) average(ask);
    answered_.push_back({asked.worker, left_ ? Request::leave : Request::push, calls_, theirs, 0});
  }
  left_ ? void(--present_) : open(k);
}

void MpiPairs::open(int k) { asks_[k].receive(2 * k, ask_tag); }

void MpiPairs::arrived(Message& message) {
  const Header& header = message.header();
  // The others are not recorded; a replay may take them at another time.
  if (header.kind == Kind::push || header.samples > 0) at_work_ = std::min(at_work_, int(header.position));
  if (header.kind == Kind::push)
    traffic_.bytes_received += std::int64_t(sizeof(Header) + x_.size * sizeof(float));
}

void MpiPairs::average(Message& message) {
  const Vec theirs = message.payload();
  x_.space->through_host(x_.data, x_.size, Space::Way::both, [&](std::size_t at, float* own, std::size_t n) {
    const Vec x{own, n, &host_space()};
    axpy(1, theirs.part(at, n), x);
    scale(0.5f, x);
  });
}

void MpiPairs::send(int to, int tag, Kind kind, std::int64_t rest) {
  out_.wait();
  out_.header() = {.kind = kind, .worker = ranks_.rank, .samples = rest, .position = at_work_};
  const std::size_t n = kind == Kind::push ? x_.size : 0;
  copy(ConstVec(x_).part(0, n), out_.payload(*x_.space).part(0, n));
  out_.send(to, tag, n);
  if (kind == Kind::leave) return;  // the runtime's, not the strategy's traffic
  traffic_.bytes_sent += std::int64_t(sizeof(Header) + n * sizeof(float));
  ++traffic_.messages;
}

// Who answers and has nothing left to do may get half of what another one has.
MpiPairs::Portion MpiPairs::take(int count) {
  ++calls_;
  while (rest_ == 0 && (replayed_ ? due() : present_ > 0)) answer();
  used_ = std::max(used_, budget_ - at_work_ * rest_);
  const auto taken = std::min<std::int64_t>(count, rest_);
  rest_ -= taken;
  return {0, int(taken)};
}

void MpiPairs::leave(bool early) {
  ++calls_;
  left_ = early;
  at_work_ -= early;
  for (std::size_t i = 0; i < neighbours_.size(); ++i) {
    const bool heir = early && i == ranks_.rank / 2 % neighbours_.size();
    send(neighbours_[i], ask_tag, Kind::leave, heir ? rest_ : 0);
  }
  while (present_ > 0) answer();
  out_.wait();
}

}  // namespace dsgd
