# SPDX-License-Identifier: Apache-2.0
"""Speed-up of periodic averaging by period, workers and cost of a synchronisation, beside naive parallelisation, and SparkNet's
model of both (Moritz et al. 2016):
    naive: C / (C/K + S)        periodic: N C / ((tau C + S) M)        N, M: steps and rounds to the target
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import style
from results import Results, Run, count, estimate, time_to_target_gain

EVEN = {"color": style.GREY, "linewidth": 1, "linestyle": (0, (2, 2))}


def period(run: Run) -> int:
    return run.config["strategy.tau"]


def round_of(run: Run) -> float:
    return run.config.get("cluster.round", 0)


def synchronisation(run: Run) -> float:
    """S, seconds."""
    return (run.phase("communication") + run.phase("wait")) / run.ranks["synchronisations"].max()


def gradient(run: Run) -> float:
    """C, seconds."""
    return run.phase("compute") / run.ranks["steps"].max()


def draw(results: Results) -> Figure:
    averaging = [run for run in results.runs if run.strategy == "averaging"]
    periodic = [run for run in averaging if run.timed]
    taus, rounds = sorted(set(map(period, periodic))), sorted(set(map(round_of, periodic)))
    serial = {run.seed: run for run in sorted(periodic, key=period) if run.workers == 1 and round_of(run) == rounds[0]}
    if len(taus) < 2 or len(rounds) < 2 or not serial or not results.targets:
        raise style.OfAnotherExperiment()
    c = gradient(next(iter(serial.values())))
    b = next(iter(serial.values())).config["minibatch"]
    steps = [run for run in results.runs if run.timed and run.strategy == "sync" and run.workers * run.config["minibatch"] == b]
    workers = sorted({run.workers for run in periodic})

    def to_target(tau: int, k: int, cost: float):
        """Mean over seeds; none where one missed the target."""
        of = [run for run in averaging if (period(run), run.workers, round_of(run)) == (tau, k, cost)]
        gains = [time_to_target_gain(run, serial[run.seed]) if run.seed in serial else None for run in of]
        return estimate(gains) if gains and None not in gains else None

    fig = plt.figure()
    upper, lower = fig.add_gridspec(2, 1)
    top = upper.subgridspec(1, len(rounds)).subplots(sharey=True, squeeze=False)[0]
    by_k = {k: {"color": style.shade(style.COLOURS["averaging"], i, len(workers)), "marker": style.MARKERS[i]}
            for i, k in enumerate(workers)}
    missed = []
    for panel, cost in zip(top, rounds):
        for i, (k, look) in enumerate(by_k.items()):
            found = [(tau, e) for tau in taus if (e := to_target(tau, k, cost))]
            missed += [f"tau {tau} with {count(k, 'worker')}" for tau in taus if cost == rounds[0]
                       and tau not in dict(found)]
            if found:
                shift = 1 + 0.04 * (i - (len(by_k) - 1) / 2)
                panel.errorbar([tau * shift for tau, _ in found], [e.mean for _, e in found],
                               errors(e for _, e in found), markersize=5.5, linewidth=1.6, zorder=3, **look)
        of = [run for run in periodic if round_of(run) == cost and run.workers == workers[-1]]
        if of:
            panel.set_title(f"S = {style.number(np.mean([synchronisation(run) for run in of]) / c)} C")
        logarithmic(panel, "period τ, local steps")
        panel.set_xticks(taus)
    top[0].set_ylabel("simulated speed-up to the target\nover serial SGD")

    naive, sparknet = lower.subgridspec(1, 2).subplots(sharey=True)
    ks = sorted({run.workers for run in steps if run.workers > 1})
    base = next((run for run in steps if run.workers == 1 and round_of(run) == rounds[0]), None)
    if base:
        ratios = np.geomspace(0.01, 40, 200)
        for k in ks:
            of = [run for run in steps if run.workers == k]
            naive.plot(ratios, 1 / (1 / k + ratios), color=by_k[k]["color"], linewidth=1.3, zorder=2)
            naive.plot([synchronisation(run) / c for run in of], [run.throughput / base.throughput for run in of],
                       markersize=5.5, linewidth=0, zorder=3, **by_k[k])
        sparknet.plot(ratios, 1 / (1 / workers[-1] + ratios), color=style.COLOURS["sync"], linewidth=1.3, zorder=2)
    naive.set_title("naive, a step: model (lines), simulated (points)")
    naive.set_ylabel("simulated speed-up over serial SGD")
    for i, tau in enumerate(taus):
        found = [(np.mean([synchronisation(run) for run in periodic if (period(run), run.workers, round_of(run))
                           == (tau, workers[-1], cost)]) / c, e)
                 for cost in rounds if (e := to_target(tau, workers[-1], cost))]
        if found:
            sparknet.plot([s for s, _ in found], [e.mean for _, e in found], color=style.shade("#009E73", i, len(taus)),
                          marker=style.MARKERS[i], markersize=5.5, linewidth=1.6, label=f"τ = {tau}", zorder=3)
    sparknet.set_title(f"{count(workers[-1], 'worker')}: averaging, to the target")
    for panel in (naive, sparknet):
        logarithmic(panel, "cost of a synchronisation S / C")
    for panel in (*top, naive, sparknet):
        panel.axhline(1, zorder=1, **EVEN)
    first = [Line2D([], [], label=count(k, "worker"), markersize=5.5, **look) for k, look in by_k.items()]
    first.append(Line2D([], [], label="as fast as serial", **EVEN))
    second = sparknet.get_legend_handles_labels()[0]
    second += [Line2D([], [], color=style.COLOURS["sync"], linewidth=1.3,
                      label=f"{count(workers[-1], 'worker')}, naive (model)")] * bool(base)
    notes = [f"Target {100 * results.targets[0]:g} % missed by a seed: " + ", ".join(missed) + "."] if missed else []
    return style.finish(fig, 6.2, f"C: a gradient of {b} samples ({style.number(1000 * c)} simulated ms); S: a synchronisation, its "
                        f"messages included", [first, second], results, notes)


def errors(estimates) -> list[float] | None:
    found = [e.error for e in estimates]
    return found if np.isfinite(found).any() else None


def logarithmic(panel, label: str) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_locator(LogLocator(2))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel(label)
