// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parameter.h"

namespace dsgd::h5 {

// Owns an HDF5 identifier.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

// All functions here throw std::runtime_error with the file's name and HDF5's reason.
Handle create(const std::filesystem::path& file);
Handle open(const std::filesystem::path& file, bool writable);
void flush(hid_t file);
void close(Handle file);  // unlike the destructor, throws if data could not be written
// seal() completes a file: its first line, in the user block, then has the format and the CRC-32 and size of
// what follows. verify() throws if that line is missing or wrong. HDF5 itself may crash or hang on a single
// wrong bit.
void seal(const std::filesystem::path& file, const std::string& format);
void verify(const std::filesystem::path& file, const std::string& format);
Handle group(hid_t file, const std::string& name);  // opens it, or creates it if the file is writable
bool exists(hid_t file, const std::string& name);
void erase(hid_t file, const std::string& name);  // if it exists

void set(hid_t object, const std::string& name, const Value& value);  // attribute; replaces an existing one
bool has(hid_t object, const std::string& name);
Value get(hid_t object, const std::string& name);
std::vector<std::string> names(hid_t object);  // of all attributes

// A table is a one-dimensional, extensible compound data set. type: one row in memory.
Handle create_table(hid_t file, const std::string& name, hid_t type);
void append(hid_t table, hid_t type, const void* rows, std::size_t count);
Handle open_table(hid_t file, const std::string& name);
std::size_t size(hid_t table);
void read(hid_t table, hid_t type, void* rows);

template <typename Row>
std::vector<Row> read_table(hid_t file, const std::string& name) {
  std::vector<Row> rows;
  if (!exists(file, name)) return rows;
  const Handle table(open_table(file, name));
  const Handle type = Row::type();
  rows.resize(size(table));
  if (!rows.empty()) read(table, type, rows.data());
  return rows;
}
template <typename Row>
void write_table(hid_t file, const std::string& name, std::span<const Row> rows) {
  const Handle type = Row::type();
  const Handle table = create_table(file, name, type);
  append(table, type, rows.data(), rows.size());
}

}  // namespace dsgd::h5
