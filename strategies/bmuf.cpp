// Blockwise model-update filtering (Chen & Huo 2016): N workers take `block` local steps from W_g, then one
// filtered update:
//   Wbar  <- (1/N) * sum_k W_k
//   G     <- Wbar - W_g                     (from the model that the workers started from)
//   Delta <- eta * Delta + zeta * G
//   W     <- W + Delta
//   W_g   <- W                              momentum = classic (CBM)
//   W_g   <- W + eta * Delta                momentum = nesterov (NBM); the look-ahead is undone: it never
//   enters W
// Here zeta multiplies the *mean* of the workers' updates. CNTK multiplies their sum by (1 - eta), which is
// the same only at eta = 1 - 1/N; fairseq multiplies the mean by (1 - eta), an update N times smaller; both
// keep the look-ahead in the model. A constant update v per block moves W by zeta * v / (1 - eta) in the long
// run: the effective gain is zeta / (1 - eta), and at the default eta = 1 - 1/N it is N. The notation CBM/NBM
// is from secondary sources.

#include "strategies/outer_loop.h"

namespace dsgd {
namespace {

double block_momentum(const Settings& s, const Context& c) {
  return s.number("eta") < 0 ? 1.0 - 1.0 / c.workers : s.number("eta");
}

class Bmuf final : public OuterLoop {
 public:
  Bmuf(const Settings& s, const Context& c)
      : OuterLoop(c, s.integer("block"), s.flag("reset_local_momentum") ? "reset" : "keep"),
        eta_(float(block_momentum(s, c))),
        zeta_(float(s.number("zeta"))),
        nesterov_(s.text("momentum") == "nesterov"),
        W_(*c.space, c.parameters),
        Wg_(*c.space, c.parameters),
        Delta_(*c.space, c.parameters) {}
  Vec master(Replica& r) override { return r.t == 0 ? r.w : W_.view(); }
  void visit(State& state) override {
    OuterLoop::visit(state);
    state.vector("W", W_);
    state.vector("W_g", Wg_);
    state.vector("Delta", Delta_);
  }

 private:
  void begin(ConstVec w) override {
    copy(w, W_);
    copy(w, Wg_);
  }
  void outer(Vec w, std::int64_t) override {
    axpy(-1, Wg_, w);     // G
    scale(eta_, Delta_);  // Delta <- eta * Delta + zeta * G
    axpy(zeta_, w, Delta_);
    axpy(1, Delta_, W_);
    copy(W_, Wg_);
    if (nesterov_) axpy(eta_, Delta_, Wg_);
    copy(Wg_, w);
  }

  float eta_, zeta_;
  bool nesterov_;
  Vector W_, Wg_, Delta_;
};

}  // namespace

extern const StrategyEntry bmuf_entry{
    .name = "bmuf",
    .summary = "blockwise model-update filtering: block momentum on averaged models",
    .paper = "Chen & Huo 2016",
    .data_order = "shard",
    .parameters = {{"block", std::int64_t(20), "local steps in a block", 1, 1e9},
                   {"eta", -1.0, "block momentum; negative: 1 - 1/N", -1, 0.999},
                   {"zeta", 1.0, "block learning rate", 0, 100},
                   {"momentum",
                    std::string("nesterov"),
                    "where a block starts: at W, or looking ahead",
                    0,
                    0,
                    {"classic", "nesterov"}},
                   {"reset_local_momentum", true, "local optimizer state starts afresh in every block"}},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Bmuf>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          return double(periods(steps, s.integer("block"))) * all_reduce_cost(c);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          const double eta = block_momentum(s, c);
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                       {"period", double(s.integer("block"))},
                       {"eta", eta},
                       {"effective_gain", s.number("zeta") / (1 - eta)}};
        },
    .conformance = {{"block", std::int64_t(3)}, {"zeta", 0.5}},
    .serial = {{"block", std::int64_t(4)}, {"eta", 0.0}}};

}  // namespace dsgd
