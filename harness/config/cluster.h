// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "config/experiment.h"
#include "network.h"
#include "simulated/simulation.h"

namespace dsgd {

// The keys of a modelled cluster: those of every cluster, and those of each kind of its hosts. The full names
// of the latter are "cluster.hosts.NAME.KEY", "cluster.hosts.NAME.seconds.MODEL.MINIBATCH" and
// "cluster.hosts.NAME.work.STRATEGY.WORKERS".
const std::vector<Parameter>& cluster_keys();
const std::vector<Parameter>& host_keys();
const Parameter* find_host_key(const std::string& full);  // null if unknown
bool holds_host_keys(const std::string& table);           // "cluster.hosts", "cluster.hosts.NAME", ...
std::string hosts_of(const std::string& full);            // NAME; empty: not a host's key
bool slows_ranks(const std::string& full);  // applies to real runs too, in which slow ranks sleep
// Allowed names in a table such as "cluster.hosts.NAME."; empty if it holds no host keys.
std::vector<std::string> names_in_hosts(const std::string& table);

// Why this build cannot simulate clusters, and the remedy; empty if it can.
struct Lack {
  std::string why, remedy;
};
std::optional<Lack> no_simulator();

// The cluster of a simulated run: hosts behind one switch, and the host of each rank. All but conflicts() may
// only be called if there are no conflicts.
class Cluster {
 public:
  struct Hosts {  // one kind of hosts
    std::string name;
    int count = 0, slots = 0;       // number of hosts, and of workers that fit on each
    double speed = 0;               // flop/s of a worker's gradients
    std::map<int, double> seconds;  // of a gradient of the run's model, by minibatch; replaces `speed`
    std::map<int, double> work;  // seconds of the run's strategy per parameter and step, by number of workers
    std::string names;           // in the platform's file
    Platform::Host link;
  };
  explicit Cluster(const RunConfig& config);

  // Why the run cannot have this cluster.
  const std::vector<Conflict>& conflicts() const { return conflicts_; }

  const Hosts& hosts(int rank) const { return hosts_[kind_.at(rank)]; }
  const std::vector<int>& seats() const { return seats_; }  // by rank: index in platform().hosts
  const Platform& platform() const { return platform_; }

 private:
  void seat(int workers, int servers, bool servers_apart, const std::string& server_hosts);
  std::vector<Hosts> hosts_;  // by name
  std::vector<int> seats_, kind_;
  Platform platform_;
  std::vector<Conflict> conflicts_;
};

// The slow-downs of one rank's successive gradients: jitter and straggling. The same seed gives the same
// factors.
class Slowness {
 public:
  Slowness(const RunConfig& config, int rank);
  double slowed(double seconds);

 private:
  double jitter_, share_, slowdown_;
  std::mt19937_64 random_;
};

// Virtual seconds that one rank of a simulated run charges its clock. The same seed gives the same seconds.
class Charges {
 public:
  Charges(const RunConfig& config, const Cluster& cluster, const Network& network, int rank);
  double gradient(int samples);
  double work(std::size_t parameters) const;           // of a worker's step, besides its gradient
  double update(std::size_t parameters) const;         // of a server, per arrival
  double compression() const { return compression_; }  // per element
  double round() const { return round_; }  // of a collective call of the workers, besides its messages
 private:
  double planned(int samples) const;
  const Cluster::Hosts& hosts_;
  double flops_, rate_, round_, compression_;
  int workers_;
  Slowness slowness_;
};

}  // namespace dsgd
