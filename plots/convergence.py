# SPDX-License-Identifier: Apache-2.0
"""Test accuracy against samples, and against seconds."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import style
from results import Group, Results, Run, count, estimate

MOST_LINES = 8  # in one panel; with more, each number of workers gets a row of its own


def curve(runs: list[Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Samples, and at each of them the mean over the runs of seconds and accuracy, and half the accuracy's interval.

    Snapshots are taken at the same sample counts in all runs, give or take the samples of one update. The points are
    those of the run with the fewest snapshots; runs that were copied a little beside them are interpolated."""
    series = []
    for run in runs:
        used, last = np.unique(run.snapshots["used"][::-1], return_index=True)
        at = len(run.snapshots) - 1 - last
        series.append((used, run.snapshots["seconds"][at], run.accuracy[at]))
    grid = min((used for used, _, _ in series), key=len)
    first, end = max(used[0] for used, _, _ in series), min(used[-1] for used, _, _ in series)
    grid = np.unique(np.clip(grid, first, end)) if first <= end else grid[:0]
    seconds = np.mean([np.interp(grid, used, s) for used, s, _ in series], axis=0)
    points = [estimate(values) for values in np.transpose([np.interp(grid, used, a) for used, _, a in series])]
    return grid, seconds, np.array([p.mean for p in points]), np.array([p.error for p in points])


def curves_of(group: Group) -> list[tuple]:
    """The mean over the seeds; where one of them failed, each by itself: the mean of the others would flatter."""
    runs = [run for run in group.runs if len(run.snapshots)]
    if not runs:
        return []
    mean = curve(runs) if group.ok and len(runs) == len(group.runs) else None
    return [mean] if mean and len(mean[0]) else [curve([run]) for run in runs]


def draw(results: Results) -> Figure:
    if len(results.workers) == 1 and len({variant.strategy for variant in results.variants}) > MOST_LINES:
        raise style.OfAnotherExperiment()  # families.py
    curves = {group: drawn for group in results.groups if (drawn := curves_of(group))}
    if not curves:
        raise style.LeftOut("no run has snapshots")
    workers = sorted({group.workers for group in curves})
    rows = [[p] for p in workers] if len(curves) > MOST_LINES else [workers]
    lines, look = style.line_styles(results.workers), style.looks(results.variants)

    fig, panels = plt.subplots(len(rows), 2, sharex="col", sharey=True, squeeze=False)
    every = [c for drawn in curves.values() for c in drawn]
    ends = [c[1][-1] for c in every]
    log_time = max(ends) > 8 * min(ends) > 0
    for row, (by_samples, by_seconds) in zip(rows, panels):
        for group, (samples, seconds, mean, half) in ((group, c) for group, drawn in curves.items() for c in drawn):
            if group.workers not in row:
                continue
            colour, marker = look[group.variant]["color"], look[group.variant]["marker"]
            width = 1.8 if group.ok else 0.7
            for panel, x in ((by_samples, samples / 1000), (by_seconds, seconds)):
                if log_time and panel is by_seconds:
                    shown = x > 0
                    x, y, error = x[shown], mean[shown], half[shown]
                else:
                    y, error = mean, half
                panel.fill_between(x, 100 * (y - error), 100 * (y + error), color=colour, alpha=0.12, linewidth=0)
                panel.plot(x, 100 * y, color=colour, linestyle=lines[group.workers], linewidth=width, zorder=3)
                panel.plot(x[-1:], 100 * y[-1:], color=colour, marker=marker, markersize=5 if group.ok else 3, zorder=4,
                           markeredgecolor="white", markeredgewidth=0.6)
        for panel in (by_samples, by_seconds):
            for target in results.targets:
                panel.axhline(100 * target, color=style.GREY, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
        by_samples.set_ylabel("test accuracy, %")
        who = f"{count(row[0], 'worker')}, " if len(rows) > 1 else ""
        by_samples.set_title(f"{who}at equal work")
        by_seconds.set_title(f"{who}at equal time")
    panels[-1, 0].set_xlabel("samples used by all workers, thousands")
    panels[-1, 1].set_xlabel(f"{style.seconds_of(results)}, evaluation excluded" + (" (log scale)" if log_time else ""))
    panels[0, 0].set_xlim(left=0)
    low, high = accuracy_range(every, results.targets)
    panels[0, 0].set_ylim(low, high)
    if log_time:
        panels[0, 1].set_xscale("log")
        panels[0, 1].set_xlim(left=0.8 * min(s[(s > 0) & (100 * mean >= low)][0] for _, s, mean, _ in every if ((s > 0) & (100 * mean >= low)).any()))
        panels[0, 1].xaxis.set_major_locator(LogLocator(10, [1, 2, 5]))
        panels[0, 1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0, 1].xaxis.set_minor_locator(NullLocator())
    else:
        panels[0, 1].set_xlim(left=0)

    how = [Line2D([], [], color=style.GREY, linestyle=lines[p], label=count(p, "worker")) for p in workers]
    how += [Line2D([], [], color=style.GREY, linewidth=1, linestyle=(0, (2, 2)),
                   label="target " + " and ".join(f"{100 * t:g} %" for t in results.targets))] * bool(results.targets)
    how += [style.band_legend()] * any(np.isfinite(c[3]).any() for c in every)
    names = {variant: results.labels[variant] for variant in results.variants if variant in {g.variant for g in curves}}
    how += [Line2D([], [], color=style.GREY, linewidth=0.7, label="a seed, where others failed")] * any(not g.ok for g in curves)
    return style.finish(fig, 3.6 if len(rows) == 1 else 2.6 * len(rows) + 0.5,
                        "Convergence: test accuracy against samples and against time",
                        style.variant_legends(names, look) + [how], results)


def accuracy_range(curves: list[tuple], targets: list[float]) -> tuple[float, float]:
    """Cuts off the steep first tenth of the budget, and no more: a run that stays low remains in the picture."""
    low = min(mean[np.searchsorted(samples, 0.1 * samples[-1])] for samples, _, mean, _ in curves)
    low = min([low] + targets)
    high = max([mean.max() for _, _, mean, _ in curves] + targets)
    band = max((mean + np.nan_to_num(half)).max() for _, _, mean, half in curves)
    high = min(max(high, band), high + 0.25 * (high - low))
    margin = 0.06 * max(high - low, 0.02)
    return 100 * max(low - margin, 0), 100 * min(high + margin, 1.005)
