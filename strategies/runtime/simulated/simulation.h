// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dsgd {

// Hosts behind one switch. A message between two hosts takes the latencies of both links and of the switch,
// plus its bytes at the lowest bandwidth on its way. Concurrent messages share the bandwidth of a link.
struct Platform {
  struct Host {
    double bandwidth = 0, latency = 0;  // of its link to the switch: bytes/s each way, seconds
    std::string name;                   // in `file`
    double wake = 0;                    // seconds added to the latency between its ranks
  };
  std::vector<Host> hosts;
  // SimGrid's XML; its hosts and routes then replace all numbers here. Empty: none.
  std::string file;

  double backbone_bandwidth = 0, backbone_latency = 0;      // of the switch; bandwidth 0: unlimited
  double memory_bandwidth = 10e9, memory_latency = 0.5e-6;  // between ranks of one host
};

// A cluster in virtual time. All its ranks are in this process and take turns: one runs until it blocks in a
// verb of its World. A process can have one simulation at a time.
class Simulation {
 public:
  // Throws std::runtime_error if the file lacks hosts or routes, or if a number is invalid.
  explicit Simulation(const Platform& platform);
  ~Simulation();
  // Runs rank(r) as rank r on host hosts[r], where it may open a World. Returns when all ranks have returned;
  // may be called again, and the clock goes on. If a rank throws, or in a deadlock, the process ends with one
  // line on stderr and exit code 1.
  void run(const std::vector<int>& hosts, const std::function<void(int rank)>& rank);

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace dsgd
