// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <fmt/format.h>

#include <stdexcept>

#include "devices/onednn/onednn.h"

// In a build without oneDNN.
namespace dsgd::onednn {
namespace {

// The version of one that is installed by now, or empty.
std::string installed() {
  struct Version {  // the beginning of dnnl_version_t, the same in oneDNN 2 and 3
    int major, minor, patch;
  };
  for (const char* file : {"libdnnl.so.3", "libdnnl.so.2"}) {
    void* const library = dlopen(file, RTLD_LAZY | RTLD_LOCAL);
    if (!library) continue;
    using Ask = const Version* (*)();
    const auto ask = reinterpret_cast<Ask>(dlsym(library, "dnnl_version"));
    const Version* const v = ask ? ask() : nullptr;
    if (v) return fmt::format("{}.{}.{}", v->major, v->minor, v->patch);
  }
  return "";
}

}  // namespace

std::string missing() {
  static const std::string here = installed();
  return std::string(DSGD_ONEDNN_MISSING) +
         (here.empty() ? "; install it (Debian: apt install libdnnl-dev) and build again"
                       : "; oneDNN " + here +
                             " is installed here now: build again, install libdnnl-dev if its headers lack");
}
std::string version() { return "none"; }
bool has_bfloat16() { return false; }
std::unique_ptr<LayerLibrary> layers(PlanParts&, Precision) { throw std::logic_error(missing()); }

}  // namespace dsgd::onednn
