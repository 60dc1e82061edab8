// SPDX-License-Identifier: Apache-2.0
// main() of a test program that runs under mpirun:  mpirun -n RANKS PROGRAM [SERVERS [RANKS_PER_HOST]]
// All ranks run every test: one that fails on a rank fails on all of them, an exception or a test that hangs
// ends all of them.

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "ranks.h"

namespace dsgd::test {
namespace {

constexpr unsigned watchdog_s = 60;
std::unique_ptr<World> open_world;

std::array<char, 256> hung_message{};
void guard(const std::string& what) {
  std::snprintf(hung_message.data(), hung_message.size(), "rank %d: no end after %u s: %s\n", world().rank(),
                watchdog_s, what.c_str());
  alarm(watchdog_s);
}
void hung(int) {
  const auto written = write(STDERR_FILENO, hung_message.data(), std::strlen(hung_message.data()));
  _exit(written > 0 ? 124 : 125);  // mpirun ends the other ranks
}

// On ranks other than 0, in place of gtest's printer.
class FailurePrinter : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed() || result.skipped())
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", world().rank(),
                   result.file_name() ? result.file_name() : "", result.line_number(), result.message());
  }
};

class AllRanks : public testing::EmptyTestEventListener {
  static std::string name(const testing::TestInfo& test) {
    return std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestStart(const testing::TestInfo& test) override { guard(name(test)); }
  void OnTestEnd(const testing::TestInfo& test) override {
    std::array<std::int64_t, 2> ranks{test.result()->Failed(), test.result()->Skipped()};
    world().sum(ranks);
    guard("after " + name(test));
    if (ranks[0] && !test.result()->Failed()) ADD_FAILURE() << "failed on " << ranks[0] << " other rank(s)";
    if (ranks[1] % world().size()) ADD_FAILURE() << "skipped on " << ranks[1] << " rank(s) only";
  }
};

}  // namespace

World& world() { return *open_world; }
int ranks_per_host = 0;
std::vector<Shape> shapes() { return {{world().workers(), world().servers()}}; }

void on_ranks(const Fits& fits, const std::function<void()>& body) {
  ASSERT_TRUE(fits_any(fits)) << "not a test for " << world().workers() << " workers and "
                              << world().servers() << " servers";
  body();
}

}  // namespace dsgd::test

int main(int argc, char** argv) {
  using namespace dsgd::test;
  try {
    const auto number = [&](int i) { return argc > i && argv[i][0] != '-' ? std::atoi(argv[i]) : 0; };
    ranks_per_host = number(2);
    open_world = dsgd::World::open(number(1), world_minibatch, ranks_per_host);
    std::signal(SIGALRM, hung);
    guard("start");
    if (world().rank() > 0) GTEST_FLAG_SET(output, "");  // the report is rank 0's
    testing::InitGoogleTest(&argc, argv);  // after the world: the ranks decide which tests there are
    GTEST_FLAG_SET(catch_exceptions, false);
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    if (world().rank() > 0) {
      delete listeners.Release(listeners.default_result_printer());
      delete listeners.Release(listeners.default_xml_generator());  // rank 0 writes the report
      listeners.Append(new FailurePrinter);
    }
    listeners.Append(new AllRanks);
    int failed = RUN_ALL_TESTS();
    if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
      std::fprintf(stderr, "rank %d: no test to run with these ranks\n", world().rank());
      failed = 1;
    }
    guard("shutdown");
    open_world.reset();
    return failed;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", open_world ? world().rank() : -1, e.what());
    if (open_world) world().abort();
    return 2;
  }
}
