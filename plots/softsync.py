# SPDX-License-Identifier: Apache-2.0
"""Fixed rates against rates divided by staleness, and how stale gradients are (n-softsync, Zhang et al. 2015)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import style
from results import Results, Run, estimate
from staleness import MEAN, shares

RULES = {"none": ("fixed rate, α = α₀", {"color": "#CC79A7", "marker": "X"}),
         "inverse": ("divided by staleness, α = α₀ / τ", {"color": style.COLOURS["staleness_aware"], "marker": "o"})}
ENDED = ("ok", "unlearned", "diverged")
HARDSYNC = {"color": style.COLOURS["sync"], "linewidth": 1.3, "linestyle": (0, (5, 2))}
BOUND = {"color": style.GREY, "linewidth": 1, "linestyle": (0, (1, 1.4))}


def n_of(run: Run) -> int:
    return run.config.get("strategy.n", 1)


def rule_of(run: Run) -> str:
    return run.config.get("strategy.modulation", "")


def rate_of(run: Run) -> float:
    return run.config["optimizer.learning_rate"]


def arrivals(run: Run) -> int:
    """c: gradients an update."""
    return max(run.workers // n_of(run), 1)


def beyond(share: np.ndarray, n: int) -> float:
    """P(tau > 2n)."""
    return float(share[2 * n + 1:].sum())


def draw(results: Results) -> Figure:
    # A run that learned nothing is an answer here: those that diverged or stayed at chance count with the accuracy they ended with.
    runs = [run for run in results.runs if run.outcome in ENDED and run.reached_accuracy is not None]
    soft = [run for run in runs if run.strategy == "staleness_aware" and rule_of(run) in RULES]
    ns, rates = sorted(set(map(n_of, soft))), sorted(set(map(rate_of, soft)))
    if len(ns) < 2 or len({rule_of(run) for run in soft}) < 2 or len(results.workers) > 1:
        raise style.OfAnotherExperiment()
    workers, = results.workers

    fig = plt.figure()
    upper, lower = fig.add_gridspec(2, 1, height_ratios=(1.5, 1))
    panels = upper.subgridspec(1, len(rates)).subplots(sharey=True, squeeze=False)[0]
    for panel, rate in zip(panels, rates):
        for rule, (_, look) in RULES.items():
            found = [[100 * run.reached_accuracy for run in soft if n_of(run) == n and rate_of(run) == rate
                      and rule_of(run) == rule] for n in ns]
            shown = [i for i, values in enumerate(found) if values]
            panel.plot(shown, [np.mean(found[i]) for i in shown], markersize=6, linewidth=1.6, zorder=3, **look)
            panel.plot([i for i in shown for _ in found[i]], [value for i in shown for value in found[i]], ".",
                       color=look["color"], markersize=4, zorder=4)
        base = estimate(run.reached_accuracy for run in runs if run.strategy == "sync" and rate_of(run) == rate)
        if base:
            panel.axhline(100 * base.mean, zorder=2, **HARDSYNC)
        panel.set_xticks(range(len(ns)), [str(n) for n in ns])
        panel.set_xlim(-0.4, len(ns) - 0.6)
        panel.set_ylim(0, 100)
        panel.grid(axis="x", visible=False)
        panel.set_xlabel("n (updates per round of all learners)")
        panel.set_title(f"α₀ = {rate:g}")
    panels[0].set_ylabel("test accuracy at the end, %")

    for panel, n in zip(lower.subgridspec(1, len(ns)).subplots(squeeze=False)[0], ns):
        of_n = [run for run in soft if n_of(run) == n]
        c = arrivals(of_n[0])
        share = shares(of_n)
        mean = float(np.arange(len(share)) @ share)
        panel.bar(np.arange(len(share)), 100 * share, width=1 if n > 5 else 0.8, linewidth=0,
                  color=style.COLOURS["staleness_aware"])
        panel.axvline(mean, **MEAN)
        panel.axvline(2 * n + 0.5, **BOUND)
        panel.set_xlim(-0.7, 2 * n + 1.2 + 0.1 * n)
        panel.set_xticks([0, n, 2 * n])
        panel.grid(axis="x", visible=False)
        panel.set_title(f"n = {n}, c = {c}\nmean {mean:.2f}\n(λ−1)/c = {(workers - 1) / c:.2f}\n"
                        f"P(τ > 2n) = {style.number(beyond(share, n))}", fontsize=8.5)
        panel.set_xlabel("staleness τ, updates")
        if n == ns[0]:
            panel.set_ylabel("% of gradients")
    legend = [Line2D([], [], label=label, markersize=6, **look) for label, look in RULES.values()]
    legend += [Line2D([], [], color=style.GREY, marker=".", linestyle="", label="a seed")]
    legend += [Line2D([], [], label="sync", **HARDSYNC)] * any(run.strategy == "sync" for run in runs)
    legend += [Line2D([], [], label="mean of τ", **MEAN), Line2D([], [], label="2n", **BOUND)]
    virtual = " (simulated learners)" if all(run.engine == "simulated" for run in soft) else ""
    return style.finish(fig, 5.5, f"n-softsync of {workers} workers{virtual}: the model at the end by rate, "
                        "and the staleness of its gradients", [legend], results,
                        shown=ENDED)
