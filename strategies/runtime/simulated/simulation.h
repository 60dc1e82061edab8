// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dsgd {

// Hosts that are joined by one switch. What travels between two of them takes the latencies of both links and
// of the switch, and its bytes at the least bandwidth on its way; who uses a link at the same time shares it.
struct Platform {
  struct Host {
    double bandwidth = 0, latency = 0;  // of its link to the switch: bytes/s each way, seconds
    std::string name;                   // in `file`
    double wake = 0;                    // added to the latency between its ranks
  };
  std::vector<Host> hosts;
  std::string file;  // SimGrid's XML, whose hosts and routes are used in place of all numbers here; or none

  double backbone_bandwidth = 0, backbone_latency = 0;      // of the switch; no bandwidth: it does not limit
  double memory_bandwidth = 10e9, memory_latency = 0.5e-6;  // between ranks of one host
};

// A cluster in virtual time, all of whose ranks are in this process and take turns: one is at work at a time,
// until it waits in a verb of its World. One simulation at a time in a process.
class Simulation {
 public:
  // Throws std::runtime_error: a file without hosts or routes, or whose numbers cannot be.
  explicit Simulation(const Platform& platform);
  ~Simulation();
  // Runs `rank(r)`, which may open a World, as rank r on the host hosts[r]; returns when all ranks have. Ends
  // the process with exit code 1, and one line on stderr, when a rank throws or all wait for ever. May be
  // called again; the clock goes on.
  void run(const std::vector<int>& hosts, const std::function<void(int rank)>& rank);

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace dsgd
