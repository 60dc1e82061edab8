// Strategies of equal workers against traces of others' programs, made without a look at this one's code:
// tests/oracles. Traces are of 2, 3 or 4 workers; worlds of other sizes have nothing to compare.
//   mpirun -n P mpi_lockstep_oracles_test

#include "tests/oracle.h"
#include "tests/ranks.h"

namespace dsgd::test {
namespace {

using Given = std::map<std::string, Value>;
using Rule = OptimizerSettings::Rule;
using namespace std::string_literals;

bool fits(const Shape& shape) { return shape.servers == 0; }
Value integer(double n) { return std::int64_t(n); }

// Those of as many workers as there are here.
std::vector<Oracle> oracles_of(const std::string& file) {
  std::vector<Oracle> all = oracles(file);
  all.erase(std::remove_if(all.begin(), all.end(),
                           [](const Oracle& o) { return o.workers() != world().workers(); }),
            all.end());
  EXPECT_TRUE(world().workers() < 2 || world().workers() > 3 || !all.empty()) << file;
  return all;
}

// This rank's worker in a trace.
struct Traced {
  Traced(const std::string& strategy, const Given& given, const OptimizerSettings& optimizer,
         const Doubles& init, const OracleReplica::Gradient& gradient)
      : replica(init, world().workers(), gradient) {
    const StrategyEntry& entry = *find_strategy(strategy);
    const Context context{.group = &world().group(),
                          .space = &host_space(),
                          .parameters = init.size(),
                          .workers = world().workers(),
                          .rank = world().rank(),
                          .optimizer = optimizer};
    made = entry.make(Settings(entry.parameters, given), context);
  }
  void step() { replica.step(*made); }
  ConstVec w() const { return replica.w; }
  ConstVec master() { return made->master(replica); }
  OracleReplica replica;
  std::unique_ptr<Strategy> made;
};

// The paper's equations, fairseq and CNTK: where workers go on after each block, and the model.
TEST(Oracle, Bmuf) {
  for (const Oracle& o : oracles_of("bmuf")) {
    Traced worker("bmuf",
                  {{"convention", o.name},
                   {"block", integer(o.number("tau"))},
                   {"eta", o.number("eta")},
                   {"zeta", o.number("zeta")},
                   {"momentum", o.flag("nbm") ? "nesterov"s : "classic"s},
                   {"reset_local_momentum", o.flag("reset")}},
                  {.rule = o.number("mu") > 0 ? Rule::momentum : Rule::sgd,
                   .learning_rate = o.number("lr"),
                   .momentum = o.number("mu")},
                  o("init"),
                  [&](std::int64_t t) -> const Doubles& { return o("grad", t + 1, world().rank()); });
    for (int block = 1; block <= 4; ++block) {
      for (int i = 0; i < 3; ++i) worker.step();
      EXPECT_LE(relative(o("start", block), worker.w()), oracle_tolerance) << o.label() << ", " << block;
      EXPECT_LE(relative(o(o.has("global", block) ? "global" : "start", block), worker.master()),
                oracle_tolerance)
          << o.label() << ", block " << block;
    }
  }
}

}  // namespace
}  // namespace dsgd::test
