// SPDX-License-Identifier: Apache-2.0
#include "run/process.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "fetch.h"
#include "sums.h"

namespace dsgd {
namespace {

Dataset normalised(Dataset data, const RunConfig& config) {
  if (config.normalised()) normalise(data);
  return data;
}

// With the content that the run's id stands for, wherever this rank is.
Dataset load(const RunConfig& config, const std::filesystem::path& data_dir, std::string& sums) {
  const DatasetEntry& entry = known_dataset(config.settings.text("dataset"));
  if (config.skips_gradients() && entry.files.empty()) {
    const SyntheticSpec made = config.synthetic();  // nobody looks at the images
    return {"synthetic",
            {.shape = made.shape, .classes = made.classes, .count = made.train},
            {.shape = made.shape, .classes = made.classes, .count = made.test}};
  }
  if (entry.files.empty()) return normalised(make_synthetic(config.synthetic()), config);
  const std::filesystem::path folder = locate_dataset(entry, data_dir);
  Dataset data = entry.load(folder);
  sums = dataset_sums(entry, folder);
  const std::string &wanted = config.settings.text("dataset_sha256"), found = content_id(entry, sums);
  const auto named = [](const std::string& id) { return id.empty() ? "the published content" : id; };
  if (wanted != found)
    throw std::runtime_error(
        fmt::format("{}: data set {} is {} there, and {} in this run (expected: the same files on all hosts)",
                    folder.string(), entry.name, named(found), named(wanted)));
  return normalised(std::move(data), config);
}

// A report as soon as there is a process, before it loads.
Reporter loading(int rank) {
  Reporter reporter(rank);
  reporter.phase("load");
  return reporter;
}

}  // namespace

std::string instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return "avx512_bf16";
  if (__builtin_cpu_supports("avx512f")) return "avx512";
  if (__builtin_cpu_supports("avx2")) return "avx2";
  return "sse2";
#else
  return "generic";
#endif
}

Process::Process(const RunConfig& config, const std::filesystem::path& data_dir, int rank)
    : reporter(loading(rank)),
      data(load(config, data_dir, sums)),
      network(find_model(config.settings.text("model"))->make(data.train.shape, data.train.classes)),
      device(config.skips_gradients() ? make_hollow() : config.device().make(config.precision())),
      model(network, *device, config.minibatch()),
      w(config.skips_gradients() ? hollow_space() : host_space(), parameters(network)),
      orders(std::make_shared<SharedOrders>(data.train.count, config.seed())) {
  if (config.skips_gradients()) {
    gradient_s = 5e-3 * config.ranks();  // rather what a round of their messages takes
    return;
  }
  initialise(network, config.seed(), w);
  std::vector<std::uint32_t> ids(std::min<std::size_t>(config.minibatch(), data.train.count));
  std::iota(ids.begin(), ids.end(), 0);
  Vector g(device->space(), parameters(network));
  flushes_ = flush_subnormals();
  const auto begun = std::chrono::steady_clock::now();
  model.gradient(w, data.train, ids, g);
  device->space().wait();
  gradient_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

std::map<std::string, Value> Process::provenance() const {
  std::string plan;
  for (const std::string& line : model.plan().implementations()) plan += line + "\n";
  plan += fmt::format(
      "one thread a rank; subnormal numbers are {}; {} copies into another layout in a gradient of {} "
      "samples\n",
      flushes_ ? "zero" : "kept", model.plan().reorders(), model.plan().batch());
  std::map<std::string, Value> known{{"device_library", device->library()},
                                     {"instruction_set", instruction_set()},
                                     {"threads", std::int64_t(1)},
                                     {"plan", plan},
                                     {"plan_sha256", sha256_text(plan)}};
  if (!sums.empty()) known.insert({{"dataset_files", sums}, {"dataset_sha256", sha256_text(sums)}});
  return known;
}

std::string Process::weights_sha256() const {
  const ConstVec all = w.view();
  return sha256_text({reinterpret_cast<const char*>(all.data), all.size * sizeof(float)});
}

}  // namespace dsgd
