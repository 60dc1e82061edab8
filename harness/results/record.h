// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "config/experiment.h"
#include "results/schema.h"

namespace dsgd {

// The file of an unfinished run: NAME.h5.part beside NAME.h5.
std::filesystem::path part_of(const std::filesystem::path& result);

// Creates a record with configuration, effective parameters and what is known of the program. history:
// outcomes of earlier attempts.
void create_record(const std::filesystem::path& part, const RunConfig& config, const std::string& history);

// Writes the outcome to the part file and renames it to its final name. Returns false if the part file is
// gone, or is unreadable because a rank was killed while writing; then it is renamed to NAME.h5.damaged.
bool finish_record(const std::filesystem::path& result, const std::string& outcome,
                   const std::string& detail);

// Updates title, target and expressions of a complete result to those that its experiment has now.
void retitle_record(const std::filesystem::path& result, const RunConfig& config);

// The names without duplicates, in their order.
std::string listed_once(const std::vector<std::string>& names);

// Rank 0's writer during and after the run. Steps are buffered and flushed to disk every two seconds.
class Recorder {
 public:
  explicit Recorder(const std::filesystem::path& part);
  void step(const StepRow& row);
  void steps(std::span<const StepRow> rows);  // of other ranks, after the run
  hid_t file() const { return file_; }
  void close();  // throws if data could not be written

 private:
  void write();
  h5::Handle file_, type_, table_;
  std::vector<StepRow> buffer_;
  double flushed_ = 0;
};

std::string utc_now();  // ISO 8601
std::map<std::string, Value>
provenance_here();            // of this program on this host: the part that is known before a run
std::string build_summary();  // commit, dirty flag, compiler, flags, for `dsgd --version`
std::map<std::string, Value> config_of(const RunConfig& config);  // as in a result file
Facts effective_parameters(const RunConfig& config, std::size_t parameters);
Context context_of(const RunConfig& config, std::size_t parameters);

}  // namespace dsgd
