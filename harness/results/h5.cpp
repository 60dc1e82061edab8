// SPDX-License-Identifier: Apache-2.0
#include "results/h5.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

namespace dsgd::h5 {
namespace {

std::string file_of(hid_t object) {
  char name[4096] = "";
  return object >= 0 && H5Fget_name(object, name, sizeof name) > 0 ? name : "HDF5";
}

[[noreturn]] void fail(const std::string& file, const std::string& what) {
  std::string reason = errno ? std::strerror(errno) : "not a complete HDF5 file, or damaged";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* e, void* out) -> herr_t {
        if (n == 0 && e->desc) *static_cast<std::string*>(out) = e->desc;
        return 0;
      },
      &reason);
  throw std::runtime_error(fmt::format("{}: {}: {}", file, what, reason));
}

hid_t check(hid_t result, hid_t object, const std::string& what) {
  if (result < 0) fail(file_of(object), what);
  return result;
}

Handle string_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

void quiet() {
  static const herr_t once =
      H5dont_atexit();  // after a failed write (disk full) HDF5's own exit handler crashes
  (void)once;
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

constexpr std::size_t user_block = 512, line_size = 64;

// The line that the file has, and the one that belongs to what follows.
std::pair<std::string, std::string> first_lines(const std::filesystem::path& file,
                                                const std::string& format) {
  if (std::filesystem::exists(file) && !std::filesystem::is_regular_file(file))
    throw std::runtime_error(file.string() + ": expected a file, found a folder, device or pipe");
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(file.string(), "cannot be opened");
  std::vector<char> chunk(1 << 20);
  const auto read = [&](std::size_t count) {
    in.read(chunk.data(), std::streamsize(count));
    if (in.bad()) fail(file.string(), "cannot be read");
    return std::size_t(in.gcount());
  };
  const std::string line(chunk.data(), read(line_size));
  uLong sum = 0;
  std::size_t size = 0;
  while (const std::size_t count = read(chunk.size())) {
    sum = crc32(sum, reinterpret_cast<const Bytef*>(chunk.data()), uInt(count));
    size += count;
  }
  const std::string right = fmt::format("{}, crc32 {:08x} of {} bytes", format, sum, size);
  return {line, fmt::format("{:<{}}\n", right, line_size - 1)};
}

}  // namespace

void seal(const std::filesystem::path& file, const std::string& format) {
  const std::string line = first_lines(file, format).second;
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  if (!out.write(line.data(), std::streamsize(line.size())).flush()) fail(file.string(), "cannot be written");
}

void verify(const std::filesystem::path& file, const std::string& format) {
  const auto [line, right] = first_lines(file, format);
  if (line == right) return;
  const std::string begin = format + ", crc32 ";
  if (!line.starts_with(begin))
    throw std::runtime_error(
        fmt::format("{}: damaged, or not a complete file of format \"{}\"", file.string(), format));
  const auto sum = [&](const std::string& text) {
    const auto end =
        std::find_if_not(text.begin(), text.end(), [](unsigned char c) { return std::isprint(c); });
    const std::string shown(text.begin() + std::ptrdiff_t(format.size() + 2), end);
    return shown.substr(0, shown.find_last_not_of(' ') + 1);
  };
  throw std::runtime_error(
      fmt::format("{}: damaged: {}, expected {}; run it again", file.string(), sum(right), sum(line)));
}

Handle create(const std::filesystem::path& file) {
  quiet();
  errno = 0;
  const Handle properties(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_userblock(properties, user_block);
  const hid_t id = H5Fcreate(file.c_str(), H5F_ACC_TRUNC, properties, H5P_DEFAULT);
  if (id < 0) fail(file.string(), "cannot be created");
  return {id, H5Fclose};
}

Handle open(const std::filesystem::path& file, bool writable) {
  quiet();
  errno = 0;
  const hid_t id = H5Fopen(file.c_str(), writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, H5P_DEFAULT);
  if (id < 0) fail(file.string(), "cannot be opened");
  return {id, H5Fclose};
}

void flush(hid_t file) { check(H5Fflush(file, H5F_SCOPE_LOCAL), file, "cannot be written"); }

void close(Handle file) { flush(file); }

Handle group(hid_t file, const std::string& name) {
  const hid_t id = exists(file, name) ? H5Gopen2(file, name.c_str(), H5P_DEFAULT)
                                      : H5Gcreate2(file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  return {check(id, file, "group " + name), H5Gclose};
}

bool exists(hid_t file, const std::string& name) { return H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0; }

void erase(hid_t file, const std::string& name) {
  if (exists(file, name)) check(H5Ldelete(file, name.c_str(), H5P_DEFAULT), file, name);
}

void set(hid_t object, const std::string& name, const Value& value) {
  if (has(object, name)) H5Adelete(object, name.c_str());
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const auto write = [&](hid_t stored, hid_t memory, const void* data) {
    const Handle attribute(check(H5Acreate2(object, name.c_str(), stored, space, H5P_DEFAULT, H5P_DEFAULT),
                                 object, "attribute " + name),
                           H5Aclose);
    check(H5Awrite(attribute, memory, data), object, "attribute " + name);
  };
  if (const auto* b = std::get_if<bool>(&value)) {
    const std::uint8_t byte = *b;
    write(H5T_STD_U8LE, H5T_NATIVE_UINT8, &byte);
  } else if (const auto* i = std::get_if<std::int64_t>(&value)) {
    write(H5T_STD_I64LE, H5T_NATIVE_INT64, i);
  } else if (const auto* d = std::get_if<double>(&value)) {
    write(H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, d);
  } else {
    const Handle type = string_type();
    const char* text = std::get<std::string>(value).c_str();
    write(type, type, &text);
  }
}

bool has(hid_t object, const std::string& name) { return H5Aexists(object, name.c_str()) > 0; }

Value get(hid_t object, const std::string& name) {
  const Handle attribute(check(H5Aopen(object, name.c_str(), H5P_DEFAULT), object, "attribute " + name),
                         H5Aclose);
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const auto read = [&](hid_t memory, void* data) {
    check(H5Aread(attribute, memory, data), object, "attribute " + name);
  };
  switch (H5Tget_class(type)) {
    case H5T_FLOAT: {
      double d = 0;
      read(H5T_NATIVE_DOUBLE, &d);
      return d;
    }
    case H5T_INTEGER: {
      std::int64_t i = 0;
      read(H5T_NATIVE_INT64, &i);
      if (H5Tget_size(type) == 1) return i != 0;
      return i;
    }
    default: {
      const Handle memory = string_type();
      char* text = nullptr;
      read(memory, &text);
      std::string result = text ? text : "";
      H5free_memory(text);
      return result;
    }
  }
}

std::vector<std::string> names(hid_t object) {
  std::vector<std::string> result;
  H5Aiterate2(
      object, H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
        static_cast<std::vector<std::string>*>(out)->emplace_back(name);
        return 0;
      },
      &result);
  return result;
}

Handle create_table(hid_t file, const std::string& name, hid_t type) {
  const hsize_t none = 0, unlimited = H5S_UNLIMITED, chunk = 1024;
  const Handle space(H5Screate_simple(1, &none, &unlimited), H5Sclose);
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_chunk(properties, 1, &chunk);
  const Handle packed(H5Tcopy(type), H5Tclose);
  H5Tpack(packed);
  return {check(H5Dcreate2(file, name.c_str(), packed, space, H5P_DEFAULT, properties, H5P_DEFAULT), file,
                "table " + name),
          H5Dclose};
}

void append(hid_t table, hid_t type, const void* rows, std::size_t count) {
  if (count == 0) return;
  const hsize_t first = size(table), added = count, total = first + added;
  check(H5Dset_extent(table, &total), table, "table cannot grow");
  const Handle file_space(H5Dget_space(table), H5Sclose);
  H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &first, nullptr, &added, nullptr);
  const Handle memory_space(H5Screate_simple(1, &added, nullptr), H5Sclose);
  check(H5Dwrite(table, type, memory_space, file_space, H5P_DEFAULT, rows), table, "table cannot be written");
}

Handle open_table(hid_t file, const std::string& name) {
  return {check(H5Dopen2(file, name.c_str(), H5P_DEFAULT), file, "table " + name), H5Dclose};
}

std::size_t size(hid_t table) {
  const Handle space(check(H5Dget_space(table), table, "table"), H5Sclose);
  hsize_t count = 0;
  H5Sget_simple_extent_dims(space, &count, nullptr);
  return count;
}

void read(hid_t table, hid_t type, void* rows) {
  check(H5Dread(table, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows), table, "table cannot be read");
}

}  // namespace dsgd::h5
