// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "parts/bits.h"
#include "strategy.h"

namespace dsgd {

// A compressor of vectors with error feedback. A worker sends C(p) in place of p and keeps the error e = p -
// C(p) for the next step.
class Compressor {
 public:
  virtual ~Compressor() = default;
  virtual void accumulate(ConstVec g, Vec p) { axpy(1, g, p); }            // p <- e + g, where p holds e
  virtual Bytes encode(ConstVec p) = 0;                                    // C(p), as the message
  virtual void add(const Bytes& message, Vec y, float a = 1) const = 0;    // y <- y + a * C(p)
  virtual void settle(const Bytes& own, Vec p) const { add(own, p, -1); }  // e <- p - C(p), where p holds p
  // The optimizer's step of w with the sum of messages, scale*g.
  virtual void step(Optimizer& optimizer, Vec w, ConstVec g, double scale, std::int64_t used) {
    optimizer.step(w, g, scale, used);
  }
  virtual void visit(State&, const std::string& /*name*/) {}
};

// Synchronous SGD in which workers send compressed messages. In each step p_k grows by (P / sum_j b_j) * g_k,
// where b_j is the number of samples in worker j's minibatch; p_k is thus in units of the mean gradient.
// Without `back`, each worker sends its message to all others:
//   g <- (1/P) * sum_k C(p_k)
// With `back`, vectors are compressed both ways (Seide et al. 2014). The vector is cut into P slices of the
// same length, the last ones shorter or empty. Worker k owns the k-th; it receives that slice of all messages
// and sends to all others
//   g[k] <- C'(q_k)   where q_k grows by (1/P) * sum_j C(p_j[k]).
class Compressed final : public Strategy {
 public:
  using Made = std::unique_ptr<Compressor>;
  Compressed(const Context& c, Made there, Made back = nullptr)
      : group_(c.group),
        optimizer_(c.optimizer, *c.space, c.parameters),
        there_(std::move(there)),
        back_(std::move(back)),
        workers_(c.workers),
        p_(*c.space, c.parameters),
        sum_(*c.space, c.parameters),
        q_(*c.space, back_ ? slice(c.parameters, c.workers, c.rank).count : 0) {}
  // The k-th of P slices of n elements.
  static ShardRange slice(std::size_t n, int P, int k) {
    const std::size_t length = (n + P - 1) / P, first = std::min(n, length * k);
    return {first, std::min(n - first, length)};
  }

  bool step(Replica& r) override {
    const Batch batch = r.next();
    if (!batch) return false;
    r.gradient(r.w, batch, r.g);
    scale(float(double(workers_) / double(batch.global_count)), r.g);
    there_->accumulate(r.g, p_);
    back_ ? through_owners() : to_everyone();
    there_->step(optimizer_, r.w, sum_, back_ ? 1 : 1.0 / workers_, r.used);
    return true;
  }
  void visit(State& state) override {
    state.optimizer(optimizer_);
    state.vector("p", p_);
    there_->visit(state, "there");
    if (!back_) return;
    state.vector("q", q_);
    back_->visit(state, "back");
  }
  Compressor& compressor() { return *there_; }
  ConstVec residual() const { return p_; }

 private:
  void to_everyone() {
    gather(*there_, p_, p_.size() * workers_, [&](int) { return sum_.view(); });
  }
  void through_owners() {
    std::vector<Bytes> parts;
    for (int k = 0; k < workers_; ++k) parts.push_back(packed(*there_, part_of(p_, k)));
    const Vec owned = part_of(sum_, group_->rank());
    const std::vector<Bytes> messages = group_->all_to_all(parts);
    group_->compress(p_.size(), [&] { unpack(*there_, messages, [&](int) { return owned; }); });
    scale(1.0f / float(workers_), owned);
    back_->accumulate(owned, q_);
    gather(*back_, q_, p_.size(), [&](int k) { return part_of(sum_, k); });
  }
  Bytes packed(Compressor& compressor, Vec p) {
    Bytes message;
    group_->compress(p.size, [&] {
      message = compressor.encode(p);
      compressor.settle(message, p);
    });
    return message;
  }
  // sum_ <- 0, and then to(k) <- to(k) + the k-th worker's message.
  template <typename To>
  // sum_ <- 0; then to(k) <- to(k) + worker k's message, for each k.
  void unpack(const Compressor& compressor, const std::vector<Bytes>& messages, To to) {
    fill(0, sum_);
    for (int k = 0; k < workers_; ++k) compressor.add(messages[k], to(k));
  }
  // `unpacked`: elements of all messages.
  template <typename To>
  // unpacked: number of elements in all messages.
  void gather(Compressor& compressor, Vec p, std::size_t unpacked, To to) {
    const Bytes own = packed(compressor, p);
    group_->all_gather_into(sum_, own, unpacked,
                            [&](const auto& messages) { unpack(compressor, messages, to); });
  }
  Vec part_of(const Vector& v, int k) const {
    const ShardRange part = slice(v.size(), workers_, k);
    return v.view().part(part.first, part.count);
  }

  Group* group_;
  Optimizer optimizer_;
  Made there_, back_;
  int workers_;
  Vector p_, sum_, q_;
};

// Costs of a message of `bytes` bytes to every other worker, and of slices both ways. bytes(n): bytes of n
// elements.
inline Cost to_everyone_cost(const Context& c, std::size_t bytes) {
  if (c.workers == 1) return {};
  return {double(bytes) * (c.workers - 1), 1};
}
template <typename Bytes>
Cost through_owners_cost(const Context& c, Bytes bytes) {
  const auto of = [&](int k) { return bytes(Compressed::slice(c.parameters, c.workers, k).count); };
  Cost cost = to_everyone_cost(c, of(c.rank));
  if (c.workers == 1) return cost;
  ++cost.messages;
  for (int k = 0; k < c.workers; ++k)
    if (k != c.rank) cost.bytes_sent += double(of(k));
  return cost;
}
inline Facts every_step(const Settings&, const Context& c) {
  return {{"global_minibatch", double(c.workers * c.minibatch)}, {"period", 1}};
}

}  // namespace dsgd
