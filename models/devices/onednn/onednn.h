// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "devices/cpu_plan.h"

// oneDNN (2.6 or later), where the build has it: the faster one for some layers of the processor's device.
namespace dsgd::onednn {

std::string missing();          // empty, or why it cannot be used and what to do
std::string version();          // "oneDNN 3.7.2"
bool has_bfloat16();            // whether this processor has instructions for it
const char* const off = "off";  // value of the environment variable DSGD_ONEDNN that does without

// `parts` must outlive it. Throws dnnl::error where oneDNN has no implementation.
std::unique_ptr<LayerLibrary> layers(PlanParts& parts, Precision precision);

}  // namespace dsgd::onednn
