# SPDX-License-Identifier: Apache-2.0
"""What uneven workers do to the staleness of n-softsync: its mean, and how much of it is beyond 2n."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import style
from result_file import NOT_SLOWED, Run
from results import Results, count, estimate
from softsync import arrivals, beyond, n_of
from staleness import shares

LIMIT = 1e-3
RARE = 1e-4  # below it the axis is linear, so that 0 has a place


def draw(results: Results) -> Figure:
    runs = [run for run in results.runs if run.mean_staleness is not None and run.strategy == "staleness_aware"]
    ns, jitters, slowdowns = (sorted({key(run) for run in runs}) for key in (n_of, jitter_of, slowdown_of))
    if len(jitters) < 2 or len(results.workers) > 1:
        raise style.OfAnotherExperiment()
    workers, = results.workers

    fig, panels = plt.subplots(2, len(slowdowns), sharex=True, sharey="row", squeeze=False,
                               height_ratios=(1, 1.8))
    looks = {n: {"color": style.shade(style.COLOURS["staleness_aware"], i, len(ns)), "marker": style.MARKERS[i]}
             for i, n in enumerate(ns)}
    for j, slowdown in enumerate(slowdowns):
        mean, tail = panels[:, j]
        for n, look in looks.items():
            at = [[run for run in runs if (n_of(run), jitter_of(run), slowdown_of(run)) == (n, jitter, slowdown)]
                  for jitter in jitters]
            for panel, number in ((mean, lambda run: run.mean_staleness / expected(run)),
                                  (tail, lambda run: beyond(shares([run]), n_of(run)))):
                found = [(i, estimate(map(number, of)).mean) for i, of in enumerate(at) if of]
                panel.plot(*zip(*found), markersize=5, linewidth=1.5, clip_on=False, zorder=3, **look)
        tail.axhline(LIMIT, color=style.GREY, linewidth=1, linestyle=(0, (2, 2)))
        tail.set_yscale("symlog", linthresh=RARE)
        tail.set_ylim(0, 1)
        tail.set_xticks(range(len(jitters)), [f"{jitter:g}" for jitter in jitters])
        tail.set_xlabel("jitter σ (log-normal)")
        mean.set_ylim(0, 1.1)
        stragglers = max(run.config.get("cluster.straggler.workers", 0) for run in runs) or workers  # 0: all
        mean.set_title("all alike" if slowdown == 1 else f"{count(stragglers, 'worker')} {slowdown:g} times slower")
    panels[0, 0].set_ylabel("mean of τ\nover (λ−1)/c")
    panels[1, 0].set_ylabel("P(τ > 2n)")
    legend = [Line2D([], [], label=f"n = {n}", markersize=5.5, **look) for n, look in looks.items()]
    legend.append(Line2D([], [], color=style.GREY, linewidth=1, linestyle=(0, (2, 2)), label=f"{LIMIT:g}"))
    return style.finish(fig, 4.4, f"n-softsync of {workers} simulated workers: mean staleness τ against what equal "
                        "turns make, (λ−1)/c with c = λ/n, and the share of gradients later than 2n", [legend], results)


def jitter_of(run: Run) -> float:
    return (NOT_SLOWED | run.config)["cluster.jitter"]


def slowdown_of(run: Run) -> float:
    return (NOT_SLOWED | run.config)["cluster.straggler.slowdown"]


def expected(run: Run) -> float:
    return (run.workers - 1) / arrivals(run)
