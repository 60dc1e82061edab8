#include "run/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <numeric>
#include <optional>

#include "nccl/group.h"
#include "results/record.h"
#include "run/outcome.h"
#include "run/replica.h"
#include "run/snapshots.h"

namespace dsgd {
namespace {

constexpr std::size_t score_portion = 128;  // test samples between two signs of life

DataOrder order_of(const std::string& name) {
  return name == "global" ? DataOrder::global : name == "shard" ? DataOrder::shard : DataOrder::queue;
}

template <typename Row>
std::vector<std::vector<Row>> gather_rows(World& world, const std::vector<Row>& rows) {
  const auto bytes = world.gather(std::as_bytes(std::span(rows)));
  std::vector<std::vector<Row>> result;
  for (const auto& part : bytes) {
    result.emplace_back(part.size() / sizeof(Row));
    if (!part.empty()) std::memcpy(result.back().data(), part.data(), part.size());
  }
  return result;
}

template <typename Row>
std::vector<Row> joined(const std::vector<std::vector<Row>>& parts) {
  std::vector<Row> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

class Run {
 public:
  // `cluster`: of a simulated run.
  Run(World& world, const RunConfig& config, const std::filesystem::path& part, Process& process,
      double setup_start, const Cluster* cluster)
      : config_(config),
        part_(part),
        world_(&world),
        process_(process),
        setup_start_(setup_start),
        n_(process.w.view().size) {
    if (world_->size() != config.ranks())
      throw std::runtime_error(
          fmt::format("the run needs {} MPI ranks ({} workers, {} servers) but was started with {}",
                      config.ranks(), config.workers(), config.servers(), world_->size()));
    if (const auto misfit = training_conflict(config, process.data.train.count))
      throw std::runtime_error(fmt::format("{}: {}", misfit->keys.front(), misfit->what));
    if (cluster) charges_.emplace(config, *cluster, process.network, world.rank());
    if (!world.simulated() && config.slowed()) slowness_.emplace(config, world.rank());
  }

  void operator()() {
    const ShardRange own = world_->is_worker()
                               ? ShardRange{0, world_->rank() == 0 || pairs() ? n_ : 0}
                               : shard_range(n_, world_->rank() - world_->workers(), world_->servers());
    snapshots_.emplace(snapshot_points(config_.samples(), int(config_.settings.integer("snapshots"))),
                       holds_copies() && !config_.skips_gradients() ? own.count : 0,
                       std::size_t(config_.settings.integer("snapshot_memory_mib")) << 20,
                       part_.parent_path());
    if (world_->is_worker())
      work();
    else
      serve(own);
    totals_.total_s = last_seconds_;
    if (!world_->simulated()) world_->barrier();  // who is done leaves the core to the others
    std::array<double, 1> longest{totals_.total_s};
    world_->max(longest);
    seconds_ = longest[0];
    if (!config_.skips_gradients()) score(own);
    report();
    process_.reporter.phase("done");
  }

 private:
  double seconds() const { return world_->now() - start_; }
  bool pairs() const { return config_.strategy->pairs; }
  bool traced() const { return config_.settings.flag("trace"); }

  // Everybody is ready: the clock starts.
  void start_clock() {
    world_->barrier();
    world_->traffic() = {};
    if (traced()) {
      world_->traffic().seconds.spans = &spans_[SpanRow::transfer];
      world_->traffic().waited.spans = &spans_[SpanRow::wait];
    }
    start_ = world_->now();
    setup_s_ = start_ - setup_start_;
    process_.reporter.phase("train", process_.gradient_s);
  }

  // The workers as equals: GPU to GPU where each has its own, else by the world's means.
  Group& group(const Space& space) {
    collectives_ = world_->group().library();
    if (space.host() || config_.servers() || world_->simulated()) return world_->group();
    const double patience = std::max(config_.settings.number("stall_limit"), 10 * process_.gradient_s);
    std::string why;
    between_gpus_ = nccl_group(*world_, space, patience, why);
    collectives_ = between_gpus_ ? between_gpus_->library() : collectives_ + ", not NCCL: " + why;
    return between_gpus_ ? *between_gpus_ : world_->group();
  }

  void work() {
    Context context = context_of(config_, n_);
    const Space& space = config_.strategy->elements ? host_space() : process_.device->space();
    context.group = &group(space);
    context.server = config_.servers() ? &world_->server(n_) : nullptr;
    context.rank = world_->rank();
    const auto vector = [&] {
      return space.host() ? world_->group().vector(n_) : own_.emplace_back(space, n_);
    };
    const Vec w = vector(), g = vector();
    if (pairs())
      context.pairs = &world_->pairs(
          w, config_.samples(), process_.replayed.empty() ? nullptr : &process_.replayed.at(world_->rank()));
    Work* const work = pairs() ? static_cast<Work*>(context.pairs) : context.server;
    context.space = &space;
    context.optimizer.layers = extents(process_.network);
    const auto strategy = config_.strategy->make(config_.strategy_settings, context);
    const std::vector<double> shares = measured_shares(w, g);
    totals_.share = shares.empty() ? 1.0 / config_.workers() : shares[world_->rank()];
    Sampler sampler({.samples = process_.data.train.count,
                     .seed = config_.seed(),
                     .order = order_of(config_.data_order()),
                     .worker = world_->rank(),
                     .workers = config_.workers(),
                     .minibatch = config_.minibatch(),
                     .budget = config_.samples(),
                     .fraction = config_.settings.number("sample_fraction"),
                     .shares = shares},
                    process_.orders);
    ModelReplica r(process_.model, process_.data.train, config_.augmentation(), sampler,
                   config_.data_order() == "queue", work, pace());
    r.w = w;
    r.g = g;
    copy(process_.w, r.w);
    r.minibatch = config_.minibatch();
    if (!shares.empty() || config_.settings.number("sample_fraction") > 0) r.allow_large_batches(n_);
    if (traced()) r.spans = &spans_[SpanRow::compute];
    // A GPU is some steps behind its host; simulated workers share one.
    const std::size_t late =
        process_.device->space().host() ? 0 : std::clamp(4096 / config_.workers(), 1, 16);
    if (world_->rank() == 0 && !part_.empty()) recorder_.emplace(part_);
    // Virtual time does not see what allocates.
    if (!world_->simulated())
      rows_.reserve(std::min<std::int64_t>(config_.samples() / config_.minibatch() + 1, 1 << 20));
    context.group->sum(r.g);  // zeros; connections are made
    space.wait();
    if (charges_) world_->group().charge_compression(charges_->compression());

    start_clock();
    if (!context.server) snapshot(*strategy, r);
    const Traffic& traffic = world_->traffic();
    const bool leaver = config_.leaver() == world_->rank();
    const std::int64_t leave_step = config_.settings.integer("faults.leave_step");
    for (double communicated = traffic.seconds;;) {  // what a snapshot waits for is the next step's
      if (leaver && r.t == leave_step) {
        if (!work)
          throw std::runtime_error(
              fmt::format("left after step {} (faults.leave_step); {} cannot go on without it", leave_step,
                          config_.strategy->name));
        departures_.push_back({world_->rank(), r.t, r.samples, seconds()});
        own_copies_ = snapshots_->taken();
        break;
      }
      const std::int64_t worked = r.samples, used = r.used;
      r.compute_s = 0;
      r.losses.clear();
      const std::int64_t rounds = traffic.synchronisations;
      if (!strategy->step(r)) break;
      if (charges_) {
        synchronised(traffic.synchronisations - rounds);
        world_->charge(charges_->work(n_));
      }
      r.used += r.batch.global_count;
      const auto count = std::int32_t(r.samples - worked);
      const StepRow row{.rank = world_->rank(),
                        .samples = count,
                        .step = r.t,
                        .used = work ? work->used() : used,
                        .seconds = seconds(),
                        .compute_s = float(r.compute_s),
                        .communication_s = float(traffic.seconds - communicated)};
      communicated = traffic.seconds;
      totals_.compute_s += r.compute_s;
      ++r.t;
      for (const PendingLoss& loss : r.losses) losses_.emplace_back(rows_.size(), loss);
      rows_.push_back(row);
      settle(late);
      if (work) r.used = work->used();
      if (!context.server && snapshots_->due(r.used)) snapshot(*strategy, r);
    }
    settle(0);
    process_.device->space().wait();
    last_seconds_ = seconds();
    if (between_gpus_) collectives_ = between_gpus_->library();  // how the sums were made
    if (work) work->leave(!departures_.empty());
    if (pairs()) {
      std::array<std::int64_t, 1> done{r.samples};
      world_->sum(done);
      snapshots_->finish({done[0], last_seconds_, r.t}, r.w);
      own_samples_.resize(snapshots_->planned(), r.samples);
      world_->sum(own_samples_);
      average_snapshots(r.g);
      answered(context.pairs->answered());
    } else if (!context.server) {
      snapshots_->finish({r.used, last_seconds_, r.t}, without_traffic([&] { return strategy->master(r); }));
      used_ = r.used;
    }
    totals_.steps = r.t;
    totals_.samples = r.samples;
    finite_ = config_.skips_gradients() || is_finite(r.w);
  }

  static bool is_finite(ConstVec w) { return std::isfinite(dot(w, w)); }

  // Tells all steps with their losses but for the last `late` ones.
  void settle(std::size_t late) {
    for (; settled_ + late < rows_.size(); ++settled_) {
      StepRow& row = rows_[settled_];
      double sum = 0;
      for (; !losses_.empty() && losses_.front().first == settled_; losses_.pop_front())
        sum += losses_.front().second.get().sum;
      row.loss = row.samples ? float(sum / row.samples) : 0.0f;
      if (recorder_) recorder_->step(row);
      process_.reporter.tell(row.used, row.seconds, row.loss);
    }
  }

  Pace pace() { return {*world_, charges_ ? &*charges_ : nullptr, slowness_ ? &*slowness_ : nullptr}; }

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
      const double begin = world_->now();
      pace().charge(int(ids.size()));
      process_.model.gradient(w, process_.data.train, ids, g);
      pace().slow_down(begin, int(ids.size()));
      one = world_->now() - begin;
    }
    fill(0, g);
    std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
    shares[world_->rank()] = 1 / std::max(seconds[seconds.size() / 2], 1e-9);
    world_->sum(shares);
    const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share /= all;
    return shares;
  }

  // What a simulated cluster takes for that besides messages.
  void synchronised(std::int64_t rounds) {
    const double begin = world_->now();
    world_->charge(double(rounds) * charges_->round());
    world_->traffic().seconds += Span{begin, world_->now()};
  }

  // Of workers at their own pace: the mean of copies that each took when its count of samples said so,
  // without those of who had left by then.
  void average_snapshots(Vec mean) {
    const Traffic trained = world_->traffic();
    for (std::size_t i = 0; i < snapshots_->planned(); ++i) {
      std::array<std::int64_t, 1> present{i < own_copies_};
      world_->sum(present);
      if (i < own_copies_)
        snapshots_->get(i, mean);
      else
        fill(0, mean);
      world_->group().mean(mean);
      if (present[0] < world_->workers()) scale(float(world_->workers()) / float(present[0]), mean);
      snapshots_->put(i, mean);
    }
    world_->traffic() = trained;
  }

  void answered(const std::vector<Request>& requests) {
    if (!process_.replayed.empty()) check_course(requests, process_.replayed.at(world_->rank()));
    for (const Request& r : requests)
      requests_.push_back({world_->rank(), r.worker, r.kind, r.version, r.samples, r.position});
  }

  // Forming a copy is no part of the strategy's traffic; sums on GPUs that are on their way before are.
  template <typename Form>
  Vec without_traffic(Form form) {
    if (between_gpus_) between_gpus_->settle();
    const Traffic trained = world_->traffic();
    const Vec formed = form();
    if (between_gpus_) between_gpus_->settle();
    world_->traffic() = trained;
    return formed;
  }

  void snapshot(Strategy& strategy, ModelReplica& r) {
    const double begun = seconds();
    if (pairs()) {
      snapshots_->take({r.used, begun, r.t}, r.w);
      own_samples_.resize(snapshots_->taken(), r.samples);
      totals_.snapshot_s += seconds() - begun;
      return;
    }
    const Vec master = without_traffic([&] { return strategy.master(r); });
    if (world_->rank() == 0)
      snapshots_->take({r.used, begun, r.t}, master);
    else
      snapshots_->take({r.used, begun, r.t}, master.part(0, 0));
    totals_.snapshot_s += seconds() - begun;
  }

  void serve(const ShardRange& own) {
    Context context = context_of(config_, own.count);
    context.space = process_.w.view().space;
    context.shards = &world_->shards();
    if (config_.servers() == 1) context.optimizer.layers = extents(process_.network);
    const auto rule = config_.strategy->make_rule(config_.strategy_settings, context);
    const int number = world_->rank() - world_->workers();
    Shard shard({.workers = config_.workers(),
                 .minibatch = config_.minibatch(),
                 .budget = config_.samples(),
                 .drop = config_.settings.number("faults.drop"),
                 .seed = config_.seed(),
                 .first = number == 0},
                *rule, process_.w.view().part(own.first, own.count));
    shard.updated = [&](const Shard& s) {
      if (!snapshots_->due(s.used())) return;
      const double begun = seconds();
      snapshots_->take({s.used(), begun, s.version()}, rule->master(s.w()));
      totals_.snapshot_s += seconds() - begun;
    };
    shard.arrived = [&](const Shard& s) {
      if (charges_) world_->charge(charges_->update(own.count));
      last_seconds_ = seconds();
      process_.reporter.tell(s.used(), last_seconds_, 0);
    };
    if (!process_.replayed.empty()) shard.replayed = process_.replayed.at(number);
    start_clock();
    snapshots_->take({0, 0, 0}, rule->master(shard.w()));
    world_->serve(shard);
    if (!shard.replayed.empty()) check_course(shard.requests, shard.replayed);
    snapshots_->finish({shard.used(), last_seconds_, shard.version()}, rule->master(shard.w()));
    used_ = shard.used();
    updates_ = shard.version();
    unapplied_ = shard.unapplied();
    for (std::size_t tau = 0; tau < shard.staleness().size(); ++tau)
      if (const auto count = shard.staleness()[tau]) staleness_.push_back({number, std::int64_t(tau), count});
    for (const Request& r : shard.requests)
      requests_.push_back({number, r.worker, r.kind, r.version, r.samples, r.position});
  }

  static void check_course(std::span<const Request> made, std::span<const Request> planned) {
    const auto at = std::mismatch(made.begin(), made.end(), planned.begin(), planned.end());
    if (at.first != made.end() || at.second != planned.end())
      throw std::runtime_error(fmt::format("left the recorded course at request {} of {}",
                                           at.first - made.begin(), planned.size()));
  }

  // Batch norm's statistics of the weights w, the same samples for every snapshot, minibatches
  // shared by all processes. Empty for models without.
  Statistics statistics(ConstVec w) {
    Statistics known = process_.model.statistics();
    if (known.empty()) return known;
    std::vector<std::uint32_t> ids(process_.data.train.count);
    std::iota(ids.begin(), ids.end(), 0);
    shuffled(config_.seed(), 0, ids);
    ids.resize(std::min(ids.size(), std::size_t(config_.settings.integer("statistics_samples"))));
    const std::size_t minibatch = config_.minibatch();
    const ShardRange own = share((ids.size() + minibatch - 1) / minibatch);
    for (std::size_t m = own.first; m < own.first + own.count; ++m) {
      const std::size_t first = m * minibatch;
      process_.model.observe(w, process_.data.train,
                             std::span(ids).subspan(first, std::min(minibatch, ids.size() - first)), known);
      process_.reporter.tell(std::int64_t(scored_.size()), seconds(), 0);
    }
    world_->sum(known);
    return known;
  }

  // This rank's part of n things that all processes do together.
  ShardRange share(std::size_t n) const {
    if (world_->simulated()) return {0, world_->rank() == 0 ? n : 0};
    return shard_range(n, world_->rank(), world_->size());
  }

  // Everybody has the i-th snapshot in process_.w.
  void load_snapshot(std::size_t i, const ShardRange& own) {
    const Vec w = process_.w;
    if (holds_snapshots()) snapshots_->get(i, w.part(own.first, own.count));
    if (world_->simulated()) return world_->barrier();
    if (!config_.servers()) return world_->broadcast(w.data, n_ * sizeof(float), 0);
    for (int s = 0; s < world_->servers(); ++s) {
      const ShardRange range = shard_range(n_, s, world_->servers());
      world_->broadcast(w.data + range.first, range.count * sizeof(float), world_->workers() + s);
    }
  }
  // Lock-step strategies are copied on rank 0, the others on the servers.
  bool holds_snapshots() const { return config_.servers() ? !world_->is_worker() : world_->rank() == 0; }

  // And those that are averaged into these.
  bool holds_copies() const { return holds_snapshots() || (pairs() && world_->is_worker()); }

  // All processes score every snapshot together, each on its part of the test set; counts are exact.
  void score(const ShardRange& own) {
    process_.reporter.phase("score");
    if (const Space& space = process_.device->space(); !space.host()) at_ = Vector(space, n_);
    const double begun = world_->now();
    const std::size_t test = process_.data.test.count;
    const ShardRange part = share(test);
    for (std::size_t i = 0; i < snapshots_->planned(); ++i) {
      load_snapshot(i, own);
      if (at_.size()) copy(process_.w, at_);
      const ConstVec w = at_.size() ? at_.view() : process_.w.view();
      if (world_->rank() == 0 && !bad_snapshot_ && !is_finite(w)) bad_snapshot_ = i;
      const Statistics known = statistics(w);
      Loss own_part;
      for (std::size_t first = part.first, last = part.first + part.count; first < last;
           first += score_portion) {
        const Loss scored =
            process_.model.score(w, process_.data.test, first, std::min(first + score_portion, last), known);
        own_part.sum += scored.sum;
        own_part.correct += scored.correct;
        process_.reporter.tell(std::int64_t(i), seconds(), 0);
      }
      std::array<std::int64_t, 1> correct{own_part.correct};
      std::array<double, 1> loss{own_part.sum};
      world_->sum(correct);
      world_->sum(loss);
      scored_.push_back({.test_loss = loss[0] / double(test),
                         .test_correct = correct[0],
                         .test_count = std::int64_t(test)});
      const bool holder = holds_copies() && i < own_copies_;
      const auto at = holder ? snapshots_->point(i) : Snapshots::Point{};
      std::array<double, 4> low{double(at.used), at.seconds, double(at.version), 0}, high = low;
      if (!holder) low.fill(std::numeric_limits<double>::infinity());
      world_->min(low);
      world_->max(high);
      scored_.back().used = pairs() ? own_samples_[i] : std::int64_t(high[0]);
      scored_.back().seconds = high[1];
      scored_.back().version_min = std::int64_t(low[2]);
      scored_.back().version_max = std::int64_t(high[2]);
    }
    scoring_s_ = world_->now() - begun;
  }

  // Waiting in lock-step: what a worker spent in collectives beyond the one that came last to the same step.
  double lock_step_wait() {
    std::vector<double> own(rows_.size());
    std::transform(rows_.begin(), rows_.end(), own.begin(),
                   [](const StepRow& row) { return row.communication_s; });
    std::vector<double> least = own;
    world_->min(least);
    return std::accumulate(own.begin(), own.end(), 0.0) - std::accumulate(least.begin(), least.end(), 0.0);
  }

  void report() {
    const Traffic& traffic = world_->traffic();
    totals_.rank = world_->rank();
    totals_.server = !world_->is_worker();
    totals_.wait_s = config_.servers() || pairs() ? traffic.waited : lock_step_wait();
    totals_.communication_s = std::max(0.0, traffic.seconds - totals_.wait_s);
    totals_.compression_s = traffic.compressed;
    totals_.bytes_sent = traffic.bytes_sent;
    totals_.bytes_received = traffic.bytes_received;
    totals_.messages = traffic.messages;
    totals_.synchronisations = traffic.synchronisations;

    const auto ranks = gather_rows(*world_, std::vector{totals_});
    const auto steps = gather_rows(*world_, rows_);
    const auto staleness = gather_rows(*world_, staleness_);
    const auto requests = gather_rows(*world_, requests_);
    const auto finite = gather_rows(*world_, std::vector{std::uint8_t(finite_)});
    const auto departures = joined(gather_rows(*world_, departures_));
    std::vector<SpanRow> own_spans;
    for (const auto kind : {SpanRow::compute, SpanRow::transfer, SpanRow::wait})
      for (const Span& s : spans_[kind])
        own_spans.push_back({world_->rank(), kind, s.begin - start_, s.end - start_});
    const auto spans = gather_rows(*world_, own_spans);
    std::vector<std::int64_t> uses;
    if (!world_->simulated() || world_->rank() == 0)
      uses.assign(process_.orders->uses.begin(), process_.orders->uses.end());
    if (!world_->simulated()) world_->sum(uses);
    std::array<std::int64_t, 3> counts{};
    if (pairs())
      counts = {totals_.samples, totals_.steps, 0};
    else if (config_.servers() ? world_->rank() == world_->workers() : world_->rank() == 0)
      counts = {used_, updates_, unapplied_};
    world_->sum(counts);
    const std::string own_host = host_name();
    const auto host = world_->gather(std::as_bytes(std::span(own_host)));
    if (!recorder_) return;

    for (std::size_t r = 1; r < steps.size(); ++r) recorder_->steps(steps[r]);

    const hid_t file = recorder_->file();
    h5::write_table<SnapshotRow>(file, "snapshots", scored_);
    h5::write_table<RankRow>(file, "ranks", joined(ranks));
    if (config_.servers()) h5::write_table<StalenessRow>(file, "staleness", joined(staleness));
    if (config_.servers() || pairs()) h5::write_table<RequestRow>(file, "requests", joined(requests));
    if (!departures.empty()) h5::write_table<DepartureRow>(file, "departures", departures);
    if (traced()) h5::write_table<SpanRow>(file, "spans", joined(spans));

    const h5::Handle effective = h5::group(file, "effective");
    const double drawn = config_.settings.number("sample_fraction") * double(process_.data.train.count);
    for (const auto& [name, value] : effective_parameters(config_, n_))
      h5::set(effective, name, name == "global_minibatch" && drawn > 0 ? drawn : value);

    const h5::Handle provenance = h5::group(file, "provenance");
    std::vector<std::string> hosts;
    for (const auto& part : host) hosts.emplace_back(reinterpret_cast<const char*>(part.data()), part.size());
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    h5::set(provenance, "host", listed_once(hosts));
    h5::set(provenance, "mpi", world_->library());
    h5::set(provenance, "collectives", collectives_);
    h5::set(provenance, "hdf5", fmt::format("{}.{}.{}", major, minor, release));
    for (const auto& [key, value] : process_.provenance()) h5::set(provenance, key, value);

    const auto [least_used, most_used] = std::minmax_element(uses.begin(), uses.end());
    const auto [first_loss, last_loss] = losses(steps, departures);
    const std::int64_t updates = config_.servers() || pairs() ? counts[1] : totals_.steps;
    const h5::Handle result = h5::group(file, "result");
    h5::set(result, "seconds", seconds_);
    h5::set(result, "setup_s", setup_s_);
    h5::set(result, "scoring_s", scoring_s_);
    h5::set(result, "samples", counts[0]);
    h5::set(result, "updates", updates);
    h5::set(result, "synchronisations", totals_.synchronisations);
    h5::set(result, "unapplied_samples", counts[2]);
    h5::set(result, "lost_samples", config_.samples() - counts[0] - counts[2]);
    h5::set(result, "sample_uses_min", *least_used);
    h5::set(result, "sample_uses_max", *most_used);
    h5::set(result, "parameters", std::int64_t(n_));
    if (config_.skips_gradients()) {
      h5::set(file, "outcome_detail",
              std::string("gradients were skipped: seconds alone, nothing was learned"));
      h5::set(file, "outcome", std::string("ok"));
      return recorder_->close();
    }
    h5::set(result, "weights_sha256", process_.weights_sha256());
    h5::set(result, "first_loss", first_loss);
    h5::set(result, "last_loss", last_loss);

    const double chance = chance_of(process_.data.test);
    h5::set(result, "chance", chance);
    const Outcome outcome = outcome_of({.not_finite = not_finite(steps, finite),
                                        .first_loss = first_loss,
                                        .last_loss = last_loss,
                                        .snapshots = scored_,
                                        .samples = counts[0],
                                        .classes = process_.data.test.classes,
                                        .chance = chance});
    std::string detail = outcome.why;
    for (const DepartureRow& d : departures)
      detail += fmt::format("; rank {} left after step {}, at {:.4g} s", d.rank, d.step, d.seconds);
    h5::set(file, "outcome_detail", detail);
    h5::set(file, "outcome", outcome.name);
    recorder_->close();
  }

  // The share of the commonest class.
  static double chance_of(const Samples& test) {
    std::array<std::size_t, 256> count{};
    for (const std::uint8_t label : test.labels) ++count[label];
    return double(*std::max_element(count.begin(), count.end())) / double(test.labels.size());
  }

  // The first loss, worker or snapshot that is not; empty: all are.
  std::string not_finite(const std::vector<std::vector<StepRow>>& steps,
                         const std::vector<std::vector<std::uint8_t>>& weights) const {
    for (const auto& rows : steps)
      for (const StepRow& row : rows)
        if (!std::isfinite(row.loss))
          return fmt::format("the loss of rank {} in step {} is not finite", row.rank, row.step);
    for (std::size_t rank = 0; rank < weights.size(); ++rank)
      if (!weights[rank].at(0)) return fmt::format("weights of rank {} are not finite", rank);
    if (bad_snapshot_)
      return fmt::format("the weights after {} samples are not finite", scored_[*bad_snapshot_].used);
    return "";
  }

  // Training loss over the first and the last tenth of every worker's steps, of those that left the first
  // alone; not finite if any loss is not.
  static std::pair<double, double> losses(const std::vector<std::vector<StepRow>>& workers,
                                          const std::vector<DepartureRow>& departures) {
    double first = 0, last = 0, first_samples = 0, last_samples = 0;
    for (const auto& rows : workers) {
      const bool left = std::any_of(departures.begin(), departures.end(), [&](const DepartureRow& d) {
        return !rows.empty() && d.rank == rows[0].rank;
      });
      const std::size_t tenth = (rows.size() + 9) / 10;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const double sum = double(rows[i].loss) * rows[i].samples;
        if (!std::isfinite(sum)) return {sum, sum};
        if (i < tenth) first += sum, first_samples += rows[i].samples;
        if (!left && i + tenth >= rows.size()) last += sum, last_samples += rows[i].samples;
      }
    }
    return {first / first_samples, last / last_samples};
  }

  static std::string host_name() {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return name;
  }

  const RunConfig& config_;
  std::filesystem::path part_;
  World* world_;
  Process& process_;
  double setup_start_;
  std::size_t n_;
  std::unique_ptr<GpuGroup> between_gpus_;
  std::string collectives_;  // what carries them
  std::optional<Charges> charges_;
  std::optional<Slowness> slowness_;
  std::optional<Snapshots> snapshots_;
  std::optional<Recorder> recorder_;
  bool finite_ = true;                       // the weights that this worker ended with
  std::optional<std::size_t> bad_snapshot_;  // the first whose weights are not finite
  double setup_s_ = 0, start_ = 0, seconds_ = 0, last_seconds_ = 0, scoring_s_ = 0;
  std::int64_t used_ = 0, updates_ = 0, unapplied_ = 0;
  Vector at_;               // the scored weights, where those are not in the host's memory
  std::deque<Vector> own_;  // of a worker whose vectors are not in the host's memory
  std::vector<StepRow> rows_;
  std::size_t settled_ = 0;                                 // rows whose losses are known
  std::deque<std::pair<std::size_t, PendingLoss>> losses_;  // of later rows
  std::vector<SnapshotRow> scored_;
  std::vector<StalenessRow> staleness_;
  std::vector<RequestRow> requests_;
  std::vector<DepartureRow> departures_;                              // of this rank
  std::size_t own_copies_ = std::numeric_limits<std::size_t>::max();  // later ones are of who has left
  std::vector<std::int64_t> own_samples_;   // of workers in pairs, in each copy; in the end of all of them
  std::array<std::vector<Span>, 3> spans_;  // by SpanRow::Kind
  RankRow totals_;
};

// Runs `rank(world)`, and ends all ranks where it fails.
template <typename Rank>
void in_world(const RunConfig& config, Rank rank) {
  const auto world = World::open(config.servers(), config.minibatch());
  const auto fail = [&](const char* why) {
    fmt::print(stderr, "rank {}: {}\n", world->rank(), why);
    world->abort();
  };
  try {
    rank(*world);
  } catch (const std::bad_alloc&) {
    fail("not enough memory for data set, model and snapshots (snapshot_memory_mib)");
  } catch (const std::exception& e) {
    fail(e.what());
  }
}

}  // namespace

void run_rank(const RunConfig& config, const std::filesystem::path& part,
              const std::filesystem::path& data_dir) {
  in_world(config, [&](World& world) {
    const double begun = world.now();
    Process process(config, data_dir, world.rank());
    Run(world, config, part, process, begun, nullptr)();
  });
}

void run_rank(const RunConfig& config, const std::filesystem::path& part, Process& process,
              const Cluster* cluster) {
  in_world(config, [&](World& world) { Run(world, config, part, process, world.now(), cluster)(); });
}

}  // namespace dsgd
