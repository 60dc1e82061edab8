# SPDX-License-Identifier: Apache-2.0
"""Throughput of a worker and time to the target against the number of workers, a row for each family, a column for each cluster;
of several learning rates the best at each number of workers."""

from __future__ import annotations

import statistics

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import style
from families import COLOURS, rows_of
from results import Group, Results, Variant, count

IDEAL = {"color": "#888888", "linewidth": 1.3, "linestyle": (0, (4, 3))}


def cluster_of(variant: Variant) -> str:
    return dict(variant.settings).get("cluster.name", "")


def servers_of(variant: Variant) -> int:
    return dict(variant.settings).get("servers", 0)


def rate_of(variant: Variant) -> float:
    return dict(variant.settings)["optimizer.learning_rate"]


def draw(results: Results) -> Figure:
    if any(run.engine != "simulated" for run in results.runs):
        raise style.OfAnotherExperiment()
    clusters = sorted({cluster_of(variant) for variant in results.variants}, key=lambda name: (len(name), name))
    lines = list(dict.fromkeys((v.strategy, servers_of(v)) for v in results.variants))
    rows = rows_of([strategy for strategy, _ in lines])
    rates: dict[tuple[str, str, int], list[float]] = {}
    for v in results.variants:
        rates.setdefault((cluster_of(v), v.strategy, servers_of(v)), []).append(rate_of(v))
    alike = all(len(set(of)) == len(of) for of in rates.values())
    if len(clusters) < 2 or len(results.workers) < 2 or len(rates) != len(clusters) * len(lines) or not alike or not rows:
        raise style.OfAnotherExperiment()
    servers = sorted({n for _, n in lines if n})

    target = " and ".join(f"{100 * t:g} %" for t in results.targets)
    measures = [("samples per\nsimulated second\nand worker", lambda run: run.throughput and run.throughput / run.workers, max)]
    measures.append((f"simulated seconds\nto {target}", lambda run: run.time_to_target, min))
    measures = [m for m in measures if any(mean(group, m[1]) is not None for group in results.groups)]
    if not measures:
        raise style.LeftOut("no group of seeds has a throughput")
    timed = len(measures) > 1
    fig, panels = plt.subplots(len(measures) * len(rows), len(clusters), sharex=True, squeeze=False)
    for m, (label, number, best) in enumerate(measures):
        block = panels[m * len(rows):(m + 1) * len(rows)]
        found: dict[tuple[str, str, int], dict[int, float]] = {}
        for group in results.groups:
            if (value := mean(group, number)) is not None:
                of = cluster_of(group.variant), group.variant.strategy, servers_of(group.variant)
                by_workers = found.setdefault(of, {})
                by_workers[group.workers] = best(value, by_workers.get(group.workers, value))
        for row, (family, strategies) in zip(block, rows.items()):
            looks = {s: {"color": COLOURS[i % len(COLOURS)], "marker": style.MARKERS[i % len(style.MARKERS)]}
                     for i, s in enumerate(strategies)}
            if any(strategy == "sync" for strategy, _ in lines):
                looks["sync"] = {"color": "black", "marker": "."}
            for panel, cluster in zip(row, clusters):
                for (strategy, n) in (line for line in lines if line[0] in looks):
                    values = found.get((cluster, strategy, n), {})
                    of_servers = of_count(servers.index(n)) if n else {}
                    panel.plot(*zip(*sorted(values.items())), markersize=4.5, linewidth=1.3,
                               **looks[strategy] | of_servers)
                one = next((values for (of, s, _), values in found.items() if (of, s) == (cluster, "sync")), {})
                if not m and 1 in one:
                    panel.plot(results.workers, [one[1]] * len(results.workers), zorder=1, **IDEAL)
                panel.annotate(cluster, (0.03, 0.05), xycoords="axes fraction", fontsize=8.5, color=style.GREY)
            row[0].set_title(family)
            row[0].set_ylabel(label)
            legend = [Line2D([], [], markersize=5, linewidth=1.6, label=s, **looks[s]) for s in looks]
            if len({n for strategy, n in lines if strategy in strategies}) > 1:
                legend += [Line2D([], [], color=style.GREY, markersize=5, linewidth=1.6, label=count(n, "server"),
                                  **{"marker": "o"} | of_count(i)) for i, n in enumerate(servers)]
            row[-1].legend(handles=legend, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, handlelength=2.2)
        values = [y for panel in block.flat for line in panel.lines for y in line.get_ydata()]
        for panel in block.flat:  # all families on one scale
            panel.set_xscale("log", base=2)
            panel.set_xticks(results.workers)
            panel.xaxis.set_minor_locator(NullLocator())
            if m:
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(10))
                panel.yaxis.set_minor_locator(NullLocator())
            panel.set_ylim(min(values) / 1.4 if m else 0, max(values) * (1.4 if m else 1.08))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for panel in block[:, 1:].flat:
            panel.tick_params(labelleft=False)
    for panel in panels[-1]:
        panel.set_xlabel("workers")
    drawn = any(line.get_color() == IDEAL["color"] for panel in panels.flat for line in panel.lines)
    ideal = [[Line2D([], [], label="sync with 1 worker: ideal", **IDEAL)]] if drawn else []
    what = f"Samples a second, and time to {target} test accuracy where all seeds reached it" if timed else "Samples a second"
    what += "; a worker's minibatch stays the same"
    if (most := max(map(len, rates.values()))) > 1:
        what += f"; best of up to {most} learning rates at each number of workers"
    return style.finish(fig, 1.75 * len(panels) + 0.3, what, ideal, results)


def of_count(i: int) -> dict:
    """The look of the i-th number of servers."""
    return {"linestyle": style.LINES[i]} | ({"markerfacecolor": "white"} if i else {})


def mean(group: Group, number) -> float | None:
    """Over all seeds; a number that one of them has not is none."""
    values = [number(run) for run in group.runs]
    return None if None in values else statistics.fmean(values)
