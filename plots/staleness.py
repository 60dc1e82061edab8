# SPDX-License-Identifier: Apache-2.0
"""How stale gradients are when they arrive at a parameter server."""

from __future__ import annotations

from typing import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

import style
from results import Group, Results, Run, count

MEAN = {"color": "#222222", "linewidth": 1.4, "linestyle": (0, (3, 2))}

HISTOGRAM = 0.66  # of the height of a panel; text stands above


def staleness_of(run: Run) -> float | None:
    return run.mean_staleness


def shares(runs: Sequence[Run]) -> np.ndarray:
    """Mean over runs of the share of arrivals with staleness 0, 1, ..."""
    tables = [run.staleness for run in runs if run.staleness["count"].sum()]
    total = np.zeros(1 + max(int(rows["tau"].max()) for rows in tables))
    for rows in tables:
        np.add.at(total, rows["tau"].astype(int), rows["count"] / rows["count"].sum() / len(tables))
    return total


def draw(results: Results) -> Figure:
    groups = [group for group in results.groups if group.having(staleness_of)]
    if not groups:
        raise style.LeftOut("no run that came to its end used a parameter server")
    look = style.looks(results.variants)
    variants = list(dict.fromkeys(group.variant for group in groups))
    workers = sorted({group.workers for group in groups})

    fig, panels = plt.subplots(len(variants), len(workers), sharex="col", sharey="col", squeeze=False)
    found = {(group.variant, group.workers): group for group in groups}
    for i, variant in enumerate(variants):
        for j, p in enumerate(workers):
            panel = panels[i, j]
            panel.grid(axis="x", visible=False)
            group = found.get((variant, p))
            if group and group.estimate(staleness_of):
                histogram(panel, group, look[variant]["color"])
            else:
                panel.text(0.5, 0.5, group.missing(staleness_of) if group else "no run", transform=panel.transAxes, ha="center", color=style.GREY)
            panel.set_title(f"{results.labels[variant] if j == 0 else ''}\n{count(p, 'worker')}")
        panels[i, 0].set_ylabel("% of gradients")
    for j, p in enumerate(workers):
        # Beyond 99.9 % of the gradients there is nothing to see; the largest value is given in words.
        shown = [shares(g.runs) for v in variants if (g := found.get((v, p))) and g.estimate(staleness_of)] or [np.ones(1)]
        ends = [np.searchsorted(np.cumsum(share), 0.999) for share in shown]
        panels[-1, j].set_xlim(-0.7, max(max(ends), 2) + 0.7)
        panels[-1, j].xaxis.set_major_locator(MaxNLocator(min(12, 24 // len(workers)), integer=True))
        highest = 100 * max(share.max() for share in shown)
        panels[-1, j].set_yticks([tick for tick in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest)
                                  if tick <= highest])
        panels[-1, j].set_ylim(0, highest / HISTOGRAM)
        panels[-1, j].set_xlabel("staleness τ, updates")
    mean = Line2D([], [], label="mean over the gradients", **MEAN)
    return style.finish(fig, 0.6 + 1.75 * len(variants),
                        "Staleness: updates of a shard between the version that a gradient has seen and its arrival",
                        [[mean]], results)


def histogram(panel, group: Group, colour) -> None:
    share = shares(group.runs)
    mean = group.estimate(staleness_of)
    panel.bar(np.arange(len(share)), 100 * share, width=0.8, color=colour, linewidth=0)
    panel.axvline(mean.mean, ymax=HISTOGRAM + 0.04, **MEAN)
    panel.text(0.985, 1, f"mean {style.with_interval(mean)}\nlargest {len(share) - 1}", ha="right", va="top",
               transform=panel.transAxes, fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
