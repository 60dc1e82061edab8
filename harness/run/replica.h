// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <vector>

#include "config/cluster.h"
#include "model.h"
#include "sampler.h"
#include "strategy.h"

namespace dsgd {

// Slows a rank down after the cluster's model: a simulated rank charges its clock, a real one sleeps.
struct Pace {
  World& world;
  Charges* charges = nullptr;    // of a simulated rank
  Slowness* slowness = nullptr;  // of a real one
  // Called before the gradient is computed, which takes no virtual time. If the clock advanced afterwards,
  // other ranks would run before the gradient is used, and it would have left the caches.
  void charge(int samples) const {
    if (charges) world.charge(charges->gradient(samples));
  }
  void slow_down(double start, int samples) const {
    if (!slowness || samples == 0) return;
    const double took = world.now() - start;
    world.sleep(std::max(0.0, slowness->slowed(took) - took));
  }
};

// A worker's access to model and data, with a stopwatch around its gradients.
class ModelReplica final : public Replica {
 public:
  ModelReplica(Model& model, const Samples& train, const Augmentation& augmentation, Sampler& sampler,
               bool queue, Work* work, const Pace& pace)
      : model_(model),
        train_(train),
        augmentation_(augmentation),
        sampler_(sampler),
        queue_(queue),
        work_(work),
        pace_(pace) {}

  Batch next() override {
    Minibatch m;
    if (!work_) {
      m = sampler_.next();
    } else {
      if (portion_.count == 0) portion_ = work_->take(minibatch);
      if (portion_.count)
        m = queue_ ? sampler_.at(portion_.position, portion_.count) : sampler_.next_own(portion_.count);
      // An epoch's last minibatch is short; the rest of the portion comes next.
      portion_.position += std::int64_t(m.ids.size());
      portion_.count -= int(m.ids.size());
    }
    augmentation_.epoch = m.epoch;
    batch = {m.ids, m.global_count, m.last};
    return batch;
  }

  Replica::Loss gradient(ConstVec at, const Batch& of, Vec into) override {
    return gradient_in_parts(at, of, into, {});
  }

  Replica::Loss gradient_in_parts(ConstVec at, const Batch& of, Vec into, const OnReady& ready) override {
    const bool whole =
        of.ids.size() <= std::size_t(minibatch);  // otherwise it is complete after the last piece
    const double start = pace_.world.now();
    pace_.charge(of.count());
    before_ = 0;
    for (std::size_t first = 0; first == 0 || first < of.ids.size(); first += std::size_t(minibatch)) {
      if (first) before_ += last_.get().sum;
      const auto piece = of.ids.subspan(first, std::min(std::size_t(minibatch), of.ids.size() - first));
      last_ = model_.begin_gradient(at, train_, piece, first ? part_.view() : into, augmentation_,
                                    whole ? ready : OnReady{});
      losses.push_back(last_);
      if (first) axpy(1, part_.view(), into);
    }
    return computed(start, of);
  }

  // One graph where a GPU can run both steps. On a host the stopwatch must measure the gradient alone.
  Replica::Loss descend(ConstVec at, const Batch& of, Optimizer& optimizer, double scale,
                        std::int64_t when) override {
    const bool together = !w.space->host() && of.ids.size() <= std::size_t(minibatch);
    const auto descent = together ? optimizer.next(w, scale, when) : std::nullopt;
    if (!descent) return Replica::descend(at, of, optimizer, scale, when);
    const double start = pace_.world.now();
    pace_.charge(of.count());
    before_ = 0;
    last_ = model_.begin_descent(at, train_, of.ids, g, augmentation_, *descent);
    losses.push_back(last_);
    return computed(start, of);
  }

  // Allows batches of more samples than a minibatch, for models of n parameters.
  void allow_large_batches(std::size_t n) { part_ = Vector(*g.space, n); }

  int minibatch = 0;
  Batch batch;                         // the last one
  std::vector<Span>* spans = nullptr;  // of gradients
  double compute_s = 0;                // of the current step
  std::vector<PendingLoss> losses;     // of the current step
  std::int64_t samples = 0;

 private:
  Replica::Loss computed(double start, const Batch& of) {
    if (spans) g.space->wait();  // a trace shows when the gradient was there
    pace_.slow_down(start, of.count());
    const Span span{start, pace_.world.now()};
    compute_s += span.end - span.begin;
    if (spans) spans->push_back(span);
    samples += of.count();
    return last_.known() ? Replica::Loss(loss()) : Replica::Loss(*this);
  }
  double loss() override { return before_ + last_.get().sum; }

  Model& model_;
  const Samples& train_;
  Augmentation augmentation_;  // of the last batch
  Sampler& sampler_;
  bool queue_;
  Work* work_;  // null: lock-step
  Pace pace_;
  Work::Portion portion_;
  PendingLoss last_ = dsgd::Loss{};
  double before_ = 0;  // loss of the batch's pieces before the last one
  Vector part_;
};

}  // namespace dsgd
