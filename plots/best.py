# SPDX-License-Identifier: Apache-2.0
"""Picks the best trial of every strategy and number of workers from the results of a search."""

from __future__ import annotations

import argparse
import csv
import sys
import tomllib
from pathlib import Path

try:
    import results
except ModuleNotFoundError as error:
    sys.exit(f"{error}. It needs h5py, numpy and SciPy; on Debian: apt install python3-h5py python3-scipy")

EXAMPLES = """
examples:
  python3 plots/best.py search out/search
      the best trial of every strategy and number of workers, and which lie at the edge of their range

  python3 plots/best.py search out/search --write compare --csv results/search/trials.csv
      also harness/experiments/compare-1.toml, -2.toml, ... with these settings, and all trials as a table
"""
EXPERIMENTS = Path(__file__).resolve().parent.parent / "harness" / "experiments"


def flat(table: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    keys = {}
    for key, value in table.items():
        keys |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return keys


class Search:
    """What an experiment varies: for every strategy its own keys, with the common ones it does not set."""

    def __init__(self, file: Path):
        table = tomllib.loads(file.read_text())
        own = {name: flat(keys) for name, keys in table.pop("strategy").items()}
        common = {k: v for k, v in flat(table).items() if k.startswith("optimizer.")}
        self.title = table["title"]
        self.common = {k: v for k, v in flat(table).items() if k not in common and not isinstance(v, list)}
        self.keys = {name: common | keys for name, keys in own.items()}
        self.axes = {name: {k: v for k, v in keys.items() if isinstance(v, list)} for name, keys in self.keys.items()}

    def values(self, run: results.Run) -> dict:
        """The run's place on every axis of its strategy."""
        return {key: run.config[key if key.startswith("optimizer.") else f"strategy.{key}"]
                for key in self.axes[run.strategy]}

    def edges(self, run: results.Run) -> list[str]:
        """Axes of at least three numbers on which the run has the first or the last one."""
        return [key for key, value in self.values(run).items()
                if len(axis := self.axes[run.strategy][key]) > 2 and value in (min(axis), max(axis))]

    def settings(self, run: results.Run) -> dict:
        return self.keys[run.strategy] | self.values(run)


def best(runs: list[results.Run]) -> dict[tuple[str, int], results.Run]:
    found = {}
    for run in runs:
        at = run.strategy, run.workers
        if run.ok and (at not in found or run.reached_accuracy > found[at].reached_accuracy):
            found[at] = run
    return found


def toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{float(value):g}" if isinstance(value, float) else str(value)


def experiment(search: Search, name: str, workers: int, trials: int, chosen: list[results.Run]) -> str:
    common = {k: v for k, v in search.common.items() if k not in ("title", "seed", "snapshots")}
    lines = [f"# The best of {trials} trials in all (`dsgd sweep {name}`), written by plots/best.py.",
             f'title = "All strategies at their best settings for {results.count(workers, "worker")}"',
             *(f"{k} = {toml(v)}" for k, v in common.items()),
             f"workers = {workers}", "seed = [1, 2, 3, 4, 5]", "snapshots = 10"]
    for run in chosen:
        lines += ["", f"[strategy.{run.strategy}]"]
        lines += [f"{k} = {toml(v)}" for k, v in sorted(search.settings(run).items())]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="best.py", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="the search: a TOML file, or the name of a shipped experiment")
    parser.add_argument("folder", metavar="RESULTS_DIR", type=Path, help="its results")
    parser.add_argument("--write", metavar="NAME", help="write experiments NAME-P.toml, P workers, with the best settings")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=EXPERIMENTS,
                        help="where to (default: the shipped ones)")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write all trials")
    options = parser.parse_args(arguments)
    file = Path(options.experiment)
    file = file if file.suffix == ".toml" else EXPERIMENTS / f"{options.experiment}.toml"
    try:
        search = Search(file)
        found = results.load(options.folder)
        for problem in found.problems:
            print(f"left out: {problem}", file=sys.stderr)
        runs = sorted((r for r in found.runs if r.strategy in search.axes),
                      key=lambda r: (list(search.axes).index(r.strategy), r.workers, list(map(str, search.values(r).values()))))
        chosen = best(runs)
        report(search, runs, chosen)
        if options.csv:
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            with open(options.csv, "w", newline="") as out:
                write_trials(search, runs, csv.writer(out, lineterminator="\n"))
        if options.write:
            for workers in sorted({w for _, w in chosen}):
                path = options.output / f"{options.write}-{workers}.toml"
                trials = sum(run.workers == workers for run in runs)
                winners = [run for run in chosen.values() if run.workers == workers]
                path.write_text(experiment(search, file.stem, workers, trials, winners))
                print(path)
    except (results.ResultError, OSError, KeyError, tomllib.TOMLDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    missing = [f"{s} with {results.count(w, 'worker')}" for s, w in sorted({(r.strategy, r.workers) for r in runs} - set(chosen))]
    if missing:
        print("no trial ended as ok: " + ", ".join(missing), file=sys.stderr)
    return 1 if missing or not runs else 0


def report(search: Search, runs: list[results.Run], chosen: dict) -> None:
    print(f"{'strategy':<16} {'workers':>7} {'trials':>6} {'ok':>4} {'test accuracy %':>15}  best (* at the edge of its range)")
    for (strategy, workers), run in chosen.items():
        trials = [r for r in runs if (r.strategy, r.workers) == (strategy, workers)]
        edges = search.edges(run)
        values = ", ".join(f"{k} = {toml(v)}{'*' if k in edges else ''}" for k, v in search.values(run).items())
        print(f"{strategy:<16} {workers:>7} {len(trials):>6} {sum(r.ok for r in trials):>4} "
              f"{100 * run.reached_accuracy:>15.2f}  {values}")


def write_trials(search: Search, runs: list[results.Run], out) -> None:
    out.writerow(["strategy", "workers", "seed", "settings", "outcome", "test_accuracy", "seconds"])
    for run in runs:
        settings = " ".join(f"{k}={toml(v)}" for k, v in search.values(run).items())
        accuracy = "" if run.reached_accuracy is None else f"{run.reached_accuracy:.4f}"
        out.writerow([run.strategy, run.workers, run.seed, settings, run.outcome, accuracy, f"{run.result.get('seconds', 0):.6g}"])


if __name__ == "__main__":
    sys.exit(main())
