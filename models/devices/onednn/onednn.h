// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "devices/cpu_plan.h"

// oneDNN (2.6 or later), if the build has it. The device `cpu` uses it for layers for which it is faster.
namespace dsgd::onednn {

std::string missing();          // why it cannot be used, and the remedy; empty if it can
std::string version();          // "oneDNN 3.7.2"
bool has_bfloat16();            // whether this processor has bfloat16 instructions
const char* const off = "off";  // value of the environment variable DSGD_ONEDNN that disables it

// `parts` must outlive the result. The layers throw dnnl::error if oneDNN has no implementation.
std::unique_ptr<LayerLibrary> layers(PlanParts& parts, Precision precision);

}  // namespace dsgd::onednn
