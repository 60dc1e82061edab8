# SPDX-License-Identifier: Apache-2.0
"""The look that all figures share: colours, legend, title, notes and footer around the panels."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from result_file import PHASES, Variant
from results import Estimate, Results, count

WIDTH = 9.0  # inches; at README width (about 830 pixels) the smallest text is 10 pixels high
DPI = 160
GREY = "#555555"

# Okabe & Ito. A strategy has the same colour in every figure and experiment; phases of time use what is left.
COLOURS = {"sync": "#000000", "averaging": "#0072B2", "downpour": "#D55E00", "staleness_aware": "#E69F00",
           "bmuf": "#009E73"}
OTHERS = ("#CC79A7", "#56B4E9", "#F0E442")
PHASE_COLOURS = dict(zip(PHASES, ("#56B4E9", "#009E73", "#CC79A7", "#F0E442", GREY, "#CCCCCC")))
MARKERS = "osD^vPX<>h"
LINES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (7, 2, 1, 2, 1, 2)), (0, (3, 4)))


class LeftOut(Exception):
    """Why there is nothing to draw."""


class OfAnotherExperiment(LeftOut):
    """The figure belongs to an experiment of another shape, so nothing is missing."""


def setup() -> None:
    matplotlib.rcdefaults()
    matplotlib.use("Agg")
    matplotlib.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10,
        "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": "#444444", "axes.axisbelow": True, "axes.grid": True, "grid.color": "#E4E4E4",
        "grid.linewidth": 0.8, "xtick.color": "#444444", "ytick.color": "#444444", "xtick.labelcolor": "black",
        "ytick.labelcolor": "black", "legend.frameon": False, "legend.fontsize": 9.5, "lines.linewidth": 1.8,
        "errorbar.capsize": 3, "pdf.fonttype": 42, "hatch.linewidth": 0.8})


def looks(variants: list[Variant]) -> dict[Variant, dict]:
    """Colour and marker of each variant: the strategy's hue, from dark to light where a strategy has several."""
    strategies = list(dict.fromkeys(v.strategy for v in variants))
    unknown = sorted(set(strategies) - set(COLOURS))
    found = {}
    for strategy in strategies:
        own = [v for v in variants if v.strategy == strategy]
        base = COLOURS.get(strategy) or OTHERS[unknown.index(strategy) % len(OTHERS)]
        for i, variant in enumerate(own):
            first = i if len(own) > 1 else strategies.index(strategy)
            found[variant] = {"color": shade(base, i, len(own)), "marker": MARKERS[first % len(MARKERS)]}
    return found


def shade(colour: str, i: int, n: int):
    """The i-th of n shades of a colour, from dark to light; the colour itself for n = 1."""
    if n == 1:
        return colour
    lightest = 0.55
    darkest = 0.0 if colour == "#000000" else -0.5
    t = darkest + (lightest - darkest) * i / (n - 1)
    return tuple(c + (1 - c) * t if t > 0 else c * (1 + t) for c in to_rgb(colour))


def line_styles(workers: list[int]) -> dict[int, object]:
    """Solid for the most workers."""
    return {p: LINES[i % len(LINES)] for i, p in enumerate(sorted(workers, reverse=True))}


def variant_legends(names: dict[Variant, str], look: dict[Variant, dict]) -> list[list]:
    """One row for all strategies, or one for each where some have several variants."""
    rows: dict[str, list] = {}
    alone = len({variant.strategy for variant in names}) == len(names)
    for variant, name in names.items():
        row = rows.setdefault("" if alone else variant.strategy, [])
        label = name if alone or not row else name.removeprefix(f"{variant.strategy}, ")
        row.append(Line2D([], [], linewidth=2.2, markersize=5.5, label=label, **look[variant]))
    return list(rows.values())


def band_legend() -> Patch:
    return Patch(color="#BBBBBB", label="95 % interval of the mean")


def number(value: float) -> str:
    """Three significant digits, never an exponent: 0, 0.0427, 2.69, 26.9, 2425."""
    if value == 0:
        return "0"
    return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def with_interval(value: Estimate) -> str:
    """The mean to as many decimals as two significant digits of its interval have."""
    if not value.half:
        return number(value.mean)
    decimals = max(1 - math.floor(math.log10(value.half)), 0)
    return f"{value.mean:.{decimals}f} ± {value.half:.{decimals}f}"


def beside(panel, x: float, y: float, text: str) -> None:
    """Text to the right of the end of a bar."""
    panel.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5,
                   bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})


def host_of(results: Results) -> str:
    """Commit, class of host, engine, number of seeds, and runs whose gradients were skipped, in one line."""
    found = results.identities()
    hosts = [re.sub(r"\((R|TM)\)|\bCPU\b|@.*?(?=,)|Processor", " ", host) for host in found["host"]]
    seeds = sorted({len(group.runs) for group in results.groups})
    seeds_text = count(seeds[-1], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    parts = [f"commit {' and '.join(found['commit'])}",
             " and ".join(re.sub(r"\s+(?=,)|(?<=\s)\s+", "", host) for host in hosts),
             "engine " + " and ".join(engine + " (its seconds are virtual)" * (engine == "simulated")
                                      for engine in sorted(found["engine"])), seeds_text]
    if skipped := sum(run.config.get("gradient") == "skipped" for run in results.runs):
        parts.append(f"gradients skipped in {skipped} of {count(len(results.runs), 'run')}: timing alone, nothing was learned")
    return "  ·  ".join(parts)


def seconds_of(results: Results) -> str:
    """What the seconds of an axis are."""
    simulated = [run.engine == "simulated" for run in results.runs]
    if all(simulated):
        return "simulated seconds"
    return "real or virtual seconds" if any(simulated) else "seconds of wall clock"


def title_of(results: Results) -> str:
    titles = list(dict.fromkeys(run.title for run in results.runs if run.title))
    return " / ".join(titles) if 0 < len(titles) <= 2 else results.folder.resolve().name


def finish(fig: Figure, panels_height: float, subtitle: str, legends: list[list], results: Results,
           notes: list[str] | None = None, shown: tuple[str, ...] = ("ok",)) -> Figure:
    """Adds what surrounds the panels, which keep `panels_height` inches: title, subtitle and legends above, notes (of
    runs with other outcomes than those shown, too) and footer below. The figure grows by what these need, so that they
    cover no data."""
    notes = (notes or []) + some("Failures", results.failures(shown))
    lines = [(12.5, "bold", "black", text) for text in textwrap.wrap(title_of(results), 84)]
    lines += [(10, "normal", GREY, text) for text in textwrap.wrap(subtitle, 115)]
    below = [(8.5, "normal", "black", text) for note in notes for text in textwrap.wrap(note, 140)]
    below += [(8, "normal", GREY, text) for text in textwrap.wrap(host_of(results), 140)]

    def height(text_lines):
        return sum(size * 1.45 / 72 for size, *_ in text_lines)

    fig.set_size_inches(WIDTH, 6)
    drawn = [(legend, *_legend(fig, legend)) for legend in legends if legend]
    top = 0.12 + height(lines) + sum(h for _, _, h in drawn) + 0.06
    bottom = height(below) + 0.14
    total = top + panels_height + bottom
    fig.set_size_inches(WIDTH, total)

    y = 0.1
    for size, weight, colour, text in lines:
        fig.text(0.012, 1 - y / total, text, fontsize=size, fontweight=weight, color=colour, va="top")
        y += size * 1.45 / 72
    for legend, columns, legend_height in drawn:
        by_rows = [handle for i in range(columns) for handle in legend[i::columns]]
        fig.legend(handles=by_rows, ncol=columns, loc="upper left", bbox_to_anchor=(0.005, 1 - y / total), **LEGEND)
        y += legend_height
    y = total - bottom + 0.06
    for size, weight, colour, text in below:
        fig.text(0.012, 1 - y / total, text, fontsize=size, fontweight=weight, color=colour, va="top")
        y += size * 1.45 / 72
    fig.set_layout_engine("constrained", rect=(0.006, bottom / total, 0.986, panels_height / total))
    return fig


LEGEND = {"handlelength": 2.6, "columnspacing": 1.6, "borderpad": 0.35, "borderaxespad": 0, "handletextpad": 0.6}


def _legend(fig: Figure, handles: list) -> tuple[int, float]:
    """As many columns as fit, and the height in inches."""
    for columns in range(len(handles), 0, -1):
        by_rows = [handle for i in range(columns) for handle in handles[i::columns]]
        legend = fig.legend(handles=by_rows, ncol=columns, **LEGEND)
        box = legend.get_window_extent(fig.canvas.get_renderer())
        legend.remove()
        if box.width / fig.dpi < WIDTH - 0.1 or columns == 1:
            return columns, box.height / fig.dpi


def some(what: str, notes: list[str], most: int = 6) -> list[str]:
    """All of a few notes, in one paragraph; of many, the first and how many more."""
    shown = notes if len(notes) <= most else notes[:most - 1] + [f"and {len(notes) - most + 1} more groups"]
    return [f"{what}: " + "; ".join(shown) + "."] if shown else []


def save(fig: Figure, folder: Path, name: str) -> list[Path]:
    """PNG and PDF; the same bytes for the same results."""
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    fig.savefig(paths[0], dpi=DPI, metadata={"Software": None})
    fig.savefig(paths[1], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    plt.close(fig)
    return paths
