// SPDX-License-Identifier: Apache-2.0
#include "config/papers.h"

#include <fmt/format.h>

#include <algorithm>

namespace dsgd {
namespace {

std::string plain(const std::string& name) {  // "AD-PSGD" as "adpsgd"
  std::string letters;
  for (const char c : name) {
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) letters += c;
    if (c >= 'A' && c <= 'Z') letters += char(c - 'A' + 'a');
  }
  return letters;
}

bool within(const std::string& text, const std::string& word) {
  return !plain(word).empty() && plain(text).find(plain(word)) != std::string::npos;
}

}  // namespace

const std::vector<PaperName>& paper_names() {
  static const std::vector<PaperName> names{
      {"hardsync", "sync"},
      {"SSGD", "sync"},
      {"Goyal", "sync",
       "optimizer = { learning_rate = \"0.1 * workers\", schedule = \"warmup\", schedule_factor = \"1 / "
       "workers\", "
       "schedule_samples = 300000 }"},
      {"MLlib", "sync", "sample_fraction = 0.1"},
      {"local SGD", "averaging"},
      {"SparkNet", "averaging"},
      {"post-local SGD", "averaging", "warmup_steps = 1000, warmup = \"constant\""},
      {"DistBelief", "downpour"},
      {"ASGD", "downpour", "overlap = false"},
      {"SASGD", "staleness_aware", "n = \"workers\""},
      {"softsync", "staleness_aware"},
      {"DynSGD", "staleness_aware", "n = \"workers\", modulation = \"inverse_plus_one\""},
      {"block momentum", "bmuf"},
      {"stale synchronous parallel", "ssp"},
      {"Petuum", "ssp"},
      {"BSP", "ssp", "s = 0"},
      {"B-FASGD", "fasgd", "c_fetch = 0.5"},
      {"elastic averaging", "easgd"},
      {"Lookahead", "slowmo", "workers = 1, alpha = 0.5, beta = 0"},
      {"DGC", "topk"},
      {"Deep Gradient Compression", "topk"},
      {"Signum", "signsgd", "beta = 0.9"},
      {"majority vote", "signsgd"},
      {"1-bit SGD", "onebit"},
      {"gossip", "dpsgd"},
      {"L-BFGS", "sandblaster"},
  };
  return names;
}

std::string PaperName::says() const { return strategy + (settings.empty() ? "" : " with " + settings); }

const PaperName* find_paper_name(const std::string& name) {
  for (const PaperName& known : paper_names())
    if (plain(known.name) == plain(name)) return &known;
  return nullptr;
}

bool mentions(const PaperName& name, const std::string& word) { return within(name.name, word); }

bool mentions(const StrategyEntry& strategy, const std::string& word) {
  const auto& names = paper_names();
  return within(strategy.name, word) || within(strategy.summary, word) || within(strategy.paper, word) ||
         std::any_of(names.begin(), names.end(), [&](const PaperName& name) {
           return name.strategy == strategy.name && mentions(name, word);
         });
}

}  // namespace dsgd
