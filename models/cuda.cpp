#include "models/cuda.h"

#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

namespace dsgd::cuda {

std::string unavailable() {
  static const std::string reason = []() -> std::string {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status == cudaSuccess && devices > 0) return "";
    cudaGetLastError();  // it stays until somebody asks
    int driver = 0, runtime = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
      return "no GPU: there is no CUDA driver; install the GPU's, or use another device";
    cudaRuntimeGetVersion(&runtime);
    return fmt::format(
        "no GPU: {} (the driver serves CUDA {}.{}, this program needs {}.{}); see nvidia-smi, or use "
        "another device",
        status == cudaSuccess ? "the driver shows none" : cudaGetErrorString(status), driver / 1000,
        driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }();
  return reason;
}

void fail(const char* reason, const char* call, const char* file, int line) {
  const char* name = std::strrchr(file, '/');
  throw std::runtime_error(fmt::format("{}:{}: {} (in {})", name ? name + 1 : file, line, reason, call));
}

}  // namespace dsgd::cuda
