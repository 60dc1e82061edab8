// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace dsgd {

// Writes when the ranks of a run (with trace = true) computed, transferred and waited, as events of Chrome's
// trace format (chrome://tracing, ui.perfetto.dev), one row per rank. Waiting is drawn inside the transfer
// that it is part of; without servers it lasts until the last worker has come to the same collective. Throws
// std::runtime_error: a result without spans, a file that cannot be written.
void write_trace(const std::filesystem::path& result, const std::filesystem::path& json);

}  // namespace dsgd
