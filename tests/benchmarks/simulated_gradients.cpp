// SPDX-License-Identifier: Apache-2.0
// What simulating costs beside its gradients: simulates the run of a plan, and now and then stops it for two
// bare gradients, in turns for as many replicas as there are workers, each with its own model and gradient,
// of which the second counts. Prints, for each stretch of the simulation, processor time of a minibatch in
// microseconds: all of it, that inside the gradient, and that of a bare one. tests/benchmarks/scale.py reads
// them.
//   simulated_gradients PLAN

#include <fmt/format.h>
#include <time.h>

#include <deque>
#include <fstream>
#include <iterator>

#include "run/run.h"

namespace dsgd {
namespace {

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Bare gradients, and the stretches of the simulation that they are spread over.
class Stretches {
 public:
  Stretches(const RunConfig& config, Process& process)
      : model_(process.network, *process.device, config.minibatch()),
        sampler_({.samples = process.data.train.count,
                  .minibatch = config.minibatch(),
                  .budget = std::int64_t(1) << 40}) {
    for (int k = 0; k < config.workers(); ++k) {
      copy(process.w, w_.emplace_back(process.device->space(), process.w.size()));
      g_.emplace_back(process.device->space(), process.w.size());
    }
  }
  // Around a simulated gradient.
  void begin(const Samples& from) {
    if (gradients_ % between_ == 0) {
      all_ += processor_seconds() - resumed_;
      if (gradients_ % length_ == 0) end_stretch();
      bare(from);
      bare_ += bare(from);
      resumed_ = processor_seconds();
    }
    ++gradients_;
    begun_ = processor_seconds();
  }
  void end() { inside_ += processor_seconds() - begun_; }

 private:
  static constexpr int between_ = 8, length_ = 16 * between_;  // simulated gradients

  double bare(const Samples& from) {
    const double begun = processor_seconds();
    model_.gradient(w_[turn_], from, sampler_.next().ids, g_[turn_]);
    turn_ = (turn_ + 1) % w_.size();
    return processor_seconds() - begun;
  }
  void end_stretch() {
    if (gradients_ > length_)  // the first one has the start in it
      fmt::print("{:.3f} {:.3f} {:.3f}\n", 1e6 * all_ / length_, 1e6 * inside_ / length_,
                 1e6 * bare_ * between_ / length_);
    all_ = inside_ = bare_ = 0;
  }

  Model model_;
  Sampler sampler_;
  std::deque<Vector> w_, g_;
  std::size_t turn_ = 0;                    // of a replica
  std::int64_t gradients_ = 0;              // simulated
  double resumed_ = 0, begun_ = 0;          // the simulation, a gradient in it
  double all_ = 0, inside_ = 0, bare_ = 0;  // of this stretch
};

class Watched final : public Plan {
 public:
  Watched(const Network& net, int batch, Device& device, Stretches& stretches)
      : Plan(net, batch), plan_(device.plan(net, batch)), stretches_(stretches) {}
  const float* forward(ConstVec w, const float* x, int n, const Moments* given) override {
    return plan_->forward(w, x, n, given);
  }
  void backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx) override {
    plan_->backward(w, dlogits, n, g, dx);
  }
  std::vector<std::string> implementations() const override { return plan_->implementations(); }
  PendingLoss gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                       const Augmentation& how, Vec g, const OnReady& ready) override {
    stretches_.begin(from);
    const PendingLoss loss = plan_->gradient(w, from, ids, how, g, ready);
    stretches_.end();
    return loss;
  }

 private:
  std::unique_ptr<Plan> plan_;
  Stretches& stretches_;
};

struct WatchedDevice final : Device {
  WatchedDevice(Device& device_, Stretches& stretches_) : device(device_), stretches(stretches_) {}
  const Space& space() const override { return device.space(); }
  std::unique_ptr<Plan> plan(const Network& net, int batch) override {
    return std::make_unique<Watched>(net, batch, device, stretches);
  }
  int piece(const Network& net, int batch) const override { return device.piece(net, batch); }
  Device& device;
  Stretches& stretches;
};

void run(const std::string& plan) {
  std::ifstream in(plan);
  const RunConfig config = parse_run({std::istreambuf_iterator<char>(in), {}});
  const Cluster cluster(config);
  Simulation simulation(cluster.platform());
  Process process(config, "", Reporter::nobody);
  Stretches stretches(config, process);
  WatchedDevice device(*process.device, stretches);
  process.model = Model(process.network, device, config.minibatch());
  simulation.run(cluster.seats(), [&](int) { run_rank(config, "", process, &cluster); });
}

}  // namespace
}  // namespace dsgd

int main(int count, char** words) {
  try {
    if (count != 2) throw std::runtime_error("expected the name of a plan (tests/benchmarks/scale.py)");
    dsgd::run(words[1]);
  } catch (const std::exception& e) {
    fmt::print(stderr, "simulated_gradients: {}\n", e.what());
    return 2;
  }
}
