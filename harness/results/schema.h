// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "results/h5.h"

// The tables of a result file, schema version 1. results/README.md defines every field.
namespace dsgd {

constexpr std::int64_t schema_version = 1;
inline const std::string result_format = "dsgd result, schema " + std::to_string(schema_version);

namespace h5 {
template <typename Row>
class RowType {
 public:
  RowType() : type_(H5Tcreate(H5T_COMPOUND, sizeof(Row)), H5Tclose) {}
  RowType& field(const char* name, std::size_t offset, hid_t type) {
    H5Tinsert(type_, name, offset, type);
    return *this;
  }
  Handle done() { return std::move(type_); }

 private:
  Handle type_;
};
}  // namespace h5

struct StepRow {
  std::int32_t rank;
  std::int32_t samples;
  std::int64_t step, used;
  double seconds;
  float loss, compute_s, communication_s;
  static h5::Handle type() {
    return h5::RowType<StepRow>()
        .field("rank", offsetof(StepRow, rank), H5T_NATIVE_INT32)
        .field("step", offsetof(StepRow, step), H5T_NATIVE_INT64)
        .field("samples", offsetof(StepRow, samples), H5T_NATIVE_INT32)
        .field("used", offsetof(StepRow, used), H5T_NATIVE_INT64)
        .field("seconds", offsetof(StepRow, seconds), H5T_NATIVE_DOUBLE)
        .field("loss", offsetof(StepRow, loss), H5T_NATIVE_FLOAT)
        .field("compute_s", offsetof(StepRow, compute_s), H5T_NATIVE_FLOAT)
        .field("communication_s", offsetof(StepRow, communication_s), H5T_NATIVE_FLOAT)
        .done();
  }
};

struct SnapshotRow {
  std::int64_t used = 0;
  double seconds = 0;
  std::int64_t version_min = 0, version_max = 0;
  double test_loss = 0;
  std::int64_t test_correct = 0, test_count = 0;
  double accuracy() const { return test_count ? double(test_correct) / double(test_count) : 0; }
  static h5::Handle type() {
    return h5::RowType<SnapshotRow>()
        .field("used", offsetof(SnapshotRow, used), H5T_NATIVE_INT64)
        .field("seconds", offsetof(SnapshotRow, seconds), H5T_NATIVE_DOUBLE)
        .field("version_min", offsetof(SnapshotRow, version_min), H5T_NATIVE_INT64)
        .field("version_max", offsetof(SnapshotRow, version_max), H5T_NATIVE_INT64)
        .field("test_loss", offsetof(SnapshotRow, test_loss), H5T_NATIVE_DOUBLE)
        .field("test_correct", offsetof(SnapshotRow, test_correct), H5T_NATIVE_INT64)
        .field("test_count", offsetof(SnapshotRow, test_count), H5T_NATIVE_INT64)
        .done();
  }
};

struct RankRow {
  std::int32_t rank = 0;
  std::uint8_t server = 0;
  std::int64_t steps = 0, samples = 0;
  double total_s = 0, compute_s = 0, communication_s = 0, wait_s = 0, snapshot_s = 0;
  double compression_s = 0, share = 0;
  std::int64_t bytes_sent = 0, bytes_received = 0, messages = 0, synchronisations = 0;
  static h5::Handle type() {
    return h5::RowType<RankRow>()
        .field("rank", offsetof(RankRow, rank), H5T_NATIVE_INT32)
        .field("server", offsetof(RankRow, server), H5T_NATIVE_UINT8)
        .field("steps", offsetof(RankRow, steps), H5T_NATIVE_INT64)
        .field("samples", offsetof(RankRow, samples), H5T_NATIVE_INT64)
        .field("total_s", offsetof(RankRow, total_s), H5T_NATIVE_DOUBLE)
        .field("compute_s", offsetof(RankRow, compute_s), H5T_NATIVE_DOUBLE)
        .field("communication_s", offsetof(RankRow, communication_s), H5T_NATIVE_DOUBLE)
        .field("wait_s", offsetof(RankRow, wait_s), H5T_NATIVE_DOUBLE)
        .field("snapshot_s", offsetof(RankRow, snapshot_s), H5T_NATIVE_DOUBLE)
        .field("compression_s", offsetof(RankRow, compression_s), H5T_NATIVE_DOUBLE)
        .field("share", offsetof(RankRow, share), H5T_NATIVE_DOUBLE)
        .field("bytes_sent", offsetof(RankRow, bytes_sent), H5T_NATIVE_INT64)
        .field("bytes_received", offsetof(RankRow, bytes_received), H5T_NATIVE_INT64)
        .field("messages", offsetof(RankRow, messages), H5T_NATIVE_INT64)
        .field("synchronisations", offsetof(RankRow, synchronisations), H5T_NATIVE_INT64)
        .done();
  }
};

struct StalenessRow {
  std::int32_t shard = 0;
  std::int64_t tau = 0, count = 0;
  static h5::Handle type() {
    return h5::RowType<StalenessRow>()
        .field("shard", offsetof(StalenessRow, shard), H5T_NATIVE_INT32)
        .field("tau", offsetof(StalenessRow, tau), H5T_NATIVE_INT64)
        .field("count", offsetof(StalenessRow, count), H5T_NATIVE_INT64)
        .done();
  }
};

struct DepartureRow {
  std::int32_t rank = 0;
  std::int64_t step = 0, samples = 0;
  double seconds = 0;
  static h5::Handle type() {
    return h5::RowType<DepartureRow>()
        .field("rank", offsetof(DepartureRow, rank), H5T_NATIVE_INT32)
        .field("step", offsetof(DepartureRow, step), H5T_NATIVE_INT64)
        .field("samples", offsetof(DepartureRow, samples), H5T_NATIVE_INT64)
        .field("seconds", offsetof(DepartureRow, seconds), H5T_NATIVE_DOUBLE)
        .done();
  }
};

struct RequestRow {
  std::int32_t shard = 0, worker = 0;
  std::uint8_t kind = 0;
  std::int64_t version = 0, samples = 0, position = 0;
  static h5::Handle type() {
    return h5::RowType<RequestRow>()
        .field("shard", offsetof(RequestRow, shard), H5T_NATIVE_INT32)
        .field("worker", offsetof(RequestRow, worker), H5T_NATIVE_INT32)
        .field("kind", offsetof(RequestRow, kind), H5T_NATIVE_UINT8)
        .field("version", offsetof(RequestRow, version), H5T_NATIVE_INT64)
        .field("samples", offsetof(RequestRow, samples), H5T_NATIVE_INT64)
        .field("position", offsetof(RequestRow, position), H5T_NATIVE_INT64)
        .done();
  }
};

struct SpanRow {
  enum Kind : std::uint8_t { compute, transfer, wait };
  std::int32_t rank = 0;
  Kind kind = compute;
  double begin = 0, end = 0;
  static h5::Handle type() {
    return h5::RowType<SpanRow>()
        .field("rank", offsetof(SpanRow, rank), H5T_NATIVE_INT32)
        .field("kind", offsetof(SpanRow, kind), H5T_NATIVE_UINT8)
        .field("begin", offsetof(SpanRow, begin), H5T_NATIVE_DOUBLE)
        .field("end", offsetof(SpanRow, end), H5T_NATIVE_DOUBLE)
        .done();
  }
};

}  // namespace dsgd
