// SPDX-License-Identifier: Apache-2.0
// Blockwise model-update filtering (Chen & Huo 2016): N workers take `block` local steps from W_g, then one
// filtered update:
//   Wbar  <- (1/N) * sum_k W_k
//   G     <- Wbar - W_g                     (from the model that the workers started from)
//   Delta <- eta * Delta + gain * G
//   W     <- W + Delta
//   W_g   <- W                              momentum = classic (CBM)
//   W_g   <- W + eta * Delta                momentum = nesterov (NBM)
// convention says what two well-known programs make of that under the same name:
//              gain                   the look-ahead of nesterov
//   paper      zeta                   is undone: it never enters W
//   fairseq    zeta                   stays in the model: W <- W_g      (since its release 0.9.0)
//   cntk       N * (1 - eta) * zeta   stays in the model                (it sums the workers' updates)
// At eta = 1 - 1/N the last two are the same. At eta = 0 fairseq averages whatever zeta is; here zeta counts.
// fairseq keeps the local optimizers' state from block to block (reset_local_momentum = false), CNTK resets
// it; neither fairseq's warm-up nor its averages of Adam's moments are here.
// Blocks that each find the update v move W by effective_gain * v a block in the long run: by
// gain / (1 - eta), and 1 + eta times as far where the look-ahead stays. At the default eta = 1 - 1/N that is
// N for the paper, 2N - 1 for CNTK and fairseq. 1 is plain averaging, N as if the workers had gone one after
// the other; less than 1/2 or more than 2N is refused unless forced. The names CBM and NBM are from secondary
// sources. Held against traces of the programs' formulas (tests/oracles/bmuf.py).

#include <fmt/format.h>

#include <stdexcept>

#include "parts/outer_loop.h"

namespace dsgd {
namespace {

double block_momentum(const Settings& s, const Context& c) {
  return s.number("eta") < 0 ? 1.0 - 1.0 / c.workers : s.number("eta");
}

bool keeps_look_ahead(const Settings& s) { return s.text("convention") != "paper"; }

double gain(const Settings& s, const Context& c) {
  const double zeta = s.number("zeta"), eta = block_momentum(s, c);
  return s.text("convention") == "cntk" ? c.workers * (1 - eta) * zeta : zeta;
}

double effective_gain(const Settings& s, const Context& c) {
  const double eta = block_momentum(s, c);
  const bool kept = keeps_look_ahead(s) && s.text("momentum") == "nesterov";
  return gain(s, c) / (1 - eta) * (kept ? 1 + eta : 1);
}

void check_gain(const Settings& s, const Context& c) {
  const double is = effective_gain(s, c), most = 2.0 * c.workers;
  if (s.flag("force_gain") || (is >= 0.5 && is <= most)) return;
  throw std::invalid_argument(
      fmt::format("eta, zeta and convention make an effective gain of {:g} with {} workers (allowed: 0.5 to "
                  "{:g}, or force_gain = true)",
                  is, c.workers, most));
}

class Bmuf final : public OuterLoop {
 public:
  Bmuf(const Settings& s, const Context& c)
      : OuterLoop(c, s.integer("block"), s.flag("reset_local_momentum") ? "reset" : "keep"),
        eta_(float(block_momentum(s, c))),
        gain_(float(gain(s, c))),
        nesterov_(s.text("momentum") == "nesterov"),
        kept_(keeps_look_ahead(s)),
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
    scale(eta_, Delta_);  // Delta <- eta * Delta + gain * G
    axpy(gain_, w, Delta_);
    axpy(1, Delta_, W_);
    copy(W_, Wg_);
    if (nesterov_) axpy(eta_, Delta_, Wg_);
    if (kept_) copy(Wg_, W_);
    copy(Wg_, w);
  }

  float eta_, gain_;
  bool nesterov_, kept_;
  Vector W_, Wg_, Delta_;
};

}  // namespace

extern const StrategyEntry bmuf_entry{
    .name = "bmuf",
    .summary = "blockwise model-update filtering: block momentum on averaged models",
    .paper = "Chen & Huo 2016",
    .data_order = DataOrder::shard,
    .parameters = {Parameter::integer("block", 20, "local steps in a block", 1, 1e9),
                   Parameter::number("eta", -1.0, "block momentum; negative: 1 - 1/N", -1, 0.999),
                   Parameter::number("zeta", 1.0, "block learning rate", 0, 100),
                   Parameter::choice("momentum", "nesterov", {"classic", "nesterov"},
                                     "where a block starts: at W, or looking ahead"),
                   Parameter::choice("convention", "paper", {"paper", "cntk", "fairseq"},
                                     "gain, and what becomes of the look-ahead"),
                   Parameter::flag("force_gain", false, "accept any effective gain"),
                   Parameter::flag("reset_local_momentum", true,
                                   "local optimizer state starts afresh in every block")},
    .make = [](const Settings& s, const Context& c) -> std::unique_ptr<Strategy> {
      return std::make_unique<Bmuf>(s, c);
    },
    .cost =
        [](const Settings& s, const Context& c, std::int64_t steps) {
          return double(periods(steps, s.integer("block"))) * all_reduce_cost(c);
        },
    .effective =
        [](const Settings& s, const Context& c) {
          check_gain(s, c);
          return Facts{{"global_minibatch", double(c.workers * c.minibatch)},
                       {"period", double(s.integer("block"))},
                       {"eta", block_momentum(s, c)},
                       {"effective_gain", effective_gain(s, c)}};
        },
    .tests = {.conformance = {{"block", std::int64_t(3)}, {"zeta", 0.5}},
              .identities = {
                  {.of = Identity::one_worker,
                   .settings = {{"block", std::int64_t(4)}, {"eta", 0.0}, {"reset_local_momentum", false}},
                   .rounding = 1},
                  {.of = Identity::linear,
                   .settings = {{"block", std::int64_t(1)}, {"eta", 0.0}, {"reset_local_momentum", false}},
                   .rounding = 1}}}};

}  // namespace dsgd
