// What carries vectors between ranks, without MPI.

#include "strategies/wire.h"

#include <gtest/gtest.h>

namespace dsgd {
namespace {

TEST(Message, CountsInBlocks) {
  EXPECT_EQ(blocks(0), 1);
  EXPECT_EQ(blocks(1), 2);
  EXPECT_EQ(blocks(16), 2);
  EXPECT_EQ(blocks(17), 3);
}

// 2^29 floats are more bytes than an int counts.
TEST(Message, HoldsMoreThanIntBytes) {
  const std::size_t beyond = std::size_t(1) << 29;
  EXPECT_EQ(blocks(beyond), 1 + (1 << 25));
  EXPECT_EQ(blocks(beyond + 1), 2 + (1 << 25));
  const std::size_t most = (std::size_t(std::numeric_limits<int>::max()) - 1) * 16;
  EXPECT_EQ(blocks(most), std::numeric_limits<int>::max());
  EXPECT_THROW(blocks(most + 1), std::length_error);
}

}  // namespace
}  // namespace dsgd
