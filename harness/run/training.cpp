// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <numeric>

#include "nccl/group.h"
#include "run/rank.h"

namespace dsgd {
namespace {

class Training {
 public:
  explicit Training(Rank& rank)
      : rank_(rank), config_(rank.config), world_(rank.world), process_(rank.process), log_(rank.log) {}

  void operator()() {
    Context context = context_of(config_, rank_.n);
    const Space& space = config_.strategy->elements ? host_space() : process_.device->space();
    context.group = &group(space);
    context.server = config_.servers() ? &world_.server(rank_.n) : nullptr;
    context.rank = world_.rank();
    const auto vector = [&] {
      return space.host() ? world_.group().vector(rank_.n) : own_.emplace_back(space, rank_.n);
    };
    const Vec w = vector(), g = vector();
    if (rank_.pairs())
      context.pairs = &world_.pairs(
          w, config_.samples(), process_.replayed.empty() ? nullptr : &process_.replayed.at(world_.rank()));
    Work* const work = rank_.pairs() ? static_cast<Work*>(context.pairs) : context.server;
    context.space = &space;
    context.optimizer.layers = extents(process_.network);
    const auto strategy = config_.strategy->make(config_.strategy_settings, context);
    const std::vector<double> shares = measured_shares(w, g);
    log_.totals.share = shares.empty() ? 1.0 / config_.workers() : shares[world_.rank()];
    Sampler sampler({.samples = process_.data.train.count,
                     .seed = config_.seed(),
                     .order = config_.data_order(),
                     .worker = world_.rank(),
                     .workers = config_.workers(),
                     .minibatch = config_.minibatch(),
                     .budget = config_.samples(),
                     .fraction = config_.settings.number("sample_fraction"),
                     .shares = shares},
                    process_.orders);
    ModelReplica r(process_.model, process_.data.train, config_.augmentation(), sampler,
                   config_.data_order() == DataOrder::queue, work, rank_.pace());
    r.w = w;
    r.g = g;
    copy(process_.w, r.w);
    r.minibatch = config_.minibatch();
    if (!shares.empty() || config_.settings.number("sample_fraction") > 0) r.allow_large_batches(rank_.n);
    if (rank_.traced()) r.spans = &log_.spans[SpanRow::compute];
    // A GPU is some steps behind its host; simulated workers share one.
    const std::size_t late =
        process_.device->space().host() ? 0 : std::clamp(4096 / config_.workers(), 1, 16);
    if (world_.rank() == 0 && !rank_.part.empty()) rank_.recorder.emplace(rank_.part);
    // Virtual time does not see what allocates.
    if (!world_.simulated())
      log_.steps.reserve(std::min<std::int64_t>(config_.samples() / config_.minibatch() + 1, 1 << 20));
    context.group->sum(r.g);  // zeros; connections are made
    space.wait();
    if (rank_.charges) world_.group().charge_compression(rank_.charges->compression());

    rank_.start_clock();
    if (!context.server) snapshot(*strategy, r);
    const Traffic& traffic = world_.traffic();
    const bool leaver = config_.leaver() == world_.rank();
    const std::int64_t leave_step = config_.settings.integer("faults.leave_step");
    for (double communicated = traffic.seconds;;) {  // what a snapshot waits for is the next step's
      if (leaver && r.t == leave_step) {
        if (!work)
          throw std::runtime_error(
              fmt::format("left after step {} (faults.leave_step); {} cannot go on without it", leave_step,
                          config_.strategy->name));
        log_.departures.push_back({world_.rank(), r.t, r.samples, rank_.seconds()});
        log_.own_copies = rank_.snapshots->taken();
        break;
      }
      const std::int64_t worked = r.samples, used = r.used;
      r.compute_s = 0;
      r.losses.clear();
      const std::int64_t rounds = traffic.synchronisations;
      if (!strategy->step(r)) break;
      if (rank_.charges) {
        synchronised(traffic.synchronisations - rounds);
        world_.charge(rank_.charges->work(rank_.n));
      }
      r.used += r.batch.global_count;
      const auto count = std::int32_t(r.samples - worked);
      const StepRow row{.rank = world_.rank(),
                        .samples = count,
                        .step = r.t,
                        .used = work ? work->used() : used,
                        .seconds = rank_.seconds(),
                        .compute_s = float(r.compute_s),
                        .communication_s = float(traffic.seconds - communicated)};
      communicated = traffic.seconds;
      log_.totals.compute_s += r.compute_s;
      ++r.t;
      for (const PendingLoss& loss : r.losses) losses_.emplace_back(log_.steps.size(), loss);
      log_.steps.push_back(row);
      settle(late);
      if (work) r.used = work->used();
      if (!context.server && rank_.snapshots->due(r.used)) snapshot(*strategy, r);
    }
    settle(0);
    process_.device->space().wait();
    log_.last_seconds = rank_.seconds();
    if (between_gpus_) log_.collectives = between_gpus_->library();  // how the sums were made
    if (work) work->leave(!log_.departures.empty());
    if (rank_.pairs()) {
      std::array<std::int64_t, 1> done{r.samples};
      world_.sum(done);
      rank_.snapshots->finish({done[0], log_.last_seconds, r.t}, r.w);
      log_.own_samples.resize(rank_.snapshots->planned(), r.samples);
      world_.sum(log_.own_samples);
      average_snapshots(r.g);
      answered(context.pairs->answered());
    } else if (!context.server) {
      rank_.snapshots->finish({r.used, log_.last_seconds, r.t},
                              without_traffic([&] { return strategy->master(r); }));
      log_.used = r.used;
    }
    log_.totals.steps = r.t;
    log_.totals.samples = r.samples;
    log_.finite = config_.skips_gradients() || is_finite(r.w);
  }

 private:
  // The workers as equals: GPU to GPU where each has its own, else by the world's means.
  Group& group(const Space& space) {
    log_.collectives = world_.group().library();
    if (space.host() || config_.servers() || world_.simulated()) return world_.group();
    const double patience = std::max(config_.settings.number("stall_limit"), 10 * process_.gradient_s);
    std::string why;
    between_gpus_ = nccl_group(world_, space, patience, why);
    log_.collectives = between_gpus_ ? between_gpus_->library() : log_.collectives + ", not NCCL: " + why;
    return between_gpus_ ? *between_gpus_ : world_.group();
  }

  // Tells all steps with their losses but for the last `late` ones.
  void settle(std::size_t late) {
    for (; settled_ + late < log_.steps.size(); ++settled_) {
      StepRow& row = log_.steps[settled_];
      double sum = 0;
      for (; !losses_.empty() && losses_.front().first == settled_; losses_.pop_front())
        sum += losses_.front().second.get().sum;
      row.loss = row.samples ? float(sum / row.samples) : 0.0f;
      if (rank_.recorder) rank_.recorder->step(row);
      process_.reporter.tell(row.used, row.seconds, row.loss);
    }
  }

  // Each worker's speed, samples a second of a full minibatch, the median of a few, over that of all. Empty:
  // equal shares.
  std::vector<double> measured_shares(Vec w, Vec g) {
    std::vector<double> shares;
    if (config_.settings.text("shares") == "equal") return shares;
    shares.resize(config_.workers());
    copy(process_.w, w);
    std::vector<std::uint32_t> ids(std::min<std::size_t>(config_.minibatch(), process_.data.train.count));
    std::iota(ids.begin(), ids.end(), 0);
    std::array<double, 9> seconds;
    for (double& one : seconds) {
      const double begin = world_.now();
      rank_.pace().charge(int(ids.size()));
      process_.model.gradient(w, process_.data.train, ids, g);
      rank_.pace().slow_down(begin, int(ids.size()));
      one = world_.now() - begin;
    }
    fill(0, g);
    std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
    shares[world_.rank()] = 1 / std::max(seconds[seconds.size() / 2], 1e-9);
    world_.sum(shares);
    const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share /= all;
    return shares;
  }

  // What a simulated cluster takes for that besides messages.
  void synchronised(std::int64_t rounds) {
    const double begin = world_.now();
    world_.charge(double(rounds) * rank_.charges->round());
    world_.traffic().seconds += Span{begin, world_.now()};
  }

  // Of workers at their own pace: the mean of copies that each took when its count of samples said so,
  // without those of who had left by then.
  void average_snapshots(Vec mean) {
    const Traffic trained = world_.traffic();
    for (std::size_t i = 0; i < rank_.snapshots->planned(); ++i) {
      std::array<std::int64_t, 1> present{i < log_.own_copies};
      world_.sum(present);
      if (i < log_.own_copies)
        rank_.snapshots->get(i, mean);
      else
        fill(0, mean);
      world_.group().mean(mean);
      if (present[0] < world_.workers()) scale(float(world_.workers()) / float(present[0]), mean);
      rank_.snapshots->put(i, mean);
    }
    world_.traffic() = trained;
  }

  void answered(const std::vector<Request>& requests) {
    if (!process_.replayed.empty()) check_course(requests, process_.replayed.at(world_.rank()));
    for (const Request& r : requests)
      log_.requests.push_back({world_.rank(), r.worker, r.kind, r.version, r.samples, r.position});
  }

  // Forming a copy is no part of the strategy's traffic; sums on GPUs that are on their way before are.
  template <typename Form>
  Vec without_traffic(Form form) {
    if (between_gpus_) between_gpus_->settle();
    const Traffic trained = world_.traffic();
    const Vec formed = form();
    if (between_gpus_) between_gpus_->settle();
    world_.traffic() = trained;
    return formed;
  }

  void snapshot(Strategy& strategy, ModelReplica& r) {
    const double begun = rank_.seconds();
    if (rank_.pairs()) {
      rank_.snapshots->take({r.used, begun, r.t}, r.w);
      log_.own_samples.resize(rank_.snapshots->taken(), r.samples);
      log_.totals.snapshot_s += rank_.seconds() - begun;
      return;
    }
    const Vec master = without_traffic([&] { return strategy.master(r); });
    if (world_.rank() == 0)
      rank_.snapshots->take({r.used, begun, r.t}, master);
    else
      rank_.snapshots->take({r.used, begun, r.t}, master.part(0, 0));
    log_.totals.snapshot_s += rank_.seconds() - begun;
  }

  Rank& rank_;
  const RunConfig& config_;
  World& world_;
  Process& process_;
  RankLog& log_;
  std::unique_ptr<GpuGroup> between_gpus_;
  std::deque<Vector> own_;                                  // vectors that are not in the host's memory
  std::size_t settled_ = 0;                                 // steps whose losses are known
  std::deque<std::pair<std::size_t, PendingLoss>> losses_;  // of later steps
};

}  // namespace

void train(Rank& rank) { Training{rank}(); }

}  // namespace dsgd
