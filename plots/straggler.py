# SPDX-License-Identifier: Apache-2.0
"""Time to the target by how much slower one worker is, a row for each strategy."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import style
from jitter import slowdown_of
from results import Results, Run, Variant, count


def draw(results: Results) -> Figure:
    slowdowns = sorted({slowdown_of(run) for run in results.runs})
    if len(slowdowns) < 2 or len(results.workers) > 1 or not results.targets:
        raise style.OfAnotherExperiment()
    by_strategy: dict[str, list[Run]] = {}
    for variant in results.variants:
        by_strategy[variant.strategy] = [run for run in results.runs if run.strategy == variant.strategy]
    if any(len({but_straggler(run.variant) for run in runs}) > 1
           or len({run.variant for run in runs}) > len({slowdown_of(run) for run in runs}) for runs in by_strategy.values()):
        raise style.LeftOut("a strategy has more settings than the straggler's slowdown")
    times = {strategy: [reached(runs, slowdown) for slowdown in slowdowns] for strategy, runs in by_strategy.items()}

    blocks = [[s for s in times if served(by_strategy[s]) == of_servers] for of_servers in (False, True)]
    blocks = [sorted(block, key=lambda s: np.mean(times[s][0] or np.inf)) for block in blocks if block]
    fig, panels = plt.subplots(len(blocks), 1, sharex=True, squeeze=False, height_ratios=[len(b) + 0.5 for b in blocks])
    looks = [{"color": style.shade("#0072B2", len(slowdowns) - 1 - i, len(slowdowns)), "marker": style.MARKERS[i]}
             for i in range(len(slowdowns))]
    for panel, block in zip(panels[:, 0], blocks):
        for y, strategy in enumerate(block):
            of = times[strategy]
            means = [float(np.mean(seconds)) for seconds in of if seconds]
            panel.plot([min(means, default=1), max(means, default=1)], [y, y], color="#CCCCCC", linewidth=1.5, zorder=1)
            for seconds, look in zip(of, looks):
                if seconds:
                    panel.plot(seconds, [y] * len(seconds), ".", color=look["color"], markersize=3, alpha=0.5, zorder=2)
                    panel.plot([np.mean(seconds)], [y], markersize=7, linewidth=0, markeredgecolor="white",
                               markeredgewidth=0.6, zorder=3, **look)
            panel.annotate(verdict(of, by_strategy[strategy], slowdowns), (1.01, y), xycoords=("axes fraction", "data"),
                           va="center", fontsize=8.5)
        panel.set_yticks(range(len(block)), block)
        panel.set_ylim(len(block) - 0.4, -0.6)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", visible=False)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(10, [1, 2, 5]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_title(f"with{'' if served(by_strategy[block[0]]) else 'out'} parameter servers")
        panel.annotate(f"times as long at {slowdowns[-1]:g}x", (1.01, 1), (0, 5), xycoords="axes fraction", fontsize=9, va="bottom",
                       textcoords="offset points")
    target = " and ".join(f"{100 * t:g} %" for t in results.targets)
    panels[-1, 0].set_xlabel(f"{style.seconds_of(results)} to {target} test accuracy (log scale)")
    legend = [Line2D([], [], linewidth=0, markersize=7, label=f"{slowdown:g}x", **look)
              for slowdown, look in zip(slowdowns, looks)]
    legend.append(Line2D([], [], color=style.GREY, marker=".", markersize=4, linewidth=0, label="a seed"))
    workers, = results.workers
    return style.finish(fig, 0.9 + 0.25 * sum(map(len, blocks)) + 0.3 * len(blocks),
                        f"Time to the target of {count(workers, 'worker')}, one of them so many times slower", [legend], results)


def but_straggler(variant: Variant) -> tuple:
    return tuple(kv for kv in variant.settings if not kv[0].startswith("cluster.straggler."))


def served(runs: list[Run]) -> bool:
    return any(len(run.ranks) > run.workers for run in runs)


def reached(runs: list[Run], slowdown: float) -> list[float]:
    """Seconds to the target of every seed; none where one of them missed it."""
    found = [run.time_to_target for run in runs if slowdown_of(run) == slowdown]
    return found if all(seconds is not None for seconds in found) else []


def verdict(times: list[list[float]], runs: list[Run], slowdowns: list[float]) -> str:
    """How much longer the slowest straggler makes it, or where the target was missed."""
    if times[0] and times[-1]:
        return f"{np.mean(times[-1]) / np.mean(times[0]):.2f}" if np.mean(times[0]) else "reached at the start"
    missed = [slowdown for slowdown, seconds in zip(slowdowns, times) if not seconds]
    of = [run for run in runs if slowdown_of(run) == missed[0]]
    return f"{sum(run.time_to_target is not None for run in of)} of {len(of)} reached at {missed[0]:g}x"
