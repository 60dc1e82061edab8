// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config/cluster.h"
#include "config/experiment.h"
#include "model.h"
#include "run/progress.h"
#include "sampler.h"

namespace dsgd {

std::string instruction_set();  // the widest of the processor that kernels here know

// What the ranks of one process share: simulated ranks take turns, so that one model does for all of them.
struct Process {
  Process(const RunConfig& config, const std::filesystem::path& data_dir, int rank);

  Reporter reporter;
  std::string sums;  // of the data set's files, as sha256sum prints them; empty: it is made
  Dataset data;
  Network network;
  std::unique_ptr<Device> device;
  Model model;  // used once
  Vector w;     // in the host's memory, or hollow; before training, or while snapshots are scored, those
  double gradient_s = 0;                       // real seconds of one minibatch
  std::shared_ptr<SharedOrders> orders;        // of these ranks' samplers
  std::vector<std::vector<Request>> replayed;  // what each shard or worker takes, in this order

  // What bits depend on besides the configuration and the program: device library, instructions, plan.
  std::map<std::string, Value> provenance() const;
  std::string weights_sha256() const;

 private:
  bool flushes_ = false;
};

}  // namespace dsgd
