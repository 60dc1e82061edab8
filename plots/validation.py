# SPDX-License-Identifier: Apache-2.0
"""Holds simulated runs against the real ones that they are twins of."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

try:
    import result_file
    import results
except ModuleNotFoundError as error:
    sys.exit(f"{error}. The table needs h5py, numpy and SciPy; on Debian: apt install python3-h5py python3-scipy")

EXAMPLES = """
example:
  dsgd calibrate
  dsgd sweep validate-simulation -o out/validation
  python3 plots/validation.py out/validation

Medians over the seeds, with the smallest and the largest in brackets. `ratio` is predicted / measured throughput, `gradients`
measured / predicted seconds of gradients: what of the ratio is the machine's speed on the day. Seconds of synchronisation are what a worker spent
inside the communicator, waiting included (communication_s + wait_s); their difference is given in % of the measured run.

exit code: 0 every ratio is within --within, 1 one is not, or there are no pairs, 2 wrong usage
"""


def synchronisation(run: results.Run) -> float:
    return run.phase("communication") + run.phase("wait")


def slowness(run: results.Run, jittered: bool) -> tuple:
    """What slows real ranks, too: a straggler where there is one, and jitter. Where no real run has any, its twin's is the
    machine's own, as calibrated."""
    settings = result_file.NOT_SLOWED | run.config
    keys = ["cluster.straggler.slowdown", *(results.STRAGGLER if settings["cluster.straggler.slowdown"] > 1 else ())]
    return tuple((key, settings.get(key)) for key in keys + ["cluster.jitter"] * jittered)


def name(strategy: str, settings: tuple) -> str:
    """With what slows ranks: "sync, slowdown 4"."""
    slowed = [f", {key.rpartition('.')[2]} {value:g}" for key, value in settings if value != result_file.NOT_SLOWED.get(key, value)]
    return strategy + "".join(slowed)


def pairs(runs: list[results.Run]) -> dict[tuple, dict[str, list[results.Run]]]:
    """Runs by what twins have in common, then by engine; only where there are both, and all have a throughput."""
    found: dict[tuple, dict[str, list[results.Run]]] = {}
    jittered = any(run.engine == "mpi" and (result_file.NOT_SLOWED | run.config)["cluster.jitter"] > 0 for run in runs)
    for run in runs:
        settings = tuple(s for s in run.variant.settings if s[0] != "engine" and not s[0].startswith("cluster."))
        settings += slowness(run, jittered)
        found.setdefault((run.strategy, settings, run.workers), {}).setdefault(run.engine, []).append(run)
    return {key: engines for key, engines in found.items() if {"mpi", "simulated"} <= engines.keys()
            and all(run.throughput for runs in engines.values() for run in runs)}


def table(runs: list[results.Run]) -> tuple[list[str], list[float]]:
    """Lines to print, and predicted / measured throughput of each."""
    found = sorted(pairs(runs).items(), key=lambda pair: (pair[0][2], name(*pair[0][:2])))
    width = max([16] + [len(name(*key[:2])) for key, _ in found])
    lines = [f"{'strategy':<{width}} {'workers':>7}  {'measured samples/s':>24} {'predicted':>9} {'ratio':>6} {'gradients':>9}"
             f"  {'synchronising: measured s':>28} {'predicted':>9} {'differ':>8}"]
    ratios = []
    for (strategy, settings, workers), engines in found:
        real, simulated = engines["mpi"], engines["simulated"]

        def medians(number):
            measured, predicted = sorted(map(number, real)), statistics.median(map(number, simulated))
            return measured, statistics.median(measured), predicted

        rates, rate, predicted_rate = medians(lambda run: run.throughput)
        spans, span, predicted_span = medians(synchronisation)
        _, gradients, predicted_gradients = medians(lambda run: run.phase("compute"))
        seconds = statistics.median(run.result["seconds"] for run in real)
        ratios.append(predicted_rate / rate)
        lines.append(f"{name(strategy, settings):<{width}} {workers:>7}  {rate:>8.0f} {f'({rates[0]:.0f}..{rates[-1]:.0f})':>15}"
                     f" {predicted_rate:>9.0f} {ratios[-1]:>6.2f} {gradients / predicted_gradients:>9.2f}"
                     f"  {span:>10.4f} {f'({spans[0]:.4f}..{spans[-1]:.4f})':>17} {predicted_span:>9.4f}"
                     f" {100 * (predicted_span - span) / seconds:>+6.1f} %")
    return lines, ratios


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="validation.py", description="Predicted and measured throughput of twins.",
                                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="RESULTS_DIR", type=Path, help="results of both engines")
    parser.add_argument("--within", metavar="X", type=float, default=0.15,
                        help="how far the ratio of throughputs may be from 1 (default: 0.15)")
    options = parser.parse_args(arguments)
    try:
        found = results.load(options.folder, allow_mixed=False)
    except (results.ResultError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines, ratios = table(found.runs)
    for failure in found.failures(("ok", "unlearned")):
        print(f"left out: {failure}", file=sys.stderr)
    if not ratios:
        print(f"error: {options.folder}: no run of both engines that came to its end", file=sys.stderr)
        return 1
    good = [ratio for ratio in ratios if abs(ratio - 1) <= options.within]
    print("\n".join(lines))
    print(f"{len(good)} of {len(ratios)} within {100 * options.within:g} %; median of |ratio - 1| "
          f"{100 * statistics.median(abs(r - 1) for r in ratios):.1f} %; simulated seconds are virtual")
    return 0 if len(good) == len(ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
