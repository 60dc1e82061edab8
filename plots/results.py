# SPDX-License-Identifier: Apache-2.0
"""The runs of a folder: variants, groups over seeds, bases, labels. results/README.md defines every number here."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path
from typing import Callable, Iterable, NamedTuple

from result_file import OUTCOMES, STRAGGLER, ResultError, Run, Variant, read


class Estimate(NamedTuple):
    """A mean over seeds with the half width of its 95 % confidence interval; None for a single seed."""

    mean: float
    half: float | None
    n: int

    @property
    def error(self) -> float:
        """The half width as error bars want it: NaN draws none."""
        return math.nan if self.half is None else self.half


@cache
def student_t(freedom: int) -> float:
    """t(0.975, freedom)."""
    from scipy.stats import t  # takes a second, and files are read on machines without it

    return float(t.ppf(0.975, freedom))


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and interval of the values that exist; None where none does."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    n = len(known)
    half = student_t(n - 1) * statistics.stdev(known) / math.sqrt(n) if n > 1 else None
    return Estimate(statistics.fmean(known), half, n)


@dataclass(frozen=True, eq=False)
class Group:
    """The runs that differ in nothing but the seed."""

    variant: Variant
    workers: int
    runs: tuple[Run, ...]

    @property
    def ok(self) -> bool:
        """Whether all are. A mean of those alone that came through would flatter."""
        return all(run.ok for run in self.runs)

    def estimate(self, number: Callable[[Run], float | None]) -> Estimate | None:
        """Over all seeds; none where one of them has not the number."""
        values = [number(run) for run in self.runs]
        return None if None in values else estimate(values)

    def having(self, number: Callable[[Run], float | None]) -> int:
        return sum(number(run) is not None for run in self.runs)

    def missing(self, number: Callable[[Run], float | None]) -> str:
        return f"{self.having(number)} of {count(len(self.runs), 'run')}"


Gain = Callable[[Run, Run], float | None]  # of a run over its base


@dataclass(frozen=True)
class Scaling:
    """Which run with 1 worker is the base of a speed-up."""

    name: str
    base: str

    def line(self, run: Run) -> Variant:
        """Equal for a run and its base."""
        if self is WEAK:
            return run.variant
        settings = dict(run.variant.settings)
        del settings["minibatch"]
        settings["workers × minibatch"] = run.workers * run.config["minibatch"]
        return Variant(run.strategy, tuple(sorted(settings.items())))


WEAK = Scaling("weak", "the same minibatch per worker")
STRONG = Scaling("strong", "the same global minibatch")


@dataclass(frozen=True, eq=False)
class Results:
    """All runs of a folder, in the order in which figures show them."""

    folder: Path
    runs: list[Run]
    problems: list[str] = field(default_factory=list)  # files that were left out, and why
    unfinished: int = 0

    @cached_property
    def variants(self) -> list[Variant]:
        return in_order({run.variant for run in self.runs})

    @cached_property
    def workers(self) -> list[int]:
        return sorted({run.workers for run in self.runs})

    @cached_property
    def groups(self) -> list[Group]:
        found: dict[tuple[Variant, int], list[Run]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            found.setdefault((run.variant, run.workers), []).append(run)
        return [Group(v, p, tuple(found[v, p])) for v in self.variants for p in self.workers if (v, p) in found]

    @cached_property
    def labels(self) -> dict[Variant, str]:
        return labels(self.variants, {v: {run.title for run in self.runs if run.variant == v} for v in self.variants})

    @property
    def targets(self) -> list[float]:
        return sorted({run.target for run in self.runs if run.target is not None})

    def identities(self) -> dict[str, Counter]:
        """How many runs have which commit, build, engine and class of host."""
        found = {what: Counter() for what in ("commit", "build", "engine", "host")}
        for run in self.runs:
            for what, value in run.identity.items():
                found[what][value] += 1
        return found

    def failures(self, shown: tuple[str, ...] = ("ok",)) -> list[str]:
        """One sentence for each group with runs whose outcomes are not among those shown."""
        sentences = []
        for group in self.groups:
            counts = Counter(run.outcome for run in group.runs if run.outcome not in shown)
            if counts:
                words = ", ".join(f"{n} {OUTCOMES.get(outcome, outcome)}" for outcome, n in sorted(counts.items()))
                of, (first, _, rest) = len(group.runs), words.partition(" ")
                sentences.append(f"{self.labels[group.variant]}, {count(group.workers, 'worker')}: "
                                 f"{first} of {count(of, 'run')} {rest}")
        if self.unfinished:
            sentences.append(f"{count(self.unfinished, 'run')} not finished (.part)")
        return sentences

    def speedups(self, scaling: Scaling, gain: Gain) -> dict[Variant, dict[int, Estimate]]:
        """Mean over seeds of gain(run, base), by line and number of workers; only lines that leave 1 worker."""
        runs = [run for run in self.runs if scaling is WEAK or "minibatch" in run.config]
        bases = {(scaling.line(run), run.seed): run for run in runs if run.workers == 1}
        found: dict[Variant, dict[int, list[float | None]]] = {}
        for run in sorted(runs, key=lambda run: run.workers):
            base = bases.get((scaling.line(run), run.seed))
            if base and (scaling is STRONG or base.config.get("minibatch") == run.config.get("minibatch")):
                found.setdefault(scaling.line(run), {}).setdefault(run.workers, []).append(gain(run, base))
        # Where a seed failed or missed the target, the mean of the others would flatter.
        means = {line: {p: estimate(values) for p, values in found[line].items() if None not in values}
                 for line in in_order(found)}
        return {line: by_workers for line, by_workers in means.items() if max(by_workers, default=1) > 1}


def throughput_gain(run: Run, base: Run) -> float | None:
    return run.throughput / base.throughput if run.throughput and base.throughput else None


def time_to_target_gain(run: Run, base: Run) -> float | None:
    return base.time_to_target / run.time_to_target if run.time_to_target and base.time_to_target else None


STRATEGIES = ("sync", "averaging", "downpour", "staleness_aware", "bmuf")  # these first, others by name


def in_order(variants: Iterable[Variant]) -> list[Variant]:
    def place(variant: Variant):
        known = variant.strategy in STRATEGIES
        settings = [(k, isinstance(v, str), v) for k, v in sorted(variant.settings, key=lambda kv: kv[0] in STRAGGLER)]
        return not known, STRATEGIES.index(variant.strategy) if known else 0, variant.strategy, settings

    return sorted(variants, key=place)


PROGRAM = ("commit", "build", "host")  # marks of told_apart


def labels(variants: list[Variant], titles: dict[Variant, set[str]] | None = None) -> dict[Variant, str]:
    """Names for people: the strategy, whether its time is virtual, and those of its settings that differ among the
    variants of that kind, or of which one experiment (by `titles`) has none of another's."""
    values: dict[tuple, set] = {}
    sizes, seen = Counter(), Counter()
    experiments: dict[str, dict[str, set]] = {}

    def kind(variant: Variant, key: str) -> tuple:
        """The variants among which a setting may differ: of a strategy and engine (a cluster's: and cluster)."""
        settings = dict(variant.settings)
        own = key.startswith("cluster.") and key != "cluster.name"
        return variant.strategy, settings.get("engine"), settings.get("cluster.name") if own else None

    def program(variant: Variant) -> tuple:
        """Of whose results it means something that some lack a setting."""
        return tuple(dict(variant.settings).get(mark) for mark in PROGRAM)

    for variant in variants:
        for group in {kind(variant, ""), kind(variant, "cluster.")}:
            sizes[group, program(variant)] += 1
        for title in (titles or {}).get(variant, ()):
            for key, value in variant.settings:
                experiments.setdefault(title, {}).setdefault(key, set()).add(value)
        for key, value in variant.settings:
            values.setdefault((kind(variant, key), key), set()).add(value)
            seen[kind(variant, key), program(variant), key] += 1

    def swept(variant: Variant, key: str) -> bool:
        group, of = kind(variant, key), program(variant)
        absent = seen[group, of, key] < sizes[group, of] and key not in STRAGGLER
        return len(values[group, key]) > 1 or absent or tells_experiments(key)

    def tells_experiments(key: str) -> bool:
        own = key == "engine" or key.startswith("strategy.") or key.startswith("cluster.") and key != "cluster.name"
        return not own and any(a.isdisjoint(b) for a, b in combinations(
            [keys[key] for keys in experiments.values() if key in keys], 2))

    def name(variant: Variant) -> str:
        return variant.strategy + (" (simulated)" if dict(variant.settings).get("engine") == "simulated" else "")

    def shown(value) -> str:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return text.lower() if isinstance(value, bool) else text

    def said(key: str, value) -> str:
        return f"{short(key)} {shown(value)[:12] if key.endswith('_sha256') else shown(value)}"

    def short(key: str) -> str:
        return key.removeprefix("strategy.").removeprefix("optimizer.").removesuffix(".name")

    return {v: ", ".join([name(v)] + [said(key, value) for key, value in v.settings if swept(v, key)])
            for v in variants}


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def load(folder: Path, target: float | None = None, allow_mixed: bool = False) -> Results:
    """Reads every NAME.h5 in the folder; damaged files are left out and reported. Raises ResultError where no file can
    be read or the runs do not compare."""
    files = sorted(folder.glob("*.h5"))
    loaded, problems = [], []
    for path in files:
        try:
            loaded.append(read(path, target))
        except ResultError as error:
            problems.append(str(error))
    loaded = told_apart(loaded)
    parts = [path for path in folder.glob("*.h5.part") if not path.with_suffix("").exists()]
    problems += [f"{path.name}: not finished" for path in sorted(parts)]
    results = Results(folder, loaded, problems, len(parts))
    if not loaded:
        inside = sorted({path.parent.name for path in folder.glob("*/*.h5")})
        hint = f"\nThere are some in {', '.join(str(folder / name) for name in inside)}." if inside else ""
        raise ResultError("\n".join([f"{folder}: no result file (.h5) that can be read.{hint}", *problems]))
    mixed = {what: counts for what, counts in results.identities().items() if len(counts) > 1 and what != "engine"}
    if mixed and not allow_mixed:
        lines = [f"  {what}: " + ", ".join(f"{value} ({count(n, 'run')})" for value, n in counts.most_common())
                 for what, counts in mixed.items()]
        raise ResultError(f"{folder}: these runs do not compare, as they differ in\n" + "\n".join(lines)
                          + "\nPut them into folders of their own, or pass --allow-mixed.")
    runs: dict[tuple, Run] = {}
    for run in loaded:
        if (twin := runs.setdefault((run.variant, run.workers, run.seed), run)) is not run:
            raise ResultError(f"{folder}: {twin.path.name} and {run.path.name} are the same settings and seed twice; "
                              "keep one of them here")
    return results


def told_apart(runs: list[Run]) -> list[Run]:
    """Runs with a mark of what must not be averaged over, where they differ in it: program, host and target."""
    if not runs:
        return runs
    marks = [{**{what: run.identity.get(what, "unknown") for what in ("commit", "build", "host")}, "target": run.target or 0.0}
             for run in runs]
    differ = [what for what in marks[0] if len({mark[what] for mark in marks}) > 1]
    return [replace(run, apart=tuple((what, mark[what]) for what in differ)) for run, mark in zip(runs, marks)]
