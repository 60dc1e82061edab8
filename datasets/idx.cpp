// SPDX-License-Identifier: Apache-2.0
#include "idx.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "content.h"

namespace dsgd {
namespace {

// The big-endian words at the head of an IDX file: magic (0, 0, type byte, dimensions), then its sizes.
template <std::size_t words>
std::array<std::uint32_t, words> header(Content& in, const std::string& what) {
  std::array<std::uint8_t, 4 * words> bytes{};
  const std::size_t got = in.read(bytes);
  const auto word = [&](std::size_t i) {
    return std::uint32_t(bytes[4 * i]) << 24 | bytes[4 * i + 1] << 16 | bytes[4 * i + 2] << 8 |
           bytes[4 * i + 3];
  };
  constexpr std::uint32_t magic = 0x800 + words - 1;
  if (got >= 4 && word(0) != magic)
    in.fail(0, fmt::format("the magic number {:08x} of IDX {}", magic, what), fmt::format("{:08x}", word(0)));
  if (got < bytes.size())
    in.fail(got, fmt::format("an IDX header of {} bytes", bytes.size()), "the end of the file");
  std::array<std::uint32_t, words> out;
  for (std::size_t i = 0; i < words; ++i) out[i] = word(i);
  return out;
}

// The n bytes after the header, which must be the last ones.
std::vector<std::uint8_t> body(Content& in, std::size_t n, const std::string& what) {
  std::vector<std::uint8_t> bytes;
  while (bytes.size() < n) {  // grows with what is there: a damaged header may promise terabytes
    const std::size_t old = bytes.size();
    bytes.resize(std::min(n, std::max<std::size_t>(2 * old, 1 << 20)));
    if (in.read(std::span(bytes).subspan(old)) < bytes.size() - old)
      in.fail(in.position(), fmt::format("the {} bytes of {}", n, what), "the end of the file");
  }
  const std::uint64_t end = in.position();
  std::uint8_t extra;
  if (in.read({&extra, 1}) != 0)
    in.fail(end, fmt::format("the end of the file after {}", what), "more bytes");
  bytes.shrink_to_fit();
  return bytes;
}

}  // namespace

Samples read_idx(const std::filesystem::path& images, const std::filesystem::path& labels, const Shape& shape,
                 int classes) {
  Samples out{.shape = shape, .classes = classes};
  {
    Content in(images);
    const auto [magic, count, rows, columns] = header<4>(in, "images");
    if (count == 0) in.fail(4, "at least 1 image", "0");
    if (rows != std::uint32_t(shape.height))
      in.fail(8, fmt::format("{} rows", shape.height), fmt::to_string(rows));
    if (columns != std::uint32_t(shape.width))
      in.fail(12, fmt::format("{} columns", shape.width), fmt::to_string(columns));
    out.count = count;
    out.pixels = body(in, count * shape.size(), fmt::format("{} images of {}x{}", count, rows, columns));
  }
  Content in(labels);
  const auto [magic, count] = header<2>(in, "labels");
  if (count != out.count)
    in.fail(4, fmt::format("{} labels, as many as images in {}", out.count, images.filename().string()),
            fmt::to_string(count));
  out.labels = body(in, count, fmt::format("{} labels", count));
  for (std::size_t i = 0; i < count; ++i)
    if (out.labels[i] >= classes)
      in.fail(8 + i, fmt::format("a label from 0 to {}", classes - 1), fmt::to_string(out.labels[i]));
  return out;
}

}  // namespace dsgd
