# SPDX-License-Identifier: Apache-2.0
"""What is sent: by a worker in the whole run, and by all ranks for 1000 samples."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import style
from bars import Rows
from results import Estimate, Group, Results


def draw(results: Results) -> Figure:
    groups = [group for group in results.groups if group.having(lambda run: run.megabytes_per_1000_samples(False))]
    if not groups:
        raise style.LeftOut("no run has counters of its ranks")
    look, rows = style.looks(results.variants), Rows(groups, results)
    y = rows.y
    colours = [look[group.variant]["color"] for group in groups]
    fig, (run, relative) = plt.subplots(1, 2, sharey=True)

    worker = [group.estimate(lambda r: r.megabytes_sent) for group in groups]
    run.barh(y, list(map(height, worker)), height=0.8, color=colours)
    label(run, y, worker, groups)
    run.set_xlabel("MB sent per worker")

    workers = [group.estimate(lambda r: r.megabytes_per_1000_samples(False)) for group in groups]
    servers = [group.estimate(lambda r: r.megabytes_per_1000_samples(True)) for group in groups]
    total = [group.estimate(lambda r: r.megabytes_per_1000_samples()) for group in groups]
    relative.barh(y, list(map(height, workers)), height=0.8, color=colours)
    for row, left, server, colour in zip(y, workers, servers, colours):
        if height(server):
            relative.barh(row, server.mean, left=left.mean, height=0.8, color="white", edgecolor=colour, hatch="////",
                          linewidth=0.8)
    label(relative, y, total, groups)
    relative.set_xlabel("MB sent per 1000 samples")

    rows.label(run, relative)
    who = [Patch(color=style.GREY, label="sent by workers"),
           Patch(facecolor="white", edgecolor=style.GREY, hatch="////", label="sent by parameter servers")]
    return style.finish(fig, rows.height,
                        "Traffic: megabytes (10⁶ bytes) sent by a worker in the run, and by all ranks per 1000 samples",
                        [who if any(map(height, servers)) else who[:1]], results)


def height(value: Estimate | None) -> float:
    """No bar where a seed has no counters."""
    return value.mean if value else 0.0


def label(panel, y: list[float], values: list[Estimate | None], groups: list[Group]) -> None:
    for row, value, group in zip(y, values, groups):
        style.beside(panel, height(value), row, style.number(value.mean) if value else group.missing(lambda run: run.megabytes_sent))
    panel.set_xlim(0, 1.18 * max(map(height, values)) or 1)
