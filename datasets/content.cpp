// SPDX-License-Identifier: Apache-2.0
#include "content.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace dsgd {

Content::Content(const std::filesystem::path& file)
    : name_(file.string()), file_(std::fopen(name_.c_str(), "rb"), std::fclose), buffer_(1 << 18) {
  if (!file_)
    throw std::runtime_error(fmt::format("{}: expected a readable file: {}", name_, std::strerror(errno)));
  refill();
  gzip_ = z_.avail_in >= 2 && z_.next_in[0] == 0x1f && z_.next_in[1] == 0x8b;
  if (gzip_ && inflateInit2(&z_, 16 + MAX_WBITS) != Z_OK) throw std::bad_alloc();
}

Content::~Content() {
  if (gzip_) inflateEnd(&z_);
}

void Content::fail(std::uint64_t position, const std::string& expected, const std::string& found) const {
  throw std::runtime_error(fmt::format("{}: byte {}{}: expected {}, found {}", name_, position,
                                       gzip_ ? " of the decompressed content" : "", expected, found));
}

void Content::fail_gzip(const std::string& expected, const std::string& found) const {
  throw std::runtime_error(fmt::format("{}: byte {} of the compressed file: expected {}, found {}", name_,
                                       from_disk_ - z_.avail_in, expected, found));
}

void Content::refill() {
  const std::size_t got = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
  if (std::ferror(file_.get()))
    throw std::runtime_error(
        fmt::format("{}: byte {}: expected a readable file: {}", name_, from_disk_, std::strerror(errno)));
  from_disk_ += got;
  z_.next_in = buffer_.data();
  z_.avail_in = uInt(got);
}

std::size_t Content::read(std::span<std::uint8_t> to) {
  std::size_t done = 0;
  while (done < to.size()) {
    if (z_.avail_in == 0) refill();
    if (!gzip_) {
      const std::size_t n = std::min<std::size_t>(z_.avail_in, to.size() - done);
      if (n == 0) break;
      std::memcpy(to.data() + done, z_.next_in, n);
      z_.next_in += n;
      z_.avail_in -= uInt(n);
      done += n;
      continue;
    }
    if (member_ended_) {  // a gzip file may hold several members
      if (z_.avail_in == 0) break;
      if (*z_.next_in != 0x1f) fail_gzip("the end of the file", "more bytes after the gzip data");
      inflateReset(&z_);
      member_ended_ = false;
    }
    if (z_.avail_in == 0) fail_gzip("more gzip data", "the end of the file");
    const std::size_t room = std::min<std::size_t>(to.size() - done, 1u << 30);
    z_.next_out = to.data() + done;
    z_.avail_out = uInt(room);
    const int status = inflate(&z_, Z_NO_FLUSH);
    done += room - z_.avail_out;
    if (status == Z_STREAM_END)
      member_ended_ = true;
    else if (status != Z_OK)
      fail_gzip("intact gzip data", fmt::format("damage ({})", z_.msg ? z_.msg : zError(status)));
  }
  position_ += done;
  return done;
}

}  // namespace dsgd
