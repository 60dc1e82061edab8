// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "launch/calibration.h"
#include "results/record.h"
#include "strategy.h"

namespace dsgd {

std::string Calibration::text() const {
  const auto provenance = provenance_here();
  const auto known = [&](const char* key) { return std::get<std::string>(provenance.at(key)); };
  std::string out;
  const auto put = [&](const std::string& key, double value, const std::string& comment) {
    out += fmt::format("{:<28} # {}\n", fmt::format("{} = {:.4g}", key, value), comment);
  };
  const std::string &first = o_.devices.front(), &model = o_.models.front();
  const std::string usual = fmt::format("{} with minibatch {}", model, middle_);

  out += fmt::format("title = \"{}, {} core{}\"\n\n", known("cpu"), cores_, cores_ == 1 ? "" : "s");
  out += fmt::format(
      "# Measured by `dsgd calibrate`, {}, commit {}.\n"
      "# Gradients and work: means without the slowest {:.0f} %; messages: medians; \"±\": half the distance "
      "of the "
      "quartiles.\n\n",
      utc_now(), known("commit").substr(0, 12), 100 * slowest);
  const Measured busy = seconds(gradients(first, model, middle_, o_.ranks));
  put("jitter", busy.sigma, usual);
  const double latency = probe("update", 1).median / 2;
  const Measured meeting = probe("sum", 1);
  put("round", std::max(0.0, meeting.median - latency),
      fmt::format("s; a sum of one float by 2 workers takes {:.2g} us {}, a message {:.2g} us",
                  1e6 * meeting.median, meeting.spread(), 1e6 * latency));

  for (const std::string& device : o_.devices) {
    const bool used = device == first;
    out += fmt::format("\n[hosts.{}]\ncount = 1\n", device);
    out += fmt::format("{:<28} # {}\n", fmt::format("slots = {}", used ? o_.ranks : 0),
                       used ? "workers; gradients were timed with as many at work"
                            : "no worker computes on these unless this is raised");
    put("speed",
        flops_per_sample(network()) * middle_ / seconds(gradients(device, model, middle_, o_.ranks)).mean,
        fmt::format("flop/s, for models that are not below; {}", usual));
    out +=
        "bandwidth = 117.7e6          # bytes/s, to other hosts; assumed: 1 Gbit/s * 1448/1538\n"
        "latency = 25e-6              # s; assumed\n";
    out += fmt::format("\n[hosts.{}.seconds]        # of a gradient while {} rank{} at work\n", device,
                       o_.ranks, o_.ranks == 1 ? " is" : "s are");
    if (o_.ranks > 1)
      out += fmt::format("# {} takes a rank that is alone {:.4g} s\n", usual,
                         seconds(gradients(device, model, middle_, 1)).mean);
    for (const std::string& name : o_.models)
      for (const int minibatch : o_.minibatches) {
        const Measured m = seconds(gradients(device, name, minibatch, o_.ranks));
        put(fmt::format("{}.{}", name, minibatch), m.mean, m.spread());
      }
    if (!o_.strategies.empty())
      out += fmt::format("\n[hosts.{}.work]           # s per parameter and step, {}, default settings\n",
                         device, usual);
    for (const std::string& strategy : o_.strategies)
      for (const int workers : {1, 2})
        if (const Kind kind = steps(device, strategy, workers); rows_.contains(kind)) {
          const Measured m = work(kind);
          put(fmt::format("{}.{}", strategy, workers), m.mean, m.spread());
        }
  }

  // What the simulation makes of a sum of two workers: two messages of half the vector each way over memory.
  const Measured bandwidth =
      over_sizes([&](double n) { return 8 * n / probe("sum", std::size_t(n)).median; });
  const Measured rate = over_sizes([&](double n) {
    return n / (probe("update", std::size_t(n)).median - 2 * latency - 8 * n / bandwidth.median);
  });
  const auto sizes = [](const Measured& m) {
    return fmt::format("median of the sizes below, quartiles {:.3g} and {:.3g}", m.low, m.high);
  };
  out += "\n[memory]                     # from rank to rank of this host\n";
  put("bandwidth", bandwidth.median,
      "bytes/s with which simulated sums of 2 workers take as long; " + sizes(bandwidth));
  put("latency", latency, "s; half of a push and pull of one float, " + probe("update", 1).spread());
  if (cores_ > 1) {
    const Measured free = trip(steps(first, round_trips, 1)),
                   crowded = trip(steps(first, round_trips, 2, cores_ - 1));
    put("wake", std::max(0.0, crowded.mean - free.mean) / 2,
        fmt::format(
            "s; half of what push and pull take longer with {} ranks than with 2: {:.3g} us {}, {:.3g} us {}",
            cores_ + 1, 1e6 * crowded.mean, crowded.spread(), 1e6 * free.mean, free.spread()));
  }
  out += "#   floats     push and pull, us         the same and SGD          sum of 2 workers\n";
  for (const auto& [n, took] : probes_.at("exchange")) {
    out += fmt::format("# {:>8}", n);
    for (const char* what : {"exchange", "update", "sum"}) {
      const Measured m = probe(what, n);
      out += fmt::format("{:>12.4g} {:<13}", 1e6 * m.median, m.spread());
    }
    out.erase(out.find_last_not_of(' ') + 1);
    out += "\n";
  }
  for (const auto& [what, floats] : {std::pair("copy", 2), std::pair("axpy", 3)})
    for (const auto& [n, took] : probes_.at(what)) {
      const Measured m(took);
      out += fmt::format("# {} of {} floats: {:.3g} GB/s {} on each of 2 ranks\n", what, n,
                         1e-9 * 4 * floats * double(n) / m.median, m.spread());
    }
  out += "\n[server]\n";
  put("rate", rate.median, "parameters/s: push, SGD and pull, less their messages; " + sizes(rate));
  out += "placement = \"worker\"         # on this host\n";
  return out;
}

}  // namespace dsgd
