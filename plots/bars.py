# SPDX-License-Identifier: Apache-2.0
"""Horizontal bars, one row per strategy and number of workers."""

from __future__ import annotations

from itertools import groupby

from results import Group, Results, count


class Rows:
    """Where the bars of each group are, and their names: beside the bars, or as a heading above them where long."""

    def __init__(self, groups: list[Group], results: Results):
        blocks = [(results.labels[variant], list(block)) for variant, block in groupby(groups, lambda g: g.variant)]
        self.headed = max(len(label) for label, _ in blocks) > 20
        self.y: list[float] = []
        self.names: list[str] = []
        self.headings: list[tuple[float, str]] = []
        top = 0.0
        for label, block in blocks:
            if self.headed:
                self.headings.append((top - 0.5, label))
                top -= 0.9
            for i, group in enumerate(block):
                self.y.append(top - 0.5)
                name = f"{label},  " if i == 0 and not self.headed else ""
                self.names.append(name + count(group.workers, "worker"))
                top -= 1
            top -= 0.35
        self.bottom = top
        self.height = 0.65 - 0.26 * top  # inches, with the axis below

    def label(self, *panels) -> None:
        for panel in panels:
            panel.set_yticks(self.y, self.names)
            panel.set_ylim(self.bottom, 0.1)
            panel.tick_params(axis="y", length=0)
            panel.grid(axis="y", visible=False)
            panel.spines["left"].set_visible(False)
        for y, text in self.headings:
            panels[0].annotate(text, (0, y), xycoords=("axes fraction", "data"), va="center", fontweight="bold",
                               fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
