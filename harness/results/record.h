// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "config/experiment.h"
#include "results/schema.h"

namespace dsgd {

// A run's file while it is being made: NAME.h5.part beside NAME.h5.
std::filesystem::path part_of(const std::filesystem::path& result);

// Starts a record: configuration, effective parameters, what is known of the program. `history`: outcomes of
// earlier attempts.
void create_record(const std::filesystem::path& part, const RunConfig& config, const std::string& history);

// Puts the outcome into the part file, last of all, and gives it its final name. False: the part cannot be
// read any more (killed while writing) and was set aside as NAME.h5.damaged, or it is gone.
bool finish_record(const std::filesystem::path& result, const std::string& outcome,
                   const std::string& detail);

// Gives a complete result the title, target and expressions that its experiment has now.
void retitle_record(const std::filesystem::path& result, const RunConfig& config);

// Each once, in their order.
std::string listed_once(const std::vector<std::string>& names);

// What rank 0 writes during and after the run. Steps are buffered and flushed to disk every two seconds.
class Recorder {
 public:
  explicit Recorder(const std::filesystem::path& part);
  void step(const StepRow& row);
  void steps(std::span<const StepRow> rows);  // other ranks', afterwards
  hid_t file() const { return file_; }
  void close();  // reports what could not be written

 private:
  void write();
  h5::Handle file_, type_, table_;
  std::vector<StepRow> buffer_;
  double flushed_ = 0;
};

std::string utc_now();  // ISO 8601
std::map<std::string, Value>
provenance_here();            // of this program on this host: the part that is known before a run
std::string build_summary();  // commit, dirty flag, compiler, flags: what `dsgd --version` prints
std::map<std::string, Value> config_of(const RunConfig& config);  // as in a result file
Facts effective_parameters(const RunConfig& config, std::size_t parameters);
Context context_of(const RunConfig& config, std::size_t parameters);

}  // namespace dsgd
