// SPDX-License-Identifier: Apache-2.0
// Strategies of equal workers against traces of others' programs, made without a look at this one's code:
// tests/oracles. Traces are of 2, 3 or 4 workers; worlds of other sizes have nothing to compare.
//   mpirun -n P mpi_lockstep_oracles_test

#include "checkpoint.h"
#include "oracle.h"
#include "ranks.h"

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
  EXPECT_TRUE(world().workers() != 3 || !all.empty()) << file;
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

// PyTorch's PostLocalSGDOptimizer over its DistributedDataParallel: models after every step.
TEST(Oracle, PostLocalSgd) {
  for (const Oracle& o : oracles_of("torch_post_local_sgd")) {
    const std::int64_t tau = std::int64_t(o.number("period")), start = std::int64_t(o.number("start"));
    ASSERT_EQ(start + tau - 1, o.number("warmup_steps"));
    Traced worker("averaging", {{"tau", tau}, {"warmup_steps", start}, {"state", "keep"s}},
                  {.rule = o.number("momentum") == 0 ? Rule::sgd
                           : o.flag("nesterov")      ? Rule::nesterov
                                                     : Rule::momentum,
                   .learning_rate = o.number("lr"),
                   .momentum = o.number("momentum"),
                   .l2 = o.number("weight_decay")},
                  o("init"), [&](std::int64_t t) -> const Doubles& { return o("grad", t, world().rank()); });
    for (int t = 0; o.has("model", t, 0); ++t) {
      worker.step();
      EXPECT_LE(relative(o("model", t, world().rank()), worker.w()), oracle_tolerance)
          << o.label() << ", step " << t;
    }
    if (!o.has("momentum", 11, 0)) continue;
    Checkpoint end;
    worker.made->visit(end);
    EXPECT_LE(relative(o("momentum", 11, world().rank()), end.saved("optimizer").data(), o("init").size()),
              oracle_tolerance)
        << o.label();
  }
}

// Equations 5 and 6 of Zhang, Choromanska, LeCun 2015.
TEST(Oracle, ElasticAveraging) {
  for (const Oracle& o : oracles_of("easgd_downpour")) {
    if (o.name != "easgd-sync") continue;
    Traced worker("easgd_sync",
                  {{"tau", integer(o.number("tau"))}, {"beta", o.number("alpha") * o.workers()}},
                  {.rule = Rule::sgd, .learning_rate = o.number("eta")}, o("init"),
                  [&](std::int64_t t) -> const Doubles& { return o("grad", t, world().rank()); });
    for (int t = 0; o.has("server", t); ++t) {
      worker.step();
      EXPECT_LE(relative(o("worker", t, world().rank()), worker.w()), oracle_tolerance) << o.label() << t;
      EXPECT_LE(relative(o("server", t), worker.master()), oracle_tolerance) << o.label() << ", step " << t;
    }
  }
}

// W1, W2, W3, b1, b2 of the trace.
std::vector<Extent> layers_of(const Oracle& o) {
  const std::vector<std::vector<int>> shapes{{6, 5}, {5, 4}, {3, 3}, {6}, {5}};
  std::vector<Extent> layers;
  std::size_t first = 0;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const bool matrix = o.has("q W" + std::to_string(i + 1));
    const auto count = std::size_t(shapes[i][0] * (shapes[i].size() > 1 ? shapes[i][1] : 1));
    // What PyTorch does not compress it averages, as a vector.
    layers.push_back(
        {.shape = matrix ? shapes[i] : std::vector<int>{int(count)}, .first = first, .count = count});
    first += count;
  }
  return layers;
}

// PyTorch's hook, from its first compressed step on: Q is its start then, so are its outputs, and its errors
// at the end.
TEST(Oracle, PowerSgd) {
  constexpr int first = 2, last = 7;
  for (const Oracle& o : oracles_of("torch_powersgd")) {
    OptimizerSettings sgd{.rule = Rule::sgd, .learning_rate = 1};
    sgd.layers = layers_of(o);
    Traced worker("powersgd", {{"rank", integer(o.number("matrix_approximation_rank"))}}, sgd,
                  Doubles(o("mean", first).size()),
                  [&](std::int64_t t) -> const Doubles& { return o("grad", first + t, world().rank()); });
    Doubles q;
    for (const char* matrix : {"q W1", "q W2", "q W3"})
      if (o.has(matrix)) q.insert(q.end(), o(matrix).begin(), o(matrix).end());
    Overwrite start("q", q);
    worker.made->visit(start);
    for (int t = first; t <= last; ++t) {
      fill(0, worker.replica.w);
      worker.step();
      EXPECT_LE(relative(-1 * o("mean", t), worker.w()), oracle_tolerance) << o.label() << ", step " << t;
    }
    Checkpoint end;
    worker.made->visit(end);
    Doubles error = o("error", last, world().rank());
    for (const Extent& layer : sgd.layers)  // the hook keeps rounding of what it averages
      if (layer.shape.size() == 1) std::fill_n(error.begin() + std::ptrdiff_t(layer.first), layer.count, 0);
    EXPECT_LE(relative(error, end.saved("e").data(), end.saved("e").size()), oracle_tolerance) << o.label();
  }
}

// What every worker gets of CNTK's 1-bit SGD (a sum there, a mean here), the signs with error feedback of
// PowerSGD's authors, and grace's top-k.
TEST(Oracle, Compressors) {
  for (const Oracle& o : oracles_of("compressors")) {
    const bool onebit = o.name == "onebit-cntk", topk = o.name == "topk-grace";
    if (o.name == "majority") continue;
    Given given;
    if (onebit) given = {{"bucket", integer(o.number("rows"))}};
    if (topk) given = {{"density", o.number("ratio")}};
    Traced worker(onebit ? "onebit"
                  : topk ? "topk"
                         : "ef_signsgd",
                  given, {.rule = Rule::sgd, .learning_rate = 1}, Doubles(o("grad", 0, 0).size()),
                  [&](std::int64_t t) -> const Doubles& { return o("grad", t, world().rank()); });
    for (int t = 0; o.has("result", t); ++t) {
      fill(0, worker.replica.w);
      worker.step();
      EXPECT_LE(relative((onebit ? -1.0 / o.workers() : -1.0) * o("result", t), worker.w()), oracle_tolerance)
          << o.label() << ", step " << t;
    }
  }
}

TEST(Oracle, MajorityVote) {
  for (const Oracle& o : oracles_of("compressors")) {
    if (o.name != "majority") continue;
    Traced worker("signsgd", {{"beta", o.number("momentum")}},
                  {.rule = Rule::sgd, .learning_rate = o.number("lr"), .l2 = o.number("weight_decay")},
                  o("init"), [&](std::int64_t t) -> const Doubles& { return o("grad", t, world().rank()); });
    for (int t = 0; o.has("model", t); ++t) {
      worker.step();
      EXPECT_LE(relative(o("model", t), worker.w()), oracle_tolerance) << o.label() << ", step " << t;
    }
  }
}

// Deep Gradient Compression as its authors released it.
TEST(Oracle, DeepGradientCompression) {
  for (const Oracle& o : oracles_of("dgc")) {
    Traced worker(
        "topk",
        {{"density", o.number("ratio")}, {"masking", o.flag("masking")}, {"clip", o.number("clip_thr")}},
        {.rule = o.number("momentum") == 0 ? Rule::sgd
                 : o.flag("nesterov")      ? Rule::nesterov
                                           : Rule::momentum,
         .learning_rate = o.number("lr"),
         .momentum = o.number("momentum"),
         .l2 = o.number("weight_decay")},
        o("init"), [&](std::int64_t t) -> const Doubles& { return o("grad", t, world().rank()); });
    for (int t = 0; o.has("model", t); ++t) {
      worker.step();
      EXPECT_LE(relative(o("model", t), worker.w()), oracle_tolerance) << o.label() << ", step " << t;
    }
  }
}

}  // namespace
}  // namespace dsgd::test
