// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <zlib.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dsgd {

// Reads a file from its first to its last byte and decompresses it if it is gzip. Errors of the disk or of
// the gzip stream are std::runtime_errors that name file, byte and expectation.
class Content {
 public:
  explicit Content(const std::filesystem::path& file);
  ~Content();
  Content(const Content&) = delete;
  Content& operator=(const Content&) = delete;

  // Fills `to` and returns the number of bytes. It is smaller than asked only at the end, after gzip's own
  // checksum was verified.
  std::size_t read(std::span<std::uint8_t> to);
  std::uint64_t position() const { return position_; }  // bytes read so far
  // Throws the error for a wrong content at `position`.
  [[noreturn]] void fail(std::uint64_t position, const std::string& expected, const std::string& found) const;

 private:
  void refill();
  [[noreturn]] void fail_gzip(const std::string& expected, const std::string& found) const;

  std::string name_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::vector<std::uint8_t> buffer_;
  z_stream z_{};  // next_in, avail_in: what is left of buffer_, for plain files too
  bool gzip_ = false, member_ended_ = false;
  std::uint64_t position_ = 0, from_disk_ = 0;
};

}  // namespace dsgd
