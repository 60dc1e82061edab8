// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "run/outcome.h"
#include "run/rank.h"

namespace dsgd {
namespace {

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

class Report {
 public:
  Report(Rank& rank, const Scores& scores)
      : rank_(rank),
        config_(rank.config),
        world_(rank.world),
        process_(rank.process),
        log_(rank.log),
        scores_(scores) {}

  void operator()() {
    const Traffic& traffic = world_.traffic();
    log_.totals.rank = world_.rank();
    log_.totals.server = !world_.is_worker();
    log_.totals.wait_s = config_.servers() || rank_.pairs() ? traffic.waited : lock_step_wait();
    log_.totals.communication_s = std::max(0.0, traffic.seconds - log_.totals.wait_s);
    log_.totals.compression_s = traffic.compressed;
    log_.totals.bytes_sent = traffic.bytes_sent;
    log_.totals.bytes_received = traffic.bytes_received;
    log_.totals.messages = traffic.messages;
    log_.totals.synchronisations = traffic.synchronisations;

    const auto ranks = gather_rows(world_, std::vector{log_.totals});
    const auto steps = gather_rows(world_, log_.steps);
    const auto staleness = gather_rows(world_, log_.staleness);
    const auto requests = gather_rows(world_, log_.requests);
    const auto finite = gather_rows(world_, std::vector{std::uint8_t(log_.finite)});
    const auto departures = joined(gather_rows(world_, log_.departures));
    std::vector<SpanRow> own_spans;
    for (const auto kind : {SpanRow::compute, SpanRow::transfer, SpanRow::wait})
      for (const Span& s : log_.spans[kind])
        own_spans.push_back({world_.rank(), kind, s.begin - rank_.start, s.end - rank_.start});
    const auto spans = gather_rows(world_, own_spans);
    std::vector<std::int64_t> uses;
    if (!world_.simulated() || world_.rank() == 0)
      uses.assign(process_.orders->uses.begin(), process_.orders->uses.end());
    if (!world_.simulated()) world_.sum(uses);
    std::array<std::int64_t, 3> counts{};
    if (rank_.pairs())
      counts = {log_.totals.samples, log_.totals.steps, 0};
    else if (config_.servers() ? world_.rank() == world_.workers() : world_.rank() == 0)
      counts = {log_.used, log_.updates, log_.unapplied};
    world_.sum(counts);
    const std::string own_host = host_name();
    const auto host = world_.gather(std::as_bytes(std::span(own_host)));
    if (!rank_.recorder) return;

    for (std::size_t r = 1; r < steps.size(); ++r) rank_.recorder->steps(steps[r]);

    const hid_t file = rank_.recorder->file();
    h5::write_table<SnapshotRow>(file, "snapshots", scores_.rows);
    h5::write_table<RankRow>(file, "ranks", joined(ranks));
    if (config_.servers()) h5::write_table<StalenessRow>(file, "staleness", joined(staleness));
    if (config_.servers() || rank_.pairs()) h5::write_table<RequestRow>(file, "requests", joined(requests));
    if (!departures.empty()) h5::write_table<DepartureRow>(file, "departures", departures);
    if (rank_.traced()) h5::write_table<SpanRow>(file, "spans", joined(spans));

    const h5::Handle effective = h5::group(file, "effective");
    const double drawn = config_.settings.number("sample_fraction") * double(process_.data.train.count);
    for (const auto& [name, value] : effective_parameters(config_, rank_.n))
      h5::set(effective, name, name == "global_minibatch" && drawn > 0 ? drawn : value);

    const h5::Handle provenance = h5::group(file, "provenance");
    std::vector<std::string> hosts;
    for (const auto& part : host) hosts.emplace_back(reinterpret_cast<const char*>(part.data()), part.size());
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    h5::set(provenance, "host", listed_once(hosts));
    h5::set(provenance, "mpi", world_.library());
    h5::set(provenance, "collectives", log_.collectives);
    h5::set(provenance, "hdf5", fmt::format("{}.{}.{}", major, minor, release));
    for (const auto& [key, value] : process_.provenance()) h5::set(provenance, key, value);

    const auto [least_used, most_used] = std::minmax_element(uses.begin(), uses.end());
    const auto [first_loss, last_loss] = losses(steps, departures);
    const std::int64_t updates = config_.servers() || rank_.pairs() ? counts[1] : log_.totals.steps;
    const h5::Handle result = h5::group(file, "result");
    h5::set(result, "seconds", log_.seconds);
    h5::set(result, "setup_s", log_.setup_s);
    h5::set(result, "scoring_s", scores_.seconds);
    h5::set(result, "samples", counts[0]);
    h5::set(result, "updates", updates);
    h5::set(result, "synchronisations", log_.totals.synchronisations);
    h5::set(result, "unapplied_samples", counts[2]);
    h5::set(result, "lost_samples", config_.samples() - counts[0] - counts[2]);
    h5::set(result, "sample_uses_min", *least_used);
    h5::set(result, "sample_uses_max", *most_used);
    h5::set(result, "parameters", std::int64_t(rank_.n));
    if (config_.skips_gradients()) {
      h5::set(file, "outcome_detail",
              std::string("gradients were skipped: seconds alone, nothing was learned"));
      h5::set(file, "outcome", std::string("ok"));
      return rank_.recorder->close();
    }
    h5::set(result, "weights_sha256", process_.weights_sha256());
    h5::set(result, "first_loss", first_loss);
    h5::set(result, "last_loss", last_loss);

    const double chance = chance_of(process_.data.test);
    h5::set(result, "chance", chance);
    const Outcome outcome = outcome_of({.not_finite = not_finite(steps, finite),
                                        .first_loss = first_loss,
                                        .last_loss = last_loss,
                                        .snapshots = scores_.rows,
                                        .samples = counts[0],
                                        .classes = process_.data.test.classes,
                                        .chance = chance});
    std::string detail = outcome.why;
    for (const DepartureRow& d : departures)
      detail += fmt::format("; rank {} left after step {}, at {:.4g} s", d.rank, d.step, d.seconds);
    h5::set(file, "outcome_detail", detail);
    h5::set(file, "outcome", outcome.name);
    rank_.recorder->close();
  }

 private:
  // Waiting in lock-step: what a worker spent in collectives beyond the one that came last to the same step.
  double lock_step_wait() {
    std::vector<double> own(log_.steps.size());
    std::transform(log_.steps.begin(), log_.steps.end(), own.begin(),
                   [](const StepRow& row) { return row.communication_s; });
    std::vector<double> least = own;
    world_.min(least);
    return std::accumulate(own.begin(), own.end(), 0.0) - std::accumulate(least.begin(), least.end(), 0.0);
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
    if (scores_.not_finite)
      return fmt::format("the weights after {} samples are not finite",
                         scores_.rows[*scores_.not_finite].used);
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

  Rank& rank_;
  const RunConfig& config_;
  World& world_;
  Process& process_;
  RankLog& log_;
  const Scores& scores_;
};

}  // namespace

void report(Rank& rank, const Scores& scores) { Report{rank, scores}(); }

}  // namespace dsgd
