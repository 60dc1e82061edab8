// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace dsgd {

// Writes when the ranks of a run (with trace = true) computed, transferred and waited, as events of Chrome's
// trace format (chrome://tracing, ui.perfetto.dev), one row per rank. A wait is drawn inside the transfer
// that it belongs to; without servers it lasts until the last worker has entered the same collective call.
// Throws std::runtime_error if the result has no spans or a file cannot be written.
void write_trace(const std::filesystem::path& result, const std::filesystem::path& json);

}  // namespace dsgd
