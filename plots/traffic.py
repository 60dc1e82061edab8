"""What is sent: by a worker in the whole run, and by all ranks for 1000 samples."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import style
from bars import Rows
from results import Estimate, Results


def draw(results: Results) -> Figure:
    groups = [group for group in results.groups if group.estimate(lambda run: run.megabytes_per_1000_samples(False))]
    if not groups:
        raise style.LeftOut("no run that ended as ok has counters of its ranks")
    look, rows = style.looks(results.variants), Rows(groups, results)
    y = rows.y
    colours = [look[group.variant]["color"] for group in groups]
    fig, (run, relative) = plt.subplots(1, 2, sharey=True)

    worker = [group.estimate(lambda r: r.megabytes_sent) for group in groups]
    run.barh(y, [e.mean for e in worker], height=0.8, color=colours)
    label(run, y, worker)
    run.set_xlabel("MB sent per worker")

    workers = [group.estimate(lambda r: r.megabytes_per_1000_samples(False)) for group in groups]
    servers = [group.estimate(lambda r: r.megabytes_per_1000_samples(True)) for group in groups]
    total = [group.estimate(lambda r: r.megabytes_per_1000_samples()) for group in groups]
    relative.barh(y, [e.mean for e in workers], height=0.8, color=colours)
    for row, left, server, colour in zip(y, workers, servers, colours):
        if server.mean:
            relative.barh(row, server.mean, left=left.mean, height=0.8, color="white", edgecolor=colour, hatch="////",
                          linewidth=0.8)
    label(relative, y, total)
    relative.set_xlabel("MB sent per 1000 samples")

    rows.label(run, relative)
    who = [Patch(color=style.GREY, label="sent by workers"),
           Patch(facecolor="white", edgecolor=style.GREY, hatch="////", label="sent by parameter servers")]
    return style.finish(fig, rows.height,
                        "Traffic: megabytes (10⁶ bytes) sent by a worker in the run, and by all ranks per 1000 samples",
                        [who if any(e.mean for e in servers) else who[:1]], results)


def label(panel, y: list[float], values: list[Estimate]) -> None:
    for row, value in zip(y, values):
        style.beside(panel, value.mean, row, style.number(value.mean))
    panel.set_xlim(0, 1.18 * max(value.mean for value in values) or 1)
