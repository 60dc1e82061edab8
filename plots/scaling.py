"""Throughput and time to the target against the number of workers, a column for each simulated cluster."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import style
from results import Results, Variant, count

IDEAL = {"color": "#888888", "linewidth": 1.3, "linestyle": (0, (4, 3))}


def cluster_of(variant: Variant) -> str:
    return dict(variant.settings).get("cluster.name", "")


def servers_of(variant: Variant) -> int:
    return dict(variant.settings).get("servers", 0)


def draw(results: Results) -> Figure:
    clusters = sorted({cluster_of(variant) for variant in results.variants}, key=lambda name: (len(name), name))
    lines = list(dict.fromkeys((v.strategy, servers_of(v)) for v in results.variants))
    if len(clusters) < 2 or len(results.workers) < 3 or len(results.variants) != len(clusters) * len(lines):
        raise style.OfAnotherExperiment()
    strategies = list(dict.fromkeys(strategy for strategy, _ in lines))
    hue = {v.strategy: look for v, look in style.looks([Variant(s, ()) for s in strategies]).items()}
    with_servers = {s: sorted({n for strategy, n in lines if strategy == s}) for s in strategies}
    looks, labels = {}, {}
    for strategy, servers in lines:
        i = with_servers[strategy].index(servers)
        looks[strategy, servers] = hue[strategy] | {"linestyle": style.LINES[i]} | ({"markerfacecolor": "white"} if i else {})
        labels[strategy, servers] = f"{strategy}, {count(servers, 'server')}" if len(with_servers[strategy]) > 1 else strategy

    timed = any(run.time_to_target for run in results.runs)
    fig, panels = plt.subplots(2 if timed else 1, len(clusters), sharex=True, sharey="row", squeeze=False)
    for j, cluster in enumerate(clusters):
        for variant in (v for v in results.variants if cluster_of(v) == cluster):
            look = looks[variant.strategy, servers_of(variant)]
            groups = [group for group in results.groups if group.variant is variant]
            rate = {g.workers: e.mean for g in groups if (e := g.estimate(lambda run: run.throughput))}
            # A time that a seed has not is none.
            time = {g.workers: g.estimate(lambda run: run.time_to_target).mean for g in groups
                    if g.ok and all(run.time_to_target is not None for run in g.runs)}
            for panel, values in zip(panels[:, j], (rate, time)):
                panel.plot(list(values), list(values.values()), markersize=5.5, linewidth=1.6, **look)
            if 1 in rate and variant.strategy == strategies[0]:
                panels[0, j].plot(results.workers, [p * rate[1] for p in results.workers], zorder=1, **IDEAL)
        panels[0, j].set_title(cluster)
        panels[-1, j].set_xlabel("workers")
    for panel in panels.flat:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(results.workers)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(10, [1, 2, 5]))
        panel.yaxis.set_minor_locator(NullLocator())
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    virtual = "simulated second" if all(run.engine == "simulated" for run in results.runs) else "second"
    panels[0, 0].set_ylabel(f"samples per {virtual}")
    target = " and ".join(f"{100 * t:g} %" for t in results.targets)
    if timed:
        panels[1, 0].set_ylabel(f"{virtual}s to {target}\ntest accuracy")
    legend = [Line2D([], [], label=labels[line], markersize=5.5, linewidth=1.6, **looks[line]) for line in lines]
    legend.append(Line2D([], [], label=f"as many times {strategies[0]} with 1 worker as workers", **IDEAL))
    what = "Throughput, and time to the target where every seed reached it" if timed else "Throughput"
    return style.finish(fig, 6.0 if timed else 3.6, f"{what}; the minibatch of a worker stays the same", [legend], results)
