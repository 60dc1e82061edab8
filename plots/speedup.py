# SPDX-License-Identifier: Apache-2.0
"""Speed-up against the number of workers, with the ideal line and the base named."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import style
from results import STRONG, WEAK, Results, count, in_order, labels, throughput_gain, time_to_target_gain

KINDS = (("of throughput", throughput_gain), ("to the target", time_to_target_gain))
IDEAL = {"color": "#888888", "linewidth": 1.3, "linestyle": (0, (4, 3))}


def draw(results: Results) -> Figure:
    found = [(scaling, name, lines) for name, gain in KINDS for scaling in (WEAK, STRONG)
             if (lines := results.speedups(scaling, gain))]
    if not found:
        raise style.LeftOut(why_none(results))
    columns = min(len(found), 2)
    fig, panels = plt.subplots(-(-len(found) // columns), columns, squeeze=False)
    for panel in panels.flat[len(found):]:
        panel.set_visible(False)

    # Weak lines look as in the other figures; strong ones, with the global minibatch fixed, are lines of their own.
    look, legends = {}, []
    for scaling in (WEAK, STRONG):
        shown = in_order({line for kind, _, lines in found if kind is scaling for line in lines})
        variants = results.variants if scaling is WEAK else shown
        names = labels(variants)
        look[scaling] = style.looks(variants)
        legends += style.variant_legends({line: names[line] for line in shown}, look[scaling])

    for panel, (scaling, name, lines) in zip(panels.flat, found):
        workers = sorted({p for line in lines.values() for p in line})
        log = workers[-1] > 3
        panel.axline((1, 1), (2, 2), **IDEAL, zorder=2)
        for i, (variant, line) in enumerate(lines.items()):
            # Set side by side, so that intervals at the same number of workers stay apart.
            shift = (i - (len(lines) - 1) / 2) * min(0.025, 0.12 / len(lines))
            x = [p if p == 1 else p * (1 + shift) if log else p + shift * (workers[-1] - 1) for p in line]
            y = [e.mean for e in line.values()]
            error = [e.error if p > 1 else np.nan for p, e in line.items()]
            error = error if np.isfinite(error).any() else None
            panel.errorbar(x, y, error, markersize=5.5, linewidth=1.6, zorder=3, **look[scaling][variant])
        means = [e.mean for line in lines.values() for e in line.values()]
        if log:
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_locator(LogLocator(2, [1] if max(means) > 5 else [1, 1.5]))
            panel.yaxis.set_minor_locator(NullLocator())
        # Few seeds make intervals that would dwarf the means.
        bottom, top = panel.get_ylim()
        panel.set_ylim(max(bottom, 0.4 * min(means)), min(top, 1.6 * max(means)))
        panel.set_xticks(workers)
        panel.xaxis.set_minor_locator(NullLocator())
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_title(f"{scaling.name} speed-up {name}")
        panel.set_xlabel("workers")
        panel.set_ylabel(f"times the base: 1 worker,\n{scaling.base}")

    ideal = Line2D([], [], label="ideal: as many times as workers", **IDEAL)
    several = any(e.half is not None for _, _, lines in found for line in lines.values() for e in line.values())
    bars = [panels[0, 0].errorbar([], [], [], fmt="none", ecolor=style.GREY, label="95 % interval of the mean")]
    return style.finish(fig, 3.7 * -(-len(found) // columns), "Speed-up, per seed against the base with the same seed",
                        legends + [[ideal] + bars * several], results, reached(results))


def reached(results: Results) -> list[str]:
    """Where the target was not reached by all runs, by how many: there is no speed-up to it."""
    target = "Target " + " and ".join(f"{100 * target:g} %" for target in results.targets)
    if results.targets and not any(run.time_to_target for run in results.runs):
        return [f"{target}: reached by no run."]
    missed = []
    for group in results.groups:
        hits = group.having(lambda run: run.time_to_target)
        if hits < len(group.runs) and any(run.target is not None for run in group.runs):
            missed.append(f"{results.labels[group.variant]}, {count(group.workers, 'worker')}: "
                          f"{hits} of {len(group.runs)} reached")
    return style.some(target, missed)


def why_none(results: Results) -> str:
    timed = [run for run in results.runs if run.timed]
    workers = sorted({run.workers for run in timed})
    if not timed:
        return "no run ended as ok or unlearned"
    if len(workers) == 1:
        return f"all runs have the same number of workers ({workers[0]}); a speed-up needs 1 worker and more"
    if workers[0] != 1:
        return "there is no run with 1 worker, the base of a speed-up"
    return "no run has a base (1 worker with the same settings and seed), or a seed failed"
