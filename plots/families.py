# SPDX-License-Identifier: Apache-2.0
"""Test accuracy of many strategies with one number of workers, a row of panels for each family, sync in all of them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import style
from convergence import MOST_LINES, accuracy_range, curves_of
from results import Results, count

FAMILIES = {
    "lock-step, compressed gradients": ("threshold", "topk", "qsgd", "signsgd", "ef_signsgd", "onebit", "powersgd"),
    "lock-step, local steps and gossip": ("averaging", "bmuf", "slowmo", "diloco", "easgd_sync", "eamsgd_sync", "dpsgd"),
    "gradients to parameter servers": ("downpour", "staleness_aware", "ssp", "dc_asgd", "fasgd", "sandblaster"),
    "models averaged without a common pace": ("easgd", "eamsgd", "adpsgd"),
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C564B")


def rows_of(strategies: list[str]) -> dict[str, list[str]]:
    """The strategies of each family that has any; sync is in none."""
    rows = {name: [s for s in family if s in strategies] for name, family in FAMILIES.items()}
    rows["others"] = [s for s in dict.fromkeys(strategies) if s != "sync" and not any(s in f for f in FAMILIES.values())]
    return {name: row for name, row in rows.items() if row}


def draw(results: Results) -> Figure:
    strategies = [variant.strategy for variant in results.variants]
    if len(results.workers) > 1 or len(strategies) <= MOST_LINES or len(set(strategies)) < len(strategies):
        raise style.OfAnotherExperiment()
    groups = {group.variant.strategy: group for group in results.groups}
    curves = {strategy: drawn for strategy, group in groups.items() if (drawn := curves_of(group))}
    last = {strategy: min(mean[-1] for _, _, mean, _ in drawn) for strategy, drawn in curves.items()}
    rows = {name: sorted(row, key=lambda s: -last[s]) for name, row in rows_of(list(curves)).items()}
    if not rows:
        raise style.LeftOut("no run has snapshots")

    fig, panels = plt.subplots(len(rows), 2, sharex="col", sharey=True, squeeze=False)
    for (by_samples, by_seconds), (name, row) in zip(panels, rows.items()):
        lines = [(s, curves[s], {"color": COLOURS[i % len(COLOURS)], "marker": style.MARKERS[i % len(style.MARKERS)]})
                 for i, s in enumerate(row)]
        lines += [("sync", curves["sync"], {"color": "black", "marker": None})] * ("sync" in curves)
        legend = []
        for strategy, drawn, look in lines:
            group = groups[strategy]
            width, size = (1.4, 5) if group.ok else (0.7, 3)
            for samples, seconds, mean, half in drawn:
                for panel, x in ((by_samples, samples / 1000), (by_seconds, seconds)):
                    panel.fill_between(x, 100 * (mean - half), 100 * (mean + half), color=look["color"], alpha=0.1, linewidth=0)
                    panel.plot(x, 100 * mean, color=look["color"], linewidth=width, zorder=3)
                    panel.plot(x[-1:], 100 * mean[-1:], markersize=size, markeredgecolor="white", markeredgewidth=0.6, zorder=4, **look)
            _, _, mean, half = drawn[0]
            interval = f" ± {100 * half[-1]:.1f}" if half[-1] > 0 else ""
            value = f"{100 * mean[-1]:.1f}{interval}" if group.ok else f"{sum(run.ok for run in group.runs)} of {len(group.runs)}"
            legend.append(Line2D([], [], linewidth=1.8, markersize=5, label=f"{strategy}  {value}", **look))
        by_seconds.legend(handles=legend, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, handlelength=1.8)
        by_samples.set_title(name)
        by_samples.set_ylabel("test accuracy, %")
    panels[-1, 0].set_xlabel("samples used by all workers, thousands")
    panels[-1, 1].set_xlabel(f"{style.seconds_of(results)}, evaluation excluded")
    panels[0, 0].set_xlim(left=0)
    panels[0, 1].set_xlim(left=0, right=time_shown(curves))
    panels[0, 0].set_ylim(*accuracy_range([c for drawn in curves.values() for c in drawn], []))
    workers, = results.workers
    return style.finish(fig, 2.3 * len(rows) + 0.3,
                        f"{count(workers, 'worker')}: test accuracy at equal samples and at equal time; beside each name its last value, %",
                        [[style.band_legend()]], results)


def time_shown(curves: dict) -> float:
    """The end of all but those that take more than three times as long as half of them."""
    ends = sorted(seconds[-1] for drawn in curves.values() for _, seconds, _, _ in drawn)
    return 1.03 * max(end for end in ends if end <= 3 * float(np.median(ends)))
