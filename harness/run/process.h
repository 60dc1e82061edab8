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

std::string instruction_set();  // the widest of this processor that the kernels support

// State that the ranks of one process share. Simulated ranks take turns, so one model serves all of them.
struct Process {
  Process(const RunConfig& config, const std::filesystem::path& data_dir, int rank);

  Reporter reporter;
  std::string sums;  // of the data set's files (datasets/sums.h); empty: the set is generated
  Dataset data;
  Network network;
  std::unique_ptr<Device> device;
  Model model;  // used once
  // In host memory, or hollow. The initial weights; while snapshots are scored, those of the snapshot.
  Vector w;
  double gradient_s = 0;                 // real seconds of one minibatch's gradient
  std::shared_ptr<SharedOrders> orders;  // of the samplers
  // The order of requests for each shard or worker; see Shard::replayed.
  std::vector<std::vector<Request>> replayed;

  // What the bits of a run depend on besides configuration and program: device library, instruction set,
  // plan.
  std::map<std::string, Value> provenance() const;
  std::string weights_sha256() const;

 private:
  bool flushes_ = false;
};

}  // namespace dsgd
