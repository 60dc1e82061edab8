// SPDX-License-Identifier: Apache-2.0
#include "results/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "results/results.h"

namespace dsgd {
namespace {

// The k-th collective of all workers is the same one.
std::vector<SpanRow> waits_for_the_last(const std::vector<SpanRow>& spans) {
  std::vector<std::vector<SpanRow>> collectives;  // by rank
  for (const SpanRow& span : spans) {
    if (span.kind != SpanRow::transfer) continue;
    collectives.resize(std::max(collectives.size(), std::size_t(span.rank) + 1));
    collectives[span.rank].push_back(span);
  }
  std::vector<SpanRow> waits;
  std::size_t rounds = collectives.empty() ? 0 : collectives[0].size();
  for (const auto& own : collectives) rounds = std::min(rounds, own.size());
  for (std::size_t k = 0; k < rounds; ++k) {
    double last = 0;
    for (const auto& own : collectives) last = std::max(last, own[k].begin);
    for (const auto& own : collectives)
      if (const double end = std::min(last, own[k].end); end > own[k].begin)
        waits.push_back({own[k].rank, SpanRow::wait, own[k].begin, end});
  }
  return waits;
}

}  // namespace

void write_trace(const std::filesystem::path& result, const std::filesystem::path& json) {
  const RunResult run = read_result(result);
  std::vector<SpanRow> spans = read_spans(result);
  if (spans.empty())
    throw std::runtime_error(fmt::format(
        "{}: nothing says when its ranks did what; run it with --set trace=true", result.string()));
  const bool served =
      std::any_of(run.ranks.begin(), run.ranks.end(), [](const RankRow& r) { return r.server; });
  if (!served) {
    const auto waits = waits_for_the_last(spans);
    spans.insert(spans.end(), waits.begin(), waits.end());
  }
  std::erase_if(spans, [](const SpanRow& s) { return s.end <= s.begin; });
  // Of two that begin together the outer one comes first.
  std::stable_sort(spans.begin(), spans.end(), [](const SpanRow& a, const SpanRow& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });

  std::ofstream out(json);
  out << fmt::format(R"({{"displayTimeUnit":"ms","traceEvents":[
{{"ph":"M","pid":0,"name":"process_name","args":{{"name":"{}{}"}}}})",
                     run.name, run.simulated() ? " (simulated: virtual seconds)" : "");
  int servers = 0;
  for (const RankRow& r : run.ranks)
    out << fmt::format(
        ",\n"
        R"({{"ph":"M","pid":0,"tid":{},"name":"thread_name","args":{{"name":"{}"}}}})",
        r.rank, r.server ? fmt::format("server {}", servers++) : fmt::format("worker {}", r.rank));
  constexpr const char* names[] = {"compute", "transfer", "wait"};
  for (const SpanRow& span : spans)  // microseconds
    out << fmt::format(
        ",\n"
        R"({{"ph":"X","pid":0,"tid":{},"name":"{}","ts":{:.3f},"dur":{:.3f}}})",
        span.rank, names[span.kind], 1e6 * span.begin, 1e6 * (span.end - span.begin));
  out << "\n]}\n";
  if (!out.flush())
    throw std::runtime_error(
        fmt::format("{}: {}; a trace needs a folder that exists and can be written to (-o)", json.string(),
                    std::strerror(errno)));
}

}  // namespace dsgd
