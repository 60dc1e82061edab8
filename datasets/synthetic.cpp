// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include "dataset.h"
#include "random.h"

namespace dsgd {
namespace {

constexpr std::uint64_t prototype_purpose = 'p', train_purpose = 'a', test_purpose = 'b';

// Every sample has an engine of its own, so that a set of n samples begins like one of more.
Samples make(const SyntheticSpec& spec, const std::vector<std::uint8_t>& prototypes, std::uint64_t purpose,
             std::size_t count) {
  const std::size_t size = spec.shape.size();
  const int amplitude = int(std::lround(255 * spec.noise));
  Samples out{spec.shape, spec.classes, count, std::vector<std::uint8_t>(count * size),
              std::vector<std::uint8_t>(count)};
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t label = i % std::size_t(spec.classes);
    out.labels[i] = std::uint8_t(label);
    std::mt19937_64 engine = seeded(spec.seed, purpose, i);
    for (std::size_t j = 0; j < size; ++j) {
      const int noise = int(below(engine, std::uint32_t(2 * amplitude + 1))) - amplitude;
      out.pixels[i * size + j] = std::uint8_t(std::clamp(prototypes[label * size + j] + noise, 0, 255));
    }
  }
  return out;
}

}  // namespace

Dataset make_synthetic(const SyntheticSpec& spec) {
  const Shape& s = spec.shape;
  if (s.channels < 1 || s.height < 1 || s.width < 1 || spec.classes < 1 || spec.classes > 256 ||
      spec.train == 0 || !(spec.noise >= 0 && spec.noise <= 1))
    throw std::invalid_argument(fmt::format(
        "synthetic data of shape {}, {} classes, {} training samples, noise {}: expected a shape of "
        "at least 1x1x1, 1 to 256 classes, at least 1 training sample, noise from 0 to 1",
        to_string(s), spec.classes, spec.train, spec.noise));
  std::vector<std::uint8_t> prototypes(std::size_t(spec.classes) * s.size());
  std::mt19937_64 engine = seeded(spec.seed, prototype_purpose, 0);
  for (auto& pixel : prototypes) pixel = std::uint8_t(below(engine, 256));
  return {"synthetic", make(spec, prototypes, train_purpose, spec.train),
          make(spec, prototypes, test_purpose, spec.test)};
}

}  // namespace dsgd
