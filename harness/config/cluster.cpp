// SPDX-License-Identifier: Apache-2.0
#include "config/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "random.h"

namespace dsgd {
namespace {

constexpr double any = std::numeric_limits<double>::infinity();
const std::string prefix = "cluster.hosts.";
constexpr const char* in_names = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

std::vector<std::string> parts_of(const std::string& key) {
  std::vector<std::string> parts{""};
  for (const char c : key)
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

// Keys that end in a number: "seconds" of a model, "work" of a strategy.
bool names_series(const std::string& key, const std::string& of) {
  return (key == "seconds" && find_model(of)) || (key == "work" && find_strategy(of));
}

double uniform(std::mt19937_64& random) { return (double(random() >> 11) + 0.5) * 0x1p-53; }  // in (0, 1)
double normal(std::mt19937_64& random) {
  const double radius = std::sqrt(-2 * std::log(uniform(random)));
  return radius * std::cos(2 * std::numbers::pi * uniform(random));
}

}  // namespace

std::optional<Lack> no_simulator() {
#ifdef DSGD_NO_SIMGRID
  return Lack{DSGD_NO_SIMGRID, DSGD_SIMGRID_REMEDY};
#else
  return std::nullopt;
#endif
}

const std::vector<Parameter>& cluster_keys() {
  static const std::vector<Parameter> keys{
      {"cluster.name", std::string("ethernet-1g"),
       "modelled cluster of a simulated run: a file, or one of `dsgd list clusters`; short: cluster = "
       "\"NAME\". "
       "The keys below take the place of its own"},
      {"cluster.title", std::string(), "what it is, in words"},
      {"cluster.platform", std::string(),
       "a SimGrid platform (XML), in place of bandwidths and latencies; a path from the cluster's file"},
      {"cluster.platform_sha256", std::string(), "of that file; empty: whatever it has"},
      {"cluster.backbone.bandwidth", 0.0, "bytes/s of the switch; 0: it does not limit", 0, any},
      {"cluster.backbone.latency", 0.0, "seconds", 0, 1e3},
      {"cluster.memory.bandwidth", 10e9, "bytes/s between ranks of one host", 1, any},
      {"cluster.memory.latency", 0.5e-6, "seconds", 0, 1e3},
      {"cluster.memory.wake", 0.0,
       "seconds that such a message takes longer on a host with more ranks than slots, which sleep while "
       "they "
       "wait",
       0, 1e3},
      {"cluster.jitter", 0.0,
       "sigma of the log-normal factor, of mean 1, on the seconds of every gradient; in real runs ranks "
       "sleep for what it is beyond 1",
       0, 3},
      {"cluster.straggler.workers", std::int64_t(0),
       "how many may be slow, the last ones; 0: all. In real runs they sleep", 0, 4096},
      {"cluster.straggler.share", 1.0, "of their gradients that are slow", 0, 1},
      {"cluster.straggler.slowdown", 1.0, "times as long", 1, 1e6},
      {"cluster.server.rate", 0.0, "parameters that a server updates a second; 0: takes no time", 0, any},
      {"cluster.server.placement",
       std::string("own"),
       "own: a host for every server; worker: beside a worker",
       -any,
       any,
       {"own", "worker"}},
      {"cluster.server.hosts", std::string(),
       "whose last ones are the servers' own; empty: the first by name"},
      {"cluster.compression", 0.0,
       "seconds that a worker takes to pack or unpack one parameter of what it sends; 0: no time. Not where "
       "the host's work.STRATEGY is known, which contains it",
       0, 1e3},
      {"cluster.round", 0.0, "seconds of every synchronisation besides its messages: a scheduler's", 0, 1e6},
  };
  return keys;
}

const std::vector<Parameter>& host_keys() {
  static const std::vector<Parameter> keys{
      {"count", std::int64_t(1), "hosts of this kind", 1, 1e6},
      {"slots", std::int64_t(1), "workers that a host has room for", 0, 4096},
      {"speed", 0.0, "flop/s of one worker", 0, any},
      {"efficiency", 1.0, "share of `speed` that gradients reach", 1e-9, 1},
      {"bandwidth", 125e6, "bytes/s of the host's link to the switch, each way", 1, any},
      {"latency", 25e-6, "seconds, half of what a message between two hosts takes", 0, 1e3},
      {"names", std::string(), "of these hosts in the platform; {} stands for 0, 1, 2, ..."},
      {"seconds.MODEL.MINIBATCH", 1.0,
       "of one gradient, in place of speed and efficiency; between two minibatches on a line, beyond in "
       "proportion",
       1e-12, 1e9},
      {"work.STRATEGY.WORKERS", 1e-9,
       "seconds per parameter of what a worker's step computes besides the gradient (update, coding), with "
       "so "
       "many workers; between two numbers of workers and beyond them on a line",
       0.0, 1.0},
  };
  return keys;
}

const Parameter* find_host_key(const std::string& full) {
  if (!full.starts_with(prefix)) return nullptr;
  const auto parts = parts_of(full);  // cluster hosts NAME KEY...
  if (parts[2].empty() || parts[2].find_first_not_of(in_names) != std::string::npos) return nullptr;
  if (parts.size() == 6) {
    const bool digits = !parts[5].empty() && parts[5].size() < 9 && parts[5][0] != '0' &&
                        parts[5].find_first_not_of("0123456789") == std::string::npos;
    if (!digits || !names_series(parts[3], parts[4])) return nullptr;
    for (const Parameter& key : host_keys())
      if (key.name.starts_with(parts[3] + ".")) return &key;
  }
  if (parts.size() == 4)
    for (const Parameter& key : host_keys())
      if (key.name == parts[3]) return &key;
  return nullptr;
}

bool holds_host_keys(const std::string& table) {
  const auto parts = parts_of(table);
  if (parts.size() < 2 || parts[0] != "cluster" || parts[1] != "hosts") return false;
  return parts.size() <= 3 || (parts.size() == 4 && (parts[3] == "seconds" || parts[3] == "work")) ||
         (parts.size() == 5 && names_series(parts[3], parts[4]));
}

std::vector<std::string> names_in_hosts(const std::string& table) {
  const auto parts = parts_of(table);  // cluster hosts NAME ... and an empty one
  std::vector<std::string> names;
  if (!holds_host_keys(table.substr(0, table.size() - 1))) return names;
  for (const Parameter& key : host_keys()) {
    const auto own = parts_of(key.name);
    if (parts.size() == 4) names.push_back(own[0]);
    if (parts.size() == 6 && own[0] == parts[3]) names.push_back(own[2]);
  }
  if (parts.size() == 5 && parts[3] == "seconds")
    for (const ModelEntry& model : all_models()) names.push_back(model.name);
  if (parts.size() == 5 && parts[3] == "work")
    for (const StrategyEntry* strategy : all_strategies()) names.push_back(strategy->name);
  return names;
}

std::string hosts_of(const std::string& full) {
  return full.starts_with(prefix) ? parts_of(full)[2] : std::string();
}

bool slows_ranks(const std::string& full) {
  return full == "cluster.jitter" || full.starts_with("cluster.straggler.");
}

Cluster::Cluster(const RunConfig& config) {
  const Settings& s = config.settings;
  const std::string& model = s.text("model");
  std::map<std::string, std::map<int, double>> seconds, work;
  std::vector<std::string> names;
  for (const auto& [key, value] : s.values()) {
    if (!key.starts_with(prefix)) continue;
    const auto parts = parts_of(key);
    if (parts[3] == "count") names.push_back(parts[2]);
    if (parts[3] == "seconds" && parts[4] == model)
      seconds[parts[2]][std::stoi(parts[5])] = std::get<double>(value);
    if (parts[3] == "work" && parts[4] == config.strategy->name)
      work[parts[2]][std::stoi(parts[5])] = std::get<double>(value);
  }
  for (const std::string& name : names) {
    const std::string own = prefix + name + ".";
    hosts_.push_back({name,
                      int(s.integer(own + "count")),
                      int(s.integer(own + "slots")),
                      s.number(own + "speed") * s.number(own + "efficiency"),
                      seconds[name],
                      work[name],
                      s.text(own + "names"),
                      {s.number(own + "bandwidth"), s.number(own + "latency"), {}}});
    if (hosts_.back().speed == 0 && hosts_.back().seconds.empty())
      conflicts_.push_back({{own + "speed", own + "seconds", own + "count", "cluster.name"},
                            fmt::format("hosts {0} have no speed, and no seconds for {1} (allowed: "
                                        "hosts.{0}.speed above 0, or hosts.{0}.seconds.{1}.MINIBATCH)",
                                        name, model)});
  }
  platform_.file = s.text("cluster.platform");
  platform_.backbone_bandwidth = s.number("cluster.backbone.bandwidth");
  platform_.backbone_latency = s.number("cluster.backbone.latency");
  platform_.memory_bandwidth = s.number("cluster.memory.bandwidth");
  platform_.memory_latency = s.number("cluster.memory.latency");
  for (const Hosts& h : hosts_)
    if (!platform_.file.empty() &&
        (h.names.empty() || (h.count > 1 && h.names.find("{}") == std::string::npos)))
      conflicts_.push_back(
          {{prefix + h.name + ".names", prefix + h.name + ".count", "cluster.name"},
           fmt::format("which of the platform's hosts are the {} of {}? (allowed: names such as "
                       "\"node-{{}}\")",
                       h.count, h.name)});
  if (hosts_.empty())
    conflicts_.push_back({{"cluster.name"}, "the cluster has no hosts (allowed: a table hosts.NAME)"});
  else
    seat(config.workers(), config.servers(), s.text("cluster.server.placement") == "own",
         s.text("cluster.server.hosts"));
  std::vector<int> ranks(platform_.hosts.size());
  for (std::size_t r = 0; r < seats_.size(); ++r)
    if (++ranks[seats_[r]] > hosts(int(r)).slots)
      platform_.hosts[seats_[r]].wake = s.number("cluster.memory.wake");
}

// Servers take the last hosts of their kind. Workers go where the smallest share of the room is taken, so
// that any number of them has the cluster's mix; hosts are filled one after the other.
void Cluster::seat(int workers, int servers, bool servers_apart, const std::string& server_hosts) {
  const auto named =
      std::find_if(hosts_.begin(), hosts_.end(), [&](const Hosts& h) { return h.name == server_hosts; });
  if (!server_hosts.empty() && named == hosts_.end()) {
    std::string names;
    for (const Hosts& h : hosts_) names += (names.empty() ? "" : ", ") + h.name;
    conflicts_.push_back({{"cluster.server.hosts", "cluster.name"},
                          fmt::format("unknown hosts \"{}\" (allowed: {})", server_hosts, names)});
    return;
  }
  const int reserved_kind = server_hosts.empty() ? 0 : int(named - hosts_.begin());
  const int reserved = servers_apart ? servers : 0;
  std::vector<std::int64_t> room;
  std::int64_t all = 0;
  for (int k = 0; k < int(hosts_.size()); ++k) {
    const std::int64_t left = std::int64_t(hosts_[k].count) - (k == reserved_kind ? reserved : 0);
    room.push_back(std::max<std::int64_t>(left, 0) * hosts_[k].slots);
    all += room.back();
  }
  if (reserved > hosts_[reserved_kind].count || all < workers) {
    const std::string key = prefix + hosts_[reserved_kind].name;
    conflicts_.push_back(
        {{"workers", "servers", key + ".count", key + ".slots", "cluster.name"},
         fmt::format("{} worker{} and {} server{} do not fit the cluster, which has room for {} worker{}{} "
                     "(allowed: fewer ranks, more hosts.{}.count or slots, or server.placement = \"worker\")",
                     workers, workers == 1 ? "" : "s", servers, servers == 1 ? "" : "s", all,
                     all == 1 ? "" : "s", reserved ? " beside them" : "", hosts_[reserved_kind].name)});
    return;
  }
  std::vector<std::int64_t> taken(hosts_.size());
  std::map<std::pair<int, std::int64_t>, int> made;  // (kind, host): index in platform_
  const auto sit = [&](int kind, std::int64_t host) {
    const auto [at, fresh] = made.try_emplace({kind, host}, int(platform_.hosts.size()));
    if (fresh) {
      platform_.hosts.push_back(hosts_[kind].link);
      std::string& called = platform_.hosts.back().name = hosts_[kind].names;
      if (const auto number = called.find("{}"); number != std::string::npos)
        called.replace(number, 2, std::to_string(host));
    }
    seats_.push_back(at->second);
    kind_.push_back(kind);
  };
  for (int w = 0; w < workers; ++w) {
    int best = -1;
    for (int k = 0; k < int(hosts_.size()); ++k)
      if (taken[k] < room[k] && (best < 0 || taken[k] * room[best] < taken[best] * room[k])) best = k;
    sit(best, taken[best]++ / hosts_[best].slots);
  }
  for (int server = 0; server < servers; ++server) {
    if (reserved) {
      sit(reserved_kind, hosts_[reserved_kind].count - servers + server);
    } else {
      seats_.push_back(seats_[server % workers]);
      kind_.push_back(kind_[server % workers]);
    }
  }
}

Slowness::Slowness(const RunConfig& config, int rank)
    : jitter_(config.settings.number("cluster.jitter")),
      share_(config.settings.number("cluster.straggler.share")),
      slowdown_(config.settings.number("cluster.straggler.slowdown")),
      random_(seeded(config.seed(), 0x636c6f636b, std::uint64_t(rank))) {
  const std::int64_t stragglers = config.settings.integer("cluster.straggler.workers");
  if (stragglers > 0 && rank < config.workers() - stragglers) slowdown_ = 1;
}

double Slowness::slowed(double seconds) {
  if (slowdown_ > 1 && uniform(random_) < share_) seconds *= slowdown_;
  if (jitter_ > 0) seconds *= std::exp(jitter_ * normal(random_) - 0.5 * jitter_ * jitter_);
  return seconds;
}

Charges::Charges(const RunConfig& config, const Cluster& cluster, const Network& network, int rank)
    : hosts_(cluster.hosts(rank)),
      flops_(flops_per_sample(network)),
      rate_(config.settings.number("cluster.server.rate")),
      round_(config.settings.number("cluster.round")),
      compression_(hosts_.work.empty() ? config.settings.number("cluster.compression") : 0),
      workers_(config.workers()),
      slowness_(config, rank) {}

double Charges::gradient(int samples) { return samples == 0 ? 0 : slowness_.slowed(planned(samples)); }

double Charges::planned(int samples) const {
  const auto& known = hosts_.seconds;
  if (known.empty()) return flops_ * samples / hosts_.speed;
  const auto above = known.lower_bound(samples);
  if (above == known.end()) return known.rbegin()->second * samples / known.rbegin()->first;
  if (above == known.begin()) return above->second * samples / above->first;
  const auto below = std::prev(above);
  const double at = double(samples - below->first) / (above->first - below->first);
  return below->second + at * (above->second - below->second);
}

double Charges::work(std::size_t parameters) const {
  const auto& known = hosts_.work;
  if (known.empty()) return 0;
  auto above = known.lower_bound(workers_);
  if (above == known.end()) --above;
  const auto below = above == known.begin() ? above : std::prev(above);
  if (above == known.begin() && known.size() > 1) ++above;
  const double slope = above == below ? 0 : (above->second - below->second) / (above->first - below->first);
  return std::max(0.0, below->second + slope * (workers_ - below->first)) * double(parameters);
}

double Charges::update(std::size_t parameters) const { return rate_ > 0 ? double(parameters) / rate_ : 0; }

}  // namespace dsgd
