# SPDX-License-Identifier: Apache-2.0
"""Where the time of a worker goes."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import style
from bars import Rows
from result_file import PHASES
from results import Group, Results

NAMES = {"compute": "compute (gradients)", "compression": "compression", "communication": "communication", "wait": "wait", "snapshot": "snapshots",
         "other": "other"}


def of(phase: str):
    """Seconds of a run whose seconds count."""
    return lambda run: run.phase(phase) if run.timed else None


def mean(group: Group, phase: str) -> float:
    """No bar where a seed has no seconds."""
    seconds = group.estimate(of(phase))
    return seconds.mean if seconds else 0.0


def draw(results: Results) -> Figure:
    groups = [group for group in results.groups if group.having(of("compute"))]
    if not groups:
        raise style.LeftOut("no run that ended as ok or unlearned has the times of its workers")
    fig, panel = plt.subplots()
    rows, left = Rows(groups, results), [0.0] * len(groups)
    for phase in PHASES:
        means = [mean(group, phase) for group in groups]
        panel.barh(rows.y, means, left=left, height=0.8, color=style.PHASE_COLOURS[phase], edgecolor="white",
                   linewidth=0.6)
        left = [a + b for a, b in zip(left, means)]
    for group, y, total in zip(groups, rows.y, left):
        seconds = group.estimate(of("total"))
        share = mean(group, "compute") / total if total else 0
        style.beside(panel, total, y, f"{style.with_interval(seconds)} s, {100 * share:.0f} %" if seconds else group.missing(of("total")))
    rows.label(panel)
    panel.set_xlim(0, 1.25 * max(left) or 1)
    panel.set_xlabel(f"{style.seconds_of(results)} per worker, mean over workers and seeds")
    return style.finish(fig, rows.height,
                        "Time of a worker while the clock runs; beside each bar, the total and the share of compute",
                        [[Patch(color=style.PHASE_COLOURS[phase], label=NAMES[phase]) for phase in PHASES]], results)
