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

// The keys of a modelled cluster: those that every one has, and those of each of its kinds of hosts, whose
// full names are "cluster.hosts.NAME.KEY", "cluster.hosts.NAME.seconds.MODEL.MINIBATCH" and
// "cluster.hosts.NAME.work.STRATEGY.WORKERS".
const std::vector<Parameter>& cluster_keys();
const std::vector<Parameter>& host_keys();
const Parameter* find_host_key(const std::string& full);  // null: there is none
bool holds_host_keys(const std::string& table);           // "cluster.hosts", "cluster.hosts.NAME", ...
std::string hosts_of(const std::string& full);            // NAME; empty: no host's key
bool slows_ranks(const std::string& full);                // concerns real runs too, whose slow ranks sleep
// What may stand in a table such as "cluster.hosts.NAME."; nothing: in it are no keys of hosts.
std::vector<std::string> names_in_hosts(const std::string& table);

// Why this build simulates no clusters, and what helps; none: it does.
struct Lack {
  std::string why, remedy;
};
std::optional<Lack> no_simulator();

// The cluster of a simulated run: hosts behind one switch, and where the run's ranks sit.
class Cluster {
 public:
  struct Hosts {  // of one kind
    std::string name;
    int count = 0, slots = 0;       // hosts, and the workers that each has room for
    double speed = 0;               // flop/s that a worker's gradients reach
    std::map<int, double> seconds;  // of a gradient of the run's model, by minibatch; takes precedence
    std::map<int, double> work;     // of the run's strategy per parameter and step, by workers
    std::string names;              // in a platform's file
    Platform::Host link;
  };
  explicit Cluster(const RunConfig& config);

  const std::vector<Conflict>& conflicts() const {
    return conflicts_;
  }  // why the run cannot have this cluster

  // Without conflicts.
  const Hosts& hosts(int rank) const { return hosts_[kind_.at(rank)]; }
  const std::vector<int>& seats() const { return seats_; }  // of ranks: indices of platform().hosts
  const Platform& platform() const { return platform_; }

 private:
  void seat(int workers, int servers, bool servers_apart, const std::string& server_hosts);
  std::vector<Hosts> hosts_;  // by name
  std::vector<int> seats_, kind_;
  Platform platform_;
  std::vector<Conflict> conflicts_;
};

// Makes one rank's gradients take longer, one after the other. The same seed gives the same factors.
class Slowness {
 public:
  Slowness(const RunConfig& config, int rank);
  double slowed(double seconds);

 private:
  double jitter_, share_, slowdown_;
  std::mt19937_64 random_;
};

// What one rank of a simulated run charges its clock for, in seconds. The same seed gives the same seconds.
class Charges {
 public:
  Charges(const RunConfig& config, const Cluster& cluster, const Network& network, int rank);
  double gradient(int samples);
  double work(std::size_t parameters) const;           // of a worker's step besides
  double update(std::size_t parameters) const;         // a server's, for one arrival
  double compression() const { return compression_; }  // of one element
  double round() const { return round_; }  // a synchronisation of the workers, besides its messages
 private:
  double planned(int samples) const;
  const Cluster::Hosts& hosts_;
  double flops_, rate_, round_, compression_;
  int workers_;
  Slowness slowness_;
};

}  // namespace dsgd
