# SPDX-License-Identifier: Apache-2.0
"""Tests of plots/, on invented result files; with RESULTS_DIR, on the real ones in it as well.

    python3 tests/runs/plots_test.py [RESULTS_DIR]
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import importlib
import io
import itertools
import math
import os
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plots"))
import best  # noqa: E402
import convergence  # noqa: E402
import families  # noqa: E402
import jitter  # noqa: E402
import periods  # noqa: E402
import result_file  # noqa: E402
import results  # noqa: E402
import scaling  # noqa: E402
import softsync  # noqa: E402
import speedup  # noqa: E402
import staleness  # noqa: E402
import straggler  # noqa: E402
import style  # noqa: E402
import time_breakdown  # noqa: E402
import traffic  # noqa: E402

all_figures = importlib.import_module("all")

STRATEGIES = ("sync", "averaging", "downpour", "staleness_aware", "bmuf")
FIGURES = ("convergence", "speedup", "staleness", "time_breakdown", "traffic")
PROVENANCE = {"commit": "4f1c09d2ab7e55", "dirty": "false", "compiler": "GNU 12.2.0", "build_type": "Release",
              "flags": "-O3 -ffp-contract=off", "mpi": "Open MPI 4.1.4", "cpu": "Intel(R) Xeon(R) CPU @ 2.70GHz",
              "cores": 2, "ranks": 2, "host": "node-1"}
DTYPES = {
    "steps": [("rank", "i4"), ("step", "i8"), ("samples", "i4"), ("used", "i8"), ("seconds", "f8"), ("loss", "f4"),
              ("compute_s", "f4"), ("communication_s", "f4")],
    "snapshots": [("used", "i8"), ("seconds", "f8"), ("version_min", "i8"), ("version_max", "i8"), ("test_loss", "f8"),
                  ("test_correct", "i8"), ("test_count", "i8")],
    "ranks": [("rank", "i4"), ("server", "u1"), ("steps", "i8"), ("samples", "i8"), ("total_s", "f8"),
              ("compute_s", "f8"), ("communication_s", "f8"), ("wait_s", "f8"), ("snapshot_s", "f8"),
              ("bytes_sent", "i8"), ("bytes_received", "i8"), ("messages", "i8"), ("synchronisations", "i8")],
    "staleness": [("shard", "i4"), ("tau", "i8"), ("count", "i8")],
}


def write_run(folder: Path, strategy="sync", workers=1, seed=1, *, name=None, outcome="ok",
              title="LeNet on Fashion-MNIST", engine="mpi", config=None, provenance=None, without=(),
              samples=180000, snapshots=12, target=0.86, tables=None) -> Path:
    """One result file as the harness writes it, with numbers like those of a real run. `without` names groups to leave
    out, `tables` replaces tables by lists of rows."""
    random = np.random.default_rng([seed, workers, STRATEGIES.index(strategy) if strategy in STRATEGIES else 9])
    server = strategy in ("downpour", "staleness_aware")
    minibatch = (config or {}).get("minibatch", 64)
    settings = {"strategy": strategy, "workers": workers, "seed": seed, "minibatch": minibatch, "samples": samples,
                "model": "lenet", "dataset": "fashion-mnist", "optimizer.learning_rate": 0.05, "target": target,
                "text": "model = \"lenet\"\n"}
    settings |= {"averaging": {"strategy.tau": 10}, "downpour": {"strategy.n_push": 1, "strategy.overlap": True},
                 "bmuf": {"strategy.block": 20, "strategy.eta": -1.0}}.get(strategy, {})
    settings |= config or {}

    efficiency = {"averaging": 0.97, "downpour": 0.8, "staleness_aware": 0.84, "bmuf": 0.96}
    rate = 7800 * (1 + (workers - 1) * efficiency.get(strategy, 0.9)) * random.normal(1, 0.012)
    if server:
        rate *= 0.93
    seconds = samples / rate
    used = np.linspace(0, samples, snapshots + 1).astype(int) if snapshots else np.zeros(0, int)
    if server and workers > 1 and len(used):
        used[1:-1] += random.integers(0, minibatch * workers, len(used) - 2)
    lost = {"downpour": 0.012, "staleness_aware": 0.006, "bmuf": 0.002}
    top = 0.895 - 0.004 * (workers - 1) - lost.get(strategy, 0)
    slow = {"averaging": 1.25, "downpour": 1.5, "bmuf": 1.1}.get(strategy, 1) if workers > 1 else 1
    noise = random.normal(0, 0.0025, len(used)) * (used > 0)
    accuracy = top - (top - 0.1) / (1 + (used / (1600 * slow)) ** 0.9) + noise
    steps = np.arange(0, samples // (workers * minibatch), 25)

    parameters = 431080
    exchanges = samples / minibatch / workers / {"averaging": 10, "bmuf": 20}.get(strategy, 1)
    sent = 4 * parameters * exchanges * (1 if server else 2 * (workers - 1) / workers)
    wait = {True: 0.09, False: 0.04}[server] * seconds * (workers > 1) * random.uniform(0.8, 1.2)
    communication = (0.08 if server else 0.06 * (workers > 1) * (1 if strategy == "sync" else 0.2)) * seconds
    ranks = [(r, 0, samples // minibatch // workers, samples // workers, seconds,
              seconds * 0.99 - wait - communication - 0.008 * seconds, communication, wait, 0.008 * seconds,
              int(sent), int(sent), int(exchanges), 0 if server else int(exchanges)) for r in range(workers)]
    ranks += [(workers, 1, 0, 0, seconds, 0, 0.1 * seconds, 0, 0, int(sent * workers), int(sent * workers),
               int(exchanges * workers), 0)] * server
    taus = np.bincount(np.minimum(random.poisson(workers - 1, 4000), 3 * workers)) if workers > 1 else np.array([2800])

    data = {
        "steps": [(0, s, minibatch, s * minibatch * workers, seconds * (i + 1) / len(steps),
                   2.3 * math.exp(-s / 300) + 0.3, 0.008, 0.001) for i, s in enumerate(steps)],
        "snapshots": [(u, seconds * u / max(samples, 1), u // minibatch, u // minibatch, 1 - a, round(1e4 * a), 10000)
                      for u, a in zip(used, accuracy)],
        "ranks": ranks,
        "staleness": [(0, tau, n) for tau, n in enumerate(taus)] if server else None,
    } | (tables or {})
    identity = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
    path = folder / (name or f"{strategy}-{workers}w-seed{seed}-{identity}.h5")
    with h5py.File(path, "w", userblock_size=512) as file:
        file.attrs.update({"schema": 1, "name": path.stem, "id": "0" * 12, "title": title, "outcome": outcome,
                           "outcome_detail": "", "engine": engine})
        for group, values in {
            "config": settings, "provenance": PROVENANCE | (provenance or {}),
            "effective": {"global_minibatch": float(minibatch * workers), "period": 1.0},
            "result": {"seconds": seconds, "setup_s": 1.0, "scoring_s": 1.0, "samples": samples,
                       "updates": int(exchanges), "synchronisations": int(exchanges), "first_loss": 2.3,
                       "last_loss": 0.31, "weights_sha256": "0" * 64}}.items():
            if group not in without:
                for key, value in values.items():
                    value = np.uint8(value) if isinstance(value, bool) else value
                    file.require_group(group).attrs[key] = value
        for table, rows in data.items():
            if table not in without and rows is not None:
                file.create_dataset(table, data=np.array(rows, DTYPES[table]), maxshape=(None,), chunks=(1024,))
    seal(path)
    return path


def seal(path: Path) -> None:
    content = path.read_bytes()[result_file.LINE:]
    path.write_bytes(result_file.first_line(content) + content)


@contextlib.contextmanager
def changed(path: Path):
    """The file, to be changed and sealed again."""
    with h5py.File(path, "a") as file:
        yield file
    seal(path)


def write_sweep(folder: Path, strategies=STRATEGIES, workers=(1, 2), seeds=(1, 2, 3), **more) -> None:
    for seed in seeds:
        for strategy in strategies:
            for p in workers:
                write_run(folder, strategy, p, seed, title="LeNet on Fashion-MNIST: five strategies, 3 epochs", **more)


def straggler_of(slowdown: float, engine: str) -> dict:
    """The keys that the harness writes for one straggler."""
    keys = {"cluster.jitter": 0.0, "cluster.straggler.share": 1.0, "cluster.straggler.slowdown": slowdown, "cluster.straggler.workers": 1}
    return keys if engine == "simulated" or slowdown > 1 else {}


class Folder(unittest.TestCase):
    """Each test has a folder of its own."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        style.setup()

    def draw(self, *arguments) -> tuple[int, str, str]:
        """Exit code, output and error output of plots/all.py."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = all_figures.main([str(argument) for argument in arguments])
            except SystemExit as end:
                code = end.code
        return code, out.getvalue(), err.getvalue()


    def assert_tidy(self, figure, name: str):
        """Nothing covers a panel or leaves the figure."""
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        around = [artist.get_window_extent(renderer) for artist in (*figure.texts, *figure.legends)]
        panels = [panel.get_tightbbox(renderer) for panel in figure.axes if panel.get_visible()]
        for box in around + panels:
            self.assertTrue(-1 <= box.x0 and -1 <= box.y0 and box.x1 <= figure.bbox.width + 1
                            and box.y1 <= figure.bbox.height + 1, f"{name}: {box}")
        for panel in panels:
            self.assertFalse([box for box in around if box.overlaps(panel)], name)
        titles = [panel._left_title.get_window_extent(renderer) for panel in figure.axes if panel.get_title("left")]
        self.assertFalse([a for a, b in itertools.combinations(titles, 2) if a.overlaps(b)], name)
        style.plt.close(figure)


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


class Statistics(unittest.TestCase):
    def test_interval(self):
        # Mean 2, s = 1, n = 3: 4.3027 / sqrt(3).
        mean, half, n = results.estimate([1.0, None, 2.0, 3.0])
        self.assertEqual((mean, n), (2.0, 3))
        self.assertAlmostEqual(half, 2.48414, 4)
        self.assertEqual(results.estimate([5.0]), (5.0, None, 1))
        self.assertIsNone(results.estimate([None]))

    def test_numbers_are_written_with_three_digits(self):
        for value, text in ((0, "0"), (0.04267, "0.0427"), (2.694, "2.69"), (23.0, "23.0"), (2425.1, "2425")):
            self.assertEqual(style.number(value), text)
        self.assertEqual(style.with_interval(results.Estimate(23.012, 0.183, 3)), "23.01 ± 0.18")
        self.assertEqual(style.with_interval(results.Estimate(1234.5, 67.8, 3)), "1234 ± 68")
        self.assertEqual(style.with_interval(results.Estimate(1.5, None, 1)), "1.50")


class Derived(Folder):
    """The definitions of results/README.md, on numbers that can be followed by hand."""

    tables = {
        "snapshots": [(0, 0.0, 0, 0, 2.3, 10, 100), (500, 2.0, 5, 5, 0.5, 79, 100), (1000, 4.5, 9, 10, 0.4, 80, 100),
                      (1500, 6.0, 15, 15, 0.5, 78, 100), (2000, 8.0, 20, 20, 0.3, 85, 100)],
        "ranks": [(0, 0, 10, 1000, 8.0, 4.0, 1.0, 0.5, 0.25, 3_000_000, 0, 10, 0),
                  (1, 0, 10, 1000, 8.0, 5.0, 1.0, 0.5, 0.75, 5_000_000, 0, 10, 0),
                  (2, 1, 0, 0, 8.0, 0.0, 7.0, 0.0, 0.0, 90_000_000, 0, 20, 0)],
        "staleness": [(0, 0, 6), (0, 2, 2), (1, 0, 4), (1, 3, 4)],
    }

    def run_of(self, **more) -> results.Run:
        return results.read(write_run(self.folder, "downpour", 2, samples=2000, tables=self.tables, **more))

    def test_accuracy(self):
        run = self.run_of()
        self.assertEqual(list(run.accuracy), [0.10, 0.79, 0.80, 0.78, 0.85])
        self.assertEqual(run.reached_accuracy, 0.85)

    def test_time_to_target_is_that_of_the_first_snapshot_at_least_there(self):
        self.assertEqual(self.run_of(target=0.80).time_to_target, 4.5)
        self.assertEqual(self.run_of(target=0.81).time_to_target, 8.0)
        self.assertIsNone(self.run_of(target=0.86).time_to_target)
        self.assertIsNone(self.run_of(target=0.0).time_to_target, "no target was set")
        self.assertEqual(results.read(write_run(self.folder, tables=self.tables, target=0.99), 0.5).time_to_target, 2.0)

    def test_throughput(self):
        run = self.run_of()
        self.assertAlmostEqual(run.throughput, 2000 / run.result["seconds"])

    def test_staleness(self):
        self.assertEqual(self.run_of().mean_staleness, (2 * 2 + 3 * 4) / 16)
        self.assertIsNone(results.read(write_run(self.folder, "sync", 2)).mean_staleness)

    def test_traffic(self):
        run = self.run_of()
        self.assertEqual(run.megabytes_sent, 4.0)
        self.assertEqual(run.megabytes_per_1000_samples(server=False), 4.0)
        self.assertEqual(run.megabytes_per_1000_samples(server=True), 45.0)
        self.assertEqual(run.megabytes_per_1000_samples(), 49.0)

    def test_phases_are_means_over_workers_and_add_up(self):
        run = self.run_of()
        self.assertEqual({phase: run.phase(phase) for phase in result_file.PHASES},
                         {"compute": 4.5, "compression": 0.0, "communication": 1.0, "wait": 0.5, "snapshot": 0.5, "other": 1.5})

    def test_only_ok_runs_have_throughput_and_time(self):
        for outcome in ("unlearned", "diverged", "timeout", "error", "running"):
            run = self.run_of(outcome=outcome, target=0.8)
            self.assertEqual(run.throughput is None, outcome != "unlearned", outcome)  # it computes as fast as others
            self.assertIsNone(run.time_to_target, outcome)
            self.assertEqual(run.reached_accuracy, 0.85, outcome)
            self.assertEqual(run.ended, outcome in ("unlearned", "diverged"), outcome)

    def test_types_of_the_configuration(self):
        config = self.run_of().config
        self.assertIs(config["strategy.overlap"], True)
        self.assertIs(type(config["workers"]), int)
        self.assertIs(type(config["optimizer.learning_rate"]), float)
        self.assertIs(type(config["model"]), str)

    def test_steps_are_there_on_demand(self):
        steps = self.run_of().steps
        self.assertEqual(steps.dtype.names, result_file.TABLES["steps"])
        self.assertEqual(steps["step"][0], 0)

    def test_shares_of_staleness(self):
        write_run(self.folder, "downpour", 2, 1, tables={"staleness": [(0, 0, 1), (0, 1, 3)]})
        write_run(self.folder, "downpour", 2, 2, tables={"staleness": [(0, 1, 5), (1, 3, 5)]})
        group, = results.load(self.folder).groups
        self.assertEqual(list(staleness.shares(group.runs)), [0.125, 0.625, 0, 0.25])


class Curves(Folder):
    def curve(self, *snapshots):
        for seed, rows in enumerate(snapshots):
            write_run(self.folder, seed=seed, tables={"snapshots": [(u, s, 0, 0, 0, a, 100) for u, s, a in rows]})
        return convergence.curve(results.load(self.folder).runs)

    def test_mean_over_equal_sample_counts(self):
        used, seconds, mean, half = self.curve([(0, 0, 10), (100, 2, 50)], [(0, 0, 20), (100, 4, 60)],
                                               [(0, 0, 30), (100, 6, 70)])
        self.assertEqual((list(used), list(seconds)), ([0, 100], [0, 4]))
        np.testing.assert_allclose(mean, [0.2, 0.6])
        np.testing.assert_allclose(half, 0.248414, rtol=1e-4)

    def test_one_seed_is_itself(self):
        used, seconds, mean, half = self.curve([(0, 0, 10), (100, 2, 50), (200, 5, 60)])
        self.assertEqual((list(used), list(seconds), list(mean)), ([0, 100, 200], [0, 2, 5], [0.1, 0.5, 0.6]))
        self.assertTrue(np.isnan(half).all())

    def test_runs_copied_at_other_counts_are_interpolated(self):
        used, seconds, mean, _ = self.curve([(0, 0, 0), (100, 2, 40), (200, 4, 60)],
                                            [(0, 0, 0), (50, 1, 20), (150, 3, 60), (200, 4, 80)])
        self.assertEqual((list(used), list(seconds)), ([0, 100, 200], [0, 2, 4]))
        np.testing.assert_allclose(mean, [0, 0.4, 0.7])

    def test_of_two_snapshots_at_one_count_the_last_counts(self):
        used, seconds, mean, _ = self.curve([(0, 0, 10), (100, 2, 40), (100, 3, 50)])
        self.assertEqual((list(used), list(seconds), list(mean)), ([0, 100], [0, 3], [0.1, 0.5]))


class Loading(Folder):
    def names(self, found: results.Results) -> list[str]:
        return [run.path.name for run in found.runs]

    def test_groups_and_labels(self):
        for tau in (10, 5, 100):
            write_sweep(self.folder, ("averaging",), (1, 2), (1, 2), config={"strategy.tau": tau})
        write_sweep(self.folder, ("bmuf", "sync", "aaa"), (2,), (1, 2))
        found = results.load(self.folder)
        self.assertEqual([(found.labels[g.variant], g.workers, len(g.runs)) for g in found.groups],
                         [("sync", 2, 2)] + [(f"averaging, tau {t}", p, 2) for t in (5, 10, 100) for p in (1, 2)]
                         + [("bmuf", 2, 2), ("aaa", 2, 2)])

    def test_labels_tell_close_settings_apart(self):
        for rate in (0.125, 0.12, 0.1234567):
            write_run(self.folder, config={"optimizer.learning_rate": rate})
        self.assertEqual(["sync, learning_rate 0.12", "sync, learning_rate 0.123457", "sync, learning_rate 0.125"],
                         [*results.load(self.folder).labels.values()])

    def test_experiments_are_told_apart_by_settings_that_they_do_not_share(self):
        for minibatch in (32, 64):
            write_run(self.folder, "sync", title="A", config={"minibatch": minibatch})
        for minibatch, label in ((64, "averaging"), (128, "averaging, minibatch 128")):
            path = write_run(self.folder, "averaging", title="B", config={"minibatch": minibatch})
            self.assertEqual(["sync, minibatch 32", "sync, minibatch 64", label], [*results.load(self.folder).labels.values()])
            path.unlink()

    def test_missing_groups(self):
        for i, without in enumerate((("snapshots",), ("ranks",), ("result",), ("effective",), ("steps", "staleness"))):
            write_run(self.folder, "downpour", 2, i, without=without)
        found = results.load(self.folder)
        self.assertEqual((len(found.runs), found.problems), (5, []))
        self.assertEqual([run.reached_accuracy is None for run in found.runs], [True, False, False, False, False])
        self.assertEqual([run.megabytes_sent is None for run in found.runs], [False, True, False, False, False])
        self.assertEqual([run.throughput is None for run in found.runs], [False, False, True, False, False])
        self.assertEqual([run.mean_staleness is None for run in found.runs], [False, False, False, False, True])
        for module in all_figures.FIGURES:
            if module is not speedup:  # they all have 2 workers
                style.plt.close(module.draw(found))

    def test_damaged_files_are_reported_and_left_out(self):
        good = write_run(self.folder)
        (self.folder / "junk.h5").write_bytes(b"not HDF5" * 100)
        (self.folder / "empty.h5").write_bytes(b"")
        (self.folder / "folder.h5").mkdir()
        os.mkfifo(self.folder / "pipe.h5")
        future = write_run(self.folder, name="future.h5").read_bytes()
        (self.folder / "future.h5").write_bytes(future.replace(b"schema 1", b"schema 2", 1))
        write_run(self.folder, name="lost.h5", without=("config",))
        with changed(write_run(self.folder, name="narrow.h5")) as file:
            rows = file["snapshots"][()][["used", "seconds"]]
            del file["snapshots"]
            file["snapshots"] = np.array(rows.tolist(), [("used", "i8"), ("seconds", "f8")])
        with changed(write_run(self.folder, name="odd.h5")) as file:
            del file["ranks"]
            file.create_group("ranks")
        found = results.load(self.folder)
        self.assertEqual(self.names(found), [good.name])
        told = "\n".join(found.problems)
        for words in ("junk.h5: damaged", "empty.h5: damaged", "folder.h5: expected a file", "pipe.h5: expected a file", "odd.h5: damaged",
                      'future.h5: damaged, or not a complete file of format "dsgd result, schema 1"', "lost.h5: /config has no strategy",
                      "narrow.h5: /snapshots has no version_min, version_max, test_loss, test_correct, test_count"):
            self.assertIn(words, told)

    def test_truncated_files_never_crash(self):
        path = write_run(self.folder)
        whole = path.read_bytes()
        for part in range(1, 16):
            path.write_bytes(whole[:len(whole) * part // 16])
            with self.assertRaisesRegex(results.ResultError, "damaged"):
                results.read(path)

    def test_every_wrong_bit_is_found(self):
        path = write_run(self.folder, "downpour", 2)
        whole = path.read_bytes()
        anywhere = np.random.default_rng(1).integers(0, 8 * len(whole), 400)
        for bit in [*anywhere, *range(8 * result_file.LINE)]:
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            with self.assertRaisesRegex(results.ResultError, "^downpour[ -~]*[.]h5: damaged[ -~]*$", msg=f"bit {bit}"):
                results.read(path)
        path.write_bytes(whole)
        self.assertTrue(results.read(path).ok)

    def test_unfinished_runs_are_counted(self):
        write_run(self.folder, seed=1)
        write_run(self.folder, seed=2, name="second.h5").rename(self.folder / "second.h5.part")
        write_run(self.folder, seed=3, name="third.h5")
        (self.folder / "third.h5.part").write_bytes(b"")  # of a run that has ended since
        found = results.load(self.folder)
        self.assertEqual((len(found.runs), found.unfinished, found.problems), (2, 1, ["second.h5.part: not finished"]))
        self.assertIn("1 run not finished (.part)", found.failures())

    def test_failures_in_words(self):
        for seed, outcome in enumerate(("ok", "ok", "diverged")):
            write_run(self.folder, seed=seed, outcome=outcome)
        for seed, outcome in enumerate(("timeout", "error", "running")):
            write_run(self.folder, "bmuf", 2, seed, outcome=outcome)
        self.assertEqual(results.load(self.folder).failures(),
                         ["sync, 1 worker: 1 of 3 runs diverged",
                          "bmuf, 2 workers: 1 of 3 runs failed, 1 did not finish, 1 timed out"])

    def test_a_repeated_run_is_refused(self):
        write_run(self.folder, name="a.h5", outcome="error")
        write_run(self.folder, name="b.h5", seed=2)
        self.assertEqual(self.names(results.load(self.folder)), ["a.h5", "b.h5"])
        write_run(self.folder, name="c.h5")
        with self.assertRaisesRegex(results.ResultError, "a.h5 and c.h5 are the same settings and seed twice; keep one"):
            results.load(self.folder, allow_mixed=True)

    def test_reporting_keys_do_not_split_groups(self):
        for seed, key in enumerate(sorted(result_file.NOT_A_SETTING - {"strategy", "workers", "seed", "text", "target"})):
            write_run(self.folder, seed=seed, config={key: f"/home/{seed}/platform.xml" if key == "cluster.platform" else f"{seed}"})
        self.assertEqual(len(results.load(self.folder).groups), 1)

    def test_runs_with_other_targets_are_not_averaged(self):
        write_run(self.folder, seed=1, target=0.8)
        write_run(self.folder, seed=2, target=0.9)
        self.assertEqual(["sync, target 0.8", "sync, target 0.9"], [*results.load(self.folder).labels.values()])
        self.assertEqual(["sync"], [*results.load(self.folder, target=0.7).labels.values()])

    def test_what_differs_between_experiments_is_named(self):
        for title, minibatch, strategies in (("One", 32, ("sync", "averaging")), ("Two", 64, ("downpour", "bmuf"))):
            for strategy, rate in zip(strategies, (0.1, 0.2)):  # each at its own, in both experiments
                write_run(self.folder, strategy, title=title, config={"optimizer.learning_rate": rate, "minibatch": minibatch})
            if title == "One":
                self.assertEqual(["sync", "averaging"], [*results.load(self.folder).labels.values()])
        self.assertEqual(["sync, minibatch 32", "averaging, minibatch 32", "downpour, minibatch 64", "bmuf, minibatch 64"],
                         [*results.load(self.folder).labels.values()])


class OldResults(Folder):
    """Result files of commit 28d1553. What must be read in them stands in a table beside them, which harness_test reads, too."""

    FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "28d1553"

    def setUp(self):
        super().setUp()
        for path in self.FIXTURES.glob("*.gz"):
            (self.folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))

    def test_are_read(self):
        with open(self.FIXTURES / "expected.tsv") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        self.assertEqual({row["file"] for row in rows}, {path.name for path in self.folder.iterdir()})
        for row in rows:
            if row["file"].endswith(".part"):  # of a run that has not ended
                continue
            with self.subTest(row["file"]):
                run = results.read(self.folder / row["file"])
                numbers = {"accuracy": run.reached_accuracy, "samples_per_second": run.throughput, "staleness": run.mean_staleness,
                           "megabytes": run.megabytes_sent}
                for name, value in numbers.items():
                    self.assertEqual(repr(value) if value is not None else "-", row[name], name)
                self.assertEqual([run.outcome, run.title, run.engine, str(run.workers), str(run.seed)],
                                 [row[name] for name in ("outcome", "title", "engine", "workers", "seed")])
                lengths = {"steps": run.steps, "snapshots": run.snapshots, "ranks": run.ranks, "staleness_rows": run.staleness}
                self.assertEqual({name: str(len(table)) for name, table in lengths.items()}, {name: row[name] for name in lengths})
                self.assertEqual(run.result.get("weights_sha256", "-")[:12], row["weights"])

    def test_are_drawn(self):
        code, out, err = self.draw(self.folder)
        self.assertEqual((code, err), (0, "left out: sync-2w-seed2-d26fa6384416.h5.part: not finished\n"))
        for name in ("convergence", "time_breakdown", "traffic"):
            self.assertIn(f"{name}.png", out)


class Survivors(Folder):
    """No mean is made of the seeds that came through."""

    def load(self, outcome, **more):
        for seed in (1, 2, 3):
            write_run(self.folder, "downpour", 2, seed, samples=20000, **{"outcome": outcome, **more} if seed == 3 else {})
        self.found = results.load(self.folder)
        return self.found.groups[0]

    def labels(self, module) -> list[str]:
        return [text.get_text() for panel in module.draw(self.found).axes for text in panel.texts]

    def test_numbers(self):
        group = self.load("ok")
        self.assertEqual((group.ok, group.estimate(lambda run: run.reached_accuracy).n), (True, 3))
        group = self.load("diverged")
        self.assertFalse(group.ok)
        self.assertIsNone(group.estimate(lambda run: run.throughput))
        self.assertIsNone(scaling.mean(group, lambda run: run.throughput))
        self.assertEqual(group.missing(lambda run: run.throughput), "2 of 3 runs")
        group = self.load("unlearned")
        self.assertEqual(group.estimate(lambda run: run.throughput).n, 3)
        self.assertIsNone(group.estimate(lambda run: run.time_to_target))
        self.assertEqual(self.found.failures(), ["downpour, 2 workers: 1 of 3 runs learned nothing"])

    def test_curves(self):
        for outcome, curves, bands in (("ok", 1, 1), ("unlearned", 3, 0), ("diverged", 3, 0)):
            self.load(outcome)
            panel = convergence.draw(self.found).axes[0]
            self.assertEqual(sum(len(line.get_xdata()) > 2 for line in panel.lines), curves, outcome)
            self.assertEqual(sum(bool(np.isfinite(band.get_paths()[0].vertices).all()) for band in panel.collections
                                 if band.get_paths()), bands, outcome)

    def test_bars(self):
        self.load("unlearned")
        self.assertRegex(self.labels(time_breakdown)[0], r"± .* s, \d+ %$")
        self.load("diverged")
        self.assertEqual(self.labels(time_breakdown), ["2 of 3 runs"])
        self.assertFalse([label for label in self.labels(traffic) if "of 3" in label])  # it sent what it sent
        self.assertRegex(self.labels(staleness)[0], "^mean ")
        self.load("error", without=("ranks", "staleness", "snapshots", "result"))
        self.assertEqual([self.labels(module) for module in (time_breakdown, traffic, staleness)],
                         [["2 of 3 runs"], ["2 of 3 runs"] * 2, ["2 of 3 runs"]])


class Mixing(Folder):
    def test_refused_unless_allowed(self):
        for change in ({"commit": "0ther"}, {"dirty": "true"}, {"compiler": "Clang 16.0.0"}, {"flags": "-O0"},
                       {"build_type": "Debug"}, {"cpu": "i486"}, {"cores": 64}):
            with self.subTest(**change), tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_run(folder, seed=1)
                write_run(folder, seed=2)
                write_run(folder, seed=3, provenance=change)
                with self.assertRaises(results.ResultError) as error:
                    results.load(folder)
                changed = "with changes" if "dirty" in change else str(*change.values())
                for words in (changed, "(2 runs)", "(1 run)", "--allow-mixed"):
                    self.assertIn(words, str(error.exception))
                mixed = results.load(folder, allow_mixed=True)
                self.assertEqual(sorted(len(group.runs) for group in mixed.groups), [1, 2])  # never a mean of both
                (what,) = {"commit", "build", "host"} & {mark for mark, _ in mixed.runs[0].apart}
                self.assertTrue(all(f"sync, {what} " in label for label in mixed.labels.values()), mixed.labels)

    def test_settings_that_came_later_are_no_difference(self):
        write_run(self.folder, seed=1)
        write_run(self.folder, seed=1, provenance={"commit": "0ther"}, config={"new": 1.0})
        write_run(self.folder, seed=1, provenance={"commit": "0ther"}, config={"new": 1.0, "minibatch": 65})
        self.assertEqual({"sync, commit 0ther, minibatch 64", "sync, commit 0ther, minibatch 65", "sync, commit 4f1c09d2ab7e, minibatch 64"},
                         {*results.load(self.folder, allow_mixed=True).labels.values()})

    def test_virtual_time_is_named(self):
        write_run(self.folder, seed=1)
        for name in ("near", "far"):
            for slowdown in (1.0, 2.0):
                write_run(self.folder, seed=1, engine="simulated",
                          config={"engine": "simulated", "cluster.name": name, "cluster.straggler.slowdown": slowdown})
        loaded = results.load(self.folder)
        self.assertEqual({"sync", *(f"sync (simulated), cluster {name}, cluster.straggler.slowdown {slowdown}"
                                    for name in ("near", "far") for slowdown in (1, 2))}, set(loaded.labels.values()))
        self.assertIn("mpi and simulated (its seconds are virtual)", style.host_of(loaded))
        code, _, err = self.draw(self.folder)
        self.assertEqual(code, 0, err)

    def test_an_axis_of_real_stragglers_is_named(self):
        """Where none is slowed, a real run has no key of it."""
        for engine, slowdown in itertools.product(("mpi", "simulated"), (1.0, 4.0)):
            cluster = {"cluster.name": "near"} if engine == "simulated" else {}
            write_run(self.folder, engine=engine, config={"engine": engine} | cluster | straggler_of(slowdown, engine))
        self.assertEqual([f"sync{simulated}, cluster.straggler.slowdown {slowdown}" for simulated in (" (simulated)", "")
                          for slowdown in (1, 4)], [*results.load(self.folder).labels.values()])

    def test_what_only_some_runs_have_is_named(self):
        write_run(self.folder)
        write_run(self.folder, config={"strategy.tau": 5})
        self.assertEqual(["sync", "sync, tau 5"], [*results.load(self.folder).labels.values()])

    def test_seconds_on_axes_are_real_or_virtual(self):
        for engine, words in (("mpi", "seconds of wall clock"), ("simulated", "real or virtual seconds")):
            write_run(self.folder, seed=1, engine=engine, config={"engine": engine})
            self.assert_seconds(words)
        next(path for path in self.folder.glob("*.h5") if results.read(path).engine == "mpi").unlink()
        self.assert_seconds("simulated seconds")

    def assert_seconds(self, words: str):
        loaded = results.load(self.folder)
        for module, panel, rest in ((convergence, 1, ", evaluation excluded"), (time_breakdown, 0, " per worker")):
            self.assertTrue(module.draw(loaded).axes[panel].get_xlabel().startswith(words + rest), module.__name__)

    def test_runs_that_learned_nothing_are_marked(self):
        write_run(self.folder, seed=1)
        self.assertNotIn("skipped", style.host_of(results.load(self.folder)))
        write_run(self.folder, seed=1, engine="simulated", config={"engine": "simulated", "gradient": "skipped"})
        self.assertIn("gradients skipped in 1 of 2 runs: timing alone", style.host_of(results.load(self.folder)))

    def test_an_ok_run_without_provenance_is_another_kind(self):
        write_run(self.folder, seed=1)
        write_run(self.folder, seed=2, without=("provenance",))
        with self.assertRaisesRegex(results.ResultError, "unknown"):
            results.load(self.folder)

    def test_same_class_of_host_is_one(self):
        write_run(self.folder, seed=1)
        write_run(self.folder, seed=2, provenance={"host": "node-2"})
        write_run(self.folder, seed=3, outcome="error", without=("provenance",))
        self.assertEqual(len(results.load(self.folder).runs), 3)


class Speedups(Folder):
    def run_at(self, workers, seed, seconds, minibatch=32, outcome="ok", reached=None, config=None, expressions=None):
        """A run of 1000 samples that takes so many seconds, and reaches the target after `reached` of them."""
        path = write_run(self.folder, "sync", workers, seed, samples=1000, outcome=outcome, target=0.5,
                         config={"minibatch": minibatch} | (config or {}),
                         tables={"snapshots": [(0, 0, 0, 0, 0, 1, 10)]
                                 + [(500, reached, 0, 0, 0, 5, 10)] * (reached is not None)
                                 + [(1000, seconds, 0, 0, 0, 4, 10)]})
        with changed(path) as file:
            file["result"].attrs["seconds"] = float(seconds)
            if expressions:
                file.require_group("expressions").attrs.update(expressions)

    def means(self, scaling, gain=results.throughput_gain):
        found = results.load(self.folder).speedups(scaling, gain)
        return [{p: e.mean for p, e in line.items()} for line in found.values()]

    def test_per_seed_then_averaged(self):
        self.run_at(1, 1, seconds=8)
        self.run_at(2, 1, seconds=4)
        self.run_at(1, 2, seconds=30)
        self.run_at(2, 2, seconds=10)
        self.assertEqual(self.means(results.WEAK), [{1: 1.0, 2: 2.5}])

    def test_failed_runs_and_those_without_a_base_have_none(self):
        self.run_at(1, 1, seconds=8)
        self.run_at(2, 1, seconds=4)
        self.run_at(1, 2, seconds=8, outcome="diverged")
        self.run_at(2, 2, seconds=1)
        self.run_at(1, 3, seconds=8)
        self.run_at(2, 3, seconds=1, outcome="timeout")
        self.assertEqual(self.means(results.WEAK), [])
        self.run_at(4, 1, seconds=2)
        self.run_at(4, 9, seconds=2)  # nobody ran the base of this seed
        self.assertEqual(self.means(results.WEAK), [{4: 4.0}])

    def test_strong_has_the_base_with_the_same_global_minibatch(self):
        self.run_at(1, 1, seconds=12, minibatch=64)
        self.run_at(2, 1, seconds=4, minibatch=32)
        self.run_at(4, 1, seconds=2, minibatch=16)
        self.assertEqual(self.means(results.STRONG), [{1: 1.0, 2: 3.0, 4: 6.0}])
        self.assertEqual(self.means(results.WEAK), [])

    def test_an_expression_of_the_workers_is_one_line(self):
        for workers in (1, 2, 4):
            said = {"optimizer.learning_rate": "0.1*workers"}
            self.run_at(workers, 1, 12 / workers, config={"optimizer.learning_rate": 0.1 * workers}, expressions=said)
            self.run_at(workers, 1, 12, config={"optimizer.learning_rate": 0.7})
        self.assertEqual([{1: 1.0, 2: 2.0, 4: 4.0}, {1: 1.0, 2: 1.0, 4: 1.0}],
                         sorted(self.means(results.WEAK), key=lambda line: -line[2]))
        self.assertEqual({"sync, learning_rate 0.7", "sync, learning_rate 0.1*workers"},
                         set(results.load(self.folder).labels.values()))

    def test_minibatches_in_proportion_are_no_weak_scaling(self):
        for workers in (1, 2, 4):
            self.run_at(workers, 1, 12 / workers, 64 // workers, expressions={"minibatch": "64/workers"})
        self.assertEqual(self.means(results.STRONG), [{1: 1.0, 2: 2.0, 4: 4.0}])
        self.assertEqual(self.means(results.WEAK), [])
        self.assertEqual(["sync"], list(results.load(self.folder).labels.values()))

    def test_to_target(self):
        self.run_at(1, 1, seconds=10, reached=6)
        self.run_at(2, 1, seconds=5, reached=4)
        self.run_at(1, 2, seconds=10, reached=6)
        self.run_at(2, 2, seconds=5)
        self.run_at(4, 1, seconds=4, reached=3)
        self.run_at(4, 2, seconds=4, reached=1.5)
        self.assertEqual(self.means(results.WEAK, results.time_to_target_gain), [{1: 1.0, 4: 3.0}])
        self.run_at(1, 1, seconds=1, minibatch=64)  # reaches nothing: in one panel, and once in the legend
        self.run_at(2, 1, seconds=1, minibatch=64)
        figure = speedup.draw(results.load(self.folder))
        legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        self.assertEqual([legend.count(name) for name in ("sync, minibatch 32", "minibatch 64")], [1, 1], legend)
        self.assertIn("sync, minibatch 32, 2 workers: 1 of 2 reached;", texts(figure))

    def test_panels_name_their_base(self):
        for workers, minibatch in ((1, 32), (1, 64), (2, 32)):
            self.run_at(workers, 1, 10 / workers, minibatch)
        panels = [panel for panel in speedup.draw(results.load(self.folder)).axes if panel.get_visible()]
        self.assertEqual([panel.get_title("left") for panel in panels],
                         ["weak speed-up of throughput", "strong speed-up of throughput"])
        self.assertIn("1 worker,\nthe same minibatch per worker", panels[0].get_ylabel())
        self.assertIn("1 worker,\nthe same global minibatch", panels[1].get_ylabel())

    def test_reasons_to_leave_it_out(self):
        self.run_at(2, 1, seconds=4)
        with self.assertRaisesRegex(style.LeftOut, r"same number of workers \(2\)"):
            speedup.draw(results.load(self.folder))
        self.run_at(4, 1, seconds=2)
        with self.assertRaisesRegex(style.LeftOut, "no run with 1 worker"):
            speedup.draw(results.load(self.folder))
        self.run_at(1, 2, seconds=2)
        with self.assertRaisesRegex(style.LeftOut, "no run has a base"):
            speedup.draw(results.load(self.folder))


class Look(Folder):
    def test_strategies_keep_their_colours(self):
        okabe_ito = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
        self.assertLessEqual({*style.COLOURS.values(), *style.OTHERS}, okabe_ito)
        self.assertEqual(len(set(style.COLOURS.values())), len(STRATEGIES))
        for strategies in (STRATEGIES, ("downpour", "bmuf"), ("bmuf", "gossip")):
            look = style.looks([results.Variant(strategy, ()) for strategy in strategies])
            self.assertEqual(look[results.Variant("bmuf", ())]["color"], style.COLOURS["bmuf"])

    def test_variants_differ(self):
        variants = [results.Variant("sync", (("minibatch", 2 ** i),)) for i in range(8)]
        looks = style.looks(variants).values()
        self.assertEqual(len({tuple(look["color"]) for look in looks}), 8)
        self.assertEqual(len({look["marker"] for look in looks}), 8)

    def test_the_most_workers_have_the_solid_line(self):
        self.assertEqual({p: line == "-" for p, line in style.line_styles([1, 4, 2]).items()}, {1: False, 2: False, 4: True})

    def test_of_many_notes_the_first_and_how_many_more(self):
        notes = [f"{letter} failed" for letter in "abcdefgh"]
        self.assertEqual(style.some("Failures", []), [])
        self.assertEqual(style.some("Failures", notes[:6]),
                         ["Failures: a failed; b failed; c failed; d failed; e failed; f failed."])
        self.assertEqual(style.some("Failures", notes),
                         ["Failures: a failed; b failed; c failed; d failed; e failed; and 3 more groups."])

    def test_nothing_covers_the_panels_or_leaves_the_figure(self):
        write_sweep(self.folder, samples=20000)
        write_sweep(self.folder, ("downpour", "averaging"), (2,), config={"strategy.n_push": 20}, samples=20000)
        write_run(self.folder, "bmuf", 2, 4, outcome="diverged", samples=20000)
        found = results.load(self.folder)
        for module in all_figures.FIGURES:
            self.assert_tidy(module.draw(found), module.__name__)


class Drawn(Folder):
    """Figures show the numbers of results/README.md."""

    def draw_one(self, module, *runs, **more):
        """Its panels of runs with so many workers, seeds and tables."""
        for workers, seed, tables in runs:
            write_run(self.folder, workers=workers, seed=seed, samples=1000, tables=tables, **more)
        return module.draw(results.load(self.folder)).axes

    def test_curves_are_over_the_samples_of_all_workers(self):
        rows = [(used, used / 500, 0, 0, 0, used / 20, 100) for used in (0, 500, 1000)]
        by_samples, by_seconds = self.draw_one(convergence, (2, 1, {"snapshots": rows}))
        lines = [next(line for line in panel.lines if len(line.get_xdata()) > 2) for panel in (by_samples, by_seconds)]
        self.assertEqual([list(line.get_xdata()) for line in lines], [[0, 0.5, 1], [0, 1, 2]])
        self.assertEqual([list(line.get_ydata()) for line in lines], [[0, 25, 50]] * 2)

    def test_a_tenth_of_the_budget_may_be_cut_off_below(self):
        curve = (np.array([0, 50, 100, 600, 1000]), np.arange(5), np.array([0.1, 0.3, 0.5, 0.7, 0.8]), np.full(5, np.nan))
        np.testing.assert_allclose(convergence.accuracy_range([curve], []), (50 - 0.06 * 30, 80 + 0.06 * 30))
        np.testing.assert_allclose(convergence.accuracy_range([curve], [0.4]), (40 - 0.06 * 40, 80 + 0.06 * 40))

    def test_the_ideal_speed_up_is_the_number_of_workers(self):
        panel, *_ = self.draw_one(speedup, (1, 1, None), (4, 1, None))
        ideal, = (line for line in panel.lines if line.get_color() == speedup.IDEAL["color"])
        ends = panel.transData.inverted().transform(ideal.get_transform().transform([[0, 0], [1, 1]]))
        np.testing.assert_allclose(ends[:, 0], ends[:, 1])
        self.assertLess(*ends[:, 0])

    def test_traffic_of_workers_and_servers(self):
        ranks = [(rank, rank > 1, 0, 0, 9, 0, 0, 0, 0, mb * 1_000_000, 0, 0, 0) for rank, mb in enumerate((1, 3, 6))]
        worker, relative = self.draw_one(traffic, (2, 1, {"ranks": ranks}), strategy="downpour")
        self.assertEqual([text.get_text() for text in (*worker.texts, *relative.texts)], ["2.00", "10.0"])
        self.assertEqual([(bar.get_x(), bar.get_width()) for bar in (*worker.patches, *relative.patches)],
                         [(0, 2), (0, 4), (4, 6)])

    def test_shares_of_compute_are_of_the_own_bar(self):
        def ranks(workers, compute, total):
            return {"ranks": [(r, 0, 1, 1, total, compute, 0, 0, 0, 0, 0, 0, 0) for r in range(workers)]}
        panel, = self.draw_one(time_breakdown, (1, 1, ranks(1, 18, 20)), (2, 1, ranks(2, 4, 10)))
        self.assertEqual([text.get_text() for text in panel.texts], ["20.0 s, 90 %", "10.0 s, 40 %"])

    def test_staleness_is_the_mean_of_the_runs_shares(self):
        panel, = self.draw_one(staleness, (2, 1, {"staleness": [(0, 0, 10)]}),
                               (2, 2, {"staleness": [(0, 0, 250), (0, 2, 750)]}), strategy="downpour")
        np.testing.assert_allclose([bar.get_height() for bar in panel.patches], [62.5, 0, 37.5])
        self.assertRegex(panel.texts[0].get_text(), r"^mean 0\.8 ± .*\nlargest 2$")

    def test_the_axis_of_staleness_has_all_but_a_thousandth(self):
        panel, = self.draw_one(staleness, (2, 1, {"staleness": [(0, 0, 9000), (0, 5, 995), (0, 50, 5)]}), strategy="downpour")
        self.assertEqual(panel.get_xlim(), (-0.7, 5.7))
        self.assertRegex(panel.texts[0].get_text(), "\nlargest 50$")


class OfExperiments(Folder):
    """Figures that are drawn for results of one shape."""

    def write(self, strategy, workers, seed, seconds=8.0, reached=4.0, **more):
        """A simulated run of so many seconds that is at 75 % after `reached` of them, at 90 % in the end."""
        config = {"engine": "simulated", "minibatch": 4} | more.pop("config", {})
        rows = [(0, 0, 0, 0, 0, 10, 100)] + [(500, reached, 0, 0, 0, 75, 100)] * (reached is not None)
        tables = {"snapshots": rows + [(1000, seconds, 0, 0, 0, 60 if reached is None else 90, 100)]} | more.pop("tables", {})
        path = write_run(self.folder, strategy, workers, seed, engine="simulated", samples=1000, target=0.7, config=config,
                         tables=tables, **more)
        with changed(path) as file:
            file["result"].attrs["seconds"] = float(seconds)

    def softsync(self):
        for n in (1, 2, 6, 15, 30):
            for rule, seed, rate in itertools.product(("none", "inverse"), (1, 2), (0.1, 0.4)):
                failed = rule == "none" and n == 30
                self.write("staleness_aware", 30, seed, outcome="diverged" if failed else "ok",
                           config={"strategy.n": n, "strategy.modulation": rule, "optimizer.learning_rate": rate},
                           tables={"staleness": [(0, n, 999), (0, 2 * n + 1, 1)]}
                           | ({"snapshots": [(1000, 1, 0, 0, 0, 10, 100)]} if failed else {}))
        self.write("sync", 30, 1, config={"optimizer.learning_rate": 0.4})
        return softsync.draw(results.load(self.folder))

    def jitter(self):
        for n, sigma, slowdown in itertools.product((1, 30), (0.0, 0.1, 1.0), (1.0, 4.0)):
            self.write("staleness_aware", 30, 1, tables={"staleness": [(0, 0, 1), (0, 2 * n, 2), (0, 2 * n + 1, 1)]},
                       config={"strategy.n": n, "cluster.jitter": sigma, "cluster.straggler.slowdown": slowdown,
                               "cluster.straggler.workers": 1})
        return jitter.draw(results.load(self.folder))

    def straggler(self):
        for strategy, seed, slowdown in itertools.product(STRATEGIES, (1, 2), (1.0, 8.0)):
            missed = strategy == "bmuf" and seed == 2 and slowdown == 8
            time = 4 * (1 if strategy == "downpour" else slowdown)
            self.write(strategy, 8, seed, 2 * time, None if missed else time, config={"cluster.straggler.slowdown": slowdown})
        return straggler.draw(results.load(self.folder))

    def periods(self):
        """C = 4 s; S = 0 or 3 s, two thirds of it waiting."""
        for cost, k, seed in itertools.product((0.0, 3.0), (1, 2, 4), (1, 2)):
            def ranks(steps, compute, rounds):
                return [(r, 0, steps, 0, 0, steps * compute, rounds * cost / 3, rounds * cost * 2 / 3, 0, 0, 0, 0, rounds) for r in range(k)]
            for tau in (1, 10):
                rounds = 100 // tau
                self.write("averaging", k, seed, 400 + rounds * cost, (400 + rounds * cost) / k, tables={"ranks": ranks(100, 4, rounds)},
                           config={"strategy.tau": tau, "cluster.round": cost, "minibatch": 8})
            self.write("sync", k, seed, 100 * (4 / k + cost), tables={"ranks": ranks(100, 4 / k, 100)},
                       config={"cluster.round": cost, "minibatch": 8 // k})
        return periods.draw(results.load(self.folder))

    def scaling(self):
        for cluster, p, strategy in itertools.product(("near-10g", "near-1g"), (1, 4, 16), ("sync", "topk", "downpour")):
            for servers in (1, 8) if strategy == "downpour" else (0,):
                for rate in (0.1, 0.2) if strategy == "topk" else (0.1,):
                    reached = 4 / p * (1 if (rate == 0.1) == (p < 16) else 2)
                    self.write(strategy, p, 1, 8 / p, None if p == 16 and servers == 1 else reached,
                               config={"cluster.name": cluster, "optimizer.learning_rate": rate} | ({"servers": servers} if servers else {}),
                               outcome="diverged" if rate == 0.2 and p == 1 else "ok")
        return scaling.draw(results.load(self.folder))

    def families(self):
        for (i, strategy), seed in itertools.product(enumerate(("sync", "topk", "qsgd", "signsgd", "averaging", "bmuf", "dpsgd",
                                                                "easgd", "mine")), (1, 2)):
            best = 95 if strategy == "mine" else 60  # on the way
            rows = [(0, 0, 0, 0, 0, 10, 100), (500, 2 + i, 0, 0, 0, best, 100), (1000, 4 + 2 * i, 0, 0, 0, 80 + i, 100)]
            self.write(strategy, 8, seed, 4 + 2 * i, tables={"snapshots": rows})
        return families.draw(results.load(self.folder))

    def test_families(self):
        figure = self.families()
        shown = {panel.get_title("left"): panel for panel in figure.axes[::2]}
        self.assertEqual(list(shown), ["lock-step, compressed gradients", "lock-step, local steps and gossip",
                                       "models averaged without a common pace", "others"])
        names = [[text.get_text() for text in panel.get_legend().get_texts()] for panel in figure.axes[1::2]]
        self.assertEqual(names, [["signsgd  83.0", "qsgd  82.0", "topk  81.0", "sync  80.0"],
                                 ["dpsgd  86.0", "bmuf  85.0", "averaging  84.0", "sync  80.0"],
                                 ["easgd  87.0", "sync  80.0"], ["mine  88.0", "sync  80.0"]])
        self.assertEqual(figure.axes[1].get_xlim()[1], 1.03 * 20)
        with self.assertRaises(style.OfAnotherExperiment):
            convergence.draw(results.load(self.folder))

    def test_slow_ones_do_not_stretch_the_axis_of_time(self):
        curves = {str(i): [(None, np.array([0, end]), None, None)] for i, end in enumerate((1, 1, 2, 8))}
        self.assertEqual(families.time_shown(curves), 1.03 * 2)  # three times the median is 4.5

    def test_softsync(self):
        figure = self.softsync()
        fixed, _, divided = [line for line in figure.axes[0].lines if len(line.get_xdata()) >= 3][:3]
        self.assertEqual([list(line.get_ydata()) for line in (fixed, divided)], [[90, 90, 90, 90, 10], [90] * 5])
        self.assertNotIn("Failures", texts(figure))  # runs that diverged are shown
        titles = [panel.get_title("left") for panel in figure.axes[2:]]
        self.assertIn("n = 6, c = 5\nmean 6.01\n(λ−1)/c = 5.80\nP(τ > 2n) = 0.00100", titles)
        self.assertIn("simulated", texts(figure))

        legend, = figure.legends
        self.assertEqual(len(legend.get_texts()), legend._ncols)

    def test_softsync_counts_the_seeds_that_it_shows(self):
        for n, rule, seed in itertools.product((1, 2), ("none", "inverse"), (1, 2)):
            self.write("staleness_aware", 30, seed, outcome="diverged" if n == seed == 2 else "ok",
                       config={"strategy.n": n, "strategy.modulation": rule})
        self.assertTrue(texts(softsync.draw(results.load(self.folder))).endswith("·  2 seeds"))

    def test_jitter(self):
        mean, _, tail, _ = self.jitter().axes
        self.assertEqual([[round(y, 6) for y in line.get_ydata()] for line in mean.lines], [[round(1.75 / 29 * 30, 6)] * 3,
                                                                                           [round(45.25 / 29, 6)] * 3])
        self.assertEqual([list(line.get_ydata()) for line in tail.lines[:2]], [[0.25] * 3] * 2)

    def test_straggler(self):
        figure = self.straggler()
        lock_step, served = figure.axes
        self.assertEqual(sorted(label.get_text() for label in served.get_yticklabels()), ["downpour", "staleness_aware"])
        words = [text.get_text() for panel in figure.axes for text in panel.texts]
        self.assertEqual([words.count(word) for word in ("1.00", "8.00", "1 of 2 reached at 8x")], [1, 3, 1], words)
        self.assertEqual(words.count("times as long at 8x"), 2, words)
        self.assertIn("simulated seconds to 70 % test accuracy", served.get_xlabel())

    def test_straggler_names_the_first_slowdown_that_missed_the_target(self):
        for seed, slowdown in itertools.product((1, 2), (1.0, 2.0, 8.0)):
            missed = slowdown == 8 or slowdown == seed == 2
            self.write("sync", 8, seed, 40, None if missed else 4.0, config={"cluster.straggler.slowdown": slowdown})
        panel, = straggler.draw(results.load(self.folder)).axes
        self.assertIn("1 of 2 reached at 2x", [text.get_text() for text in panel.texts])

    def test_straggler_of_real_runs(self):
        for slowdown in (1.0, 8.0):
            write_run(self.folder, "sync", 8, target=0.5, config=straggler_of(slowdown, "mpi"))
        panel, = straggler.draw(results.load(self.folder)).axes
        self.assertEqual(["sync"], [label.get_text() for label in panel.get_yticklabels()])
        self.assertIn("seconds of wall clock to 50 %", panel.get_xlabel())
        write_run(self.folder, "sync", 8, target=0.5, config=straggler_of(8.0, "mpi") | {"cluster.straggler.workers": 2})
        with self.assertRaisesRegex(style.LeftOut, "more settings"):
            straggler.draw(results.load(self.folder))

    def test_straggler_of_a_target_that_the_first_model_reaches(self):
        for slowdown in (1.0, 8.0):
            for strategy, reached in ("sync", 0.0), ("bmuf", 4.0):
                self.write(strategy, 8, 1, 40, reached, config={"cluster.straggler.slowdown": slowdown})
        panel, = straggler.draw(results.load(self.folder)).axes
        self.assertIn("reached at the start", [text.get_text() for text in panel.texts])

    def test_periods(self):
        figure = self.periods()
        panels = {panel.get_title("left"): panel for panel in figure.axes}
        at_3 = {line.get_marker(): list(line.get_ydata()) for line in panels["S = 0.750 C"].lines if line.get_marker() != "None"}
        np.testing.assert_allclose(at_3[style.MARKERS[2]], [4 * 400 / 700, 4 * 400 / 430])  # 4 workers, tau 1 and 10
        naive = next(panel for title, panel in panels.items() if title.startswith("naive"))
        points = {line.get_marker(): line for line in naive.lines if line.get_marker() != "None"}
        for marker, k in ((style.MARKERS[1], 2), (style.MARKERS[2], 4)):
            line = points[marker]
            for s, gain in zip(line.get_xdata(), line.get_ydata()):
                self.assertAlmostEqual(gain, 1 / (1 / k + s))
                self.assertEqual(gain < 1, s > 1 - 1 / k)
            model = next(drawn for drawn in naive.lines if drawn.get_marker() == "None" and drawn.get_color() == line.get_color())
            np.testing.assert_allclose(model.get_ydata(), 1 / (1 / k + model.get_xdata()))
        self.assertIn("C: a gradient of 8 samples (4000 simulated ms)", texts(figure))

    def test_scaling(self):
        figure = self.scaling()
        rate, _, sent, _, time, _, _, _ = figure.axes
        self.assertEqual([panel.get_title("left") for panel in (rate, sent)],
                         ["lock-step, compressed gradients", "gradients to parameter servers"])
        self.assertEqual([text.get_text() for text in rate.texts], ["near-1g"])
        self.assertEqual([sorted(len(line.get_xdata()) for line in panel.lines) for panel in (rate, sent)], [[3] * 3, [3] * 4])
        np.testing.assert_allclose([line.get_ydata() for line in sent.lines], 1000 / 8)  # a worker's, and the ideal
        topk = next(line for line in time.lines if line.get_color() != "black")
        self.assertEqual(list(topk.get_xdata()), [1, 4, 16])
        np.testing.assert_allclose(topk.get_ydata(), [4, 1, 0.25])  # the best rate of two
        self.assertIn("best of up to 2 learning rates", texts(figure))
        missed = figure.axes[6]
        self.assertEqual(sorted(len(line.get_xdata()) for line in missed.lines), [2, 3, 3])  # 16 workers, 1 server
        self.assertEqual([text.get_text() for text in figure.axes[3].get_legend().get_texts()],
                         ["downpour", "sync", "1 server", "8 servers"])
        self.assertEqual((rate.get_ylabel(), time.get_ylabel()),
                         ("samples per\nsimulated second\nand worker", "simulated seconds\nto 70 %"))

    def test_scaling_is_of_simulated_runs(self):
        self.scaling()
        lines = (("sync", {}), ("topk", {}), ("downpour", {"servers": 1}), ("downpour", {"servers": 8}))
        for p, (strategy, servers) in itertools.product((1, 4, 16), lines):
            write_run(self.folder, strategy, p, samples=1000, config={"optimizer.learning_rate": 0.1} | servers)
        with self.assertRaises(style.OfAnotherExperiment):
            scaling.draw(results.load(self.folder))

    def test_nothing_covers_the_panels_or_leaves_the_figure(self):
        for draw in (self.families, self.softsync, self.jitter, self.straggler, self.periods, self.scaling):
            for path in self.folder.glob("*.h5"):
                path.unlink()
            self.assert_tidy(draw(), draw.__name__)

    def test_other_results_have_none(self):
        write_sweep(self.folder, samples=2000)
        for figure in all_figures.OF_EXPERIMENTS:
            with self.assertRaises(style.OfAnotherExperiment):
                figure.draw(results.load(self.folder))


class Command(Folder):
    def made(self, folder: Path) -> list[str]:
        return sorted(path.stem for path in folder.glob("*.png") if path.with_suffix(".pdf").exists())

    def test_a_whole_sweep(self):
        write_sweep(self.folder)
        code, out, err = self.draw(self.folder)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(out.splitlines(), [str(self.folder / "plots" / f"{name}.{kind}") for name in FIGURES
                                            for kind in ("png", "pdf")])
        self.assertEqual(self.made(self.folder / "plots"), sorted(FIGURES))

        # The same results make the same bytes.
        again = self.folder / "new" / "folder"
        self.assertEqual(self.draw(self.folder, "-o", again)[0], 0)
        for path in (self.folder / "plots").iterdir():
            content = path.read_bytes()
            self.assertEqual(content, (again / path.name).read_bytes(), path.name)
            self.assertNotIn(b"CreationDate", content)
            self.assertNotIn(b"Software", content)

    def test_figures_that_are_left_out_say_why(self):
        write_sweep(self.folder, ("sync", "bmuf"), (2,), (1,), samples=20000)
        code, out, _ = self.draw(self.folder)
        self.assertEqual(code, 0)
        self.assertIn("no staleness: no run that came to its end used a parameter server", out)
        self.assertIn("no speedup: all runs have the same number of workers (2)", out)
        self.assertEqual(self.made(self.folder / "plots"), ["convergence", "time_breakdown", "traffic"])

    def test_failed_runs_are_noted_on_every_figure(self):
        write_sweep(self.folder, ("downpour",), seeds=(1, 2), samples=20000)
        write_run(self.folder, "downpour", 2, 3, outcome="diverged", samples=20000)
        write_run(self.folder, "sync", 2, 3, outcome="error", without=("snapshots", "ranks", "result"), samples=20000)
        found = results.load(self.folder)
        for module in all_figures.FIGURES:
            figure = module.draw(found)
            self.assertIn("Failures: sync, 2 workers: 1 of 1 run failed; downpour, 2 workers: 1 of 3 runs diverged.",
                          texts(figure).replace("\n", " "), module.__name__)
            self.assertIn("commit 4f1c09d2ab7e", texts(figure))
            self.assertIn("1 to 3 seeds", texts(figure))
            style.plt.close(figure)

    def test_nothing_to_draw_is_exit_code_1(self):
        write_run(self.folder, outcome="error", without=("snapshots", "ranks", "result"))
        code, out, err = self.draw(self.folder)
        self.assertEqual(code, 1)
        self.assertIn("no figure could be drawn", err)
        self.assertEqual(out.count("no "), 2 * len(FIGURES), out)

    def test_no_results_is_exit_code_1(self):
        code, _, err = self.draw(self.folder)
        self.assertEqual(code, 1)
        self.assertIn("no result file (.h5)", err)
        (self.folder / "quickstart").mkdir()
        write_run(self.folder / "quickstart")
        self.assertIn(f"There are some in {self.folder / 'quickstart'}.", self.draw(self.folder)[2])

    def test_an_output_folder_that_cannot_be_written_is_exit_code_1(self):
        write_run(self.folder)
        (self.folder / "taken").write_text("")
        code, _, err = self.draw(self.folder, "-o", self.folder / "taken")
        self.assertEqual(code, 1)
        self.assertIn("taken", err)

    def test_wrong_usage_is_exit_code_2(self):
        for arguments, words in (([], "RESULTS_DIR"), ([self.folder / "nothing"], "not a folder"),
                                 ([self.folder, "--target", "85"], "such as 0.85"),
                                 ([self.folder, "--target", "0"], "such as 0.85"),
                                 ([self.folder, "--target", "high"], "such as 0.85"),
                                 ([self.folder, "--colour"], "--colour")):
            code, _, err = self.draw(*arguments)
            self.assertEqual(code, 2, arguments)
            self.assertIn(words, err)

    def test_help_has_examples(self):
        code, out, _ = self.draw("--help")
        self.assertEqual(code, 0)
        self.assertIn("python3 plots/all.py out/quickstart", out)

    def test_target_on_the_command_line_wins(self):
        self.assertEqual(all_figures.parse([str(self.folder), "--target", "1"]).target, 1)
        write_sweep(self.folder, ("sync",), seeds=(1,), target=0.99, samples=20000)
        figure = convergence.draw(results.load(self.folder, target=0.7))
        self.assertIn("target 70 %", [text.get_text() for legend in figure.legends for text in legend.get_texts()])

    def test_300_runs(self):
        for rate in (0.02, 0.05, 0.1):
            write_sweep(self.folder, workers=(1, 2, 4, 8), seeds=range(5), samples=2000, snapshots=4,
                        config={"optimizer.learning_rate": rate, "minibatch": 16})
        found = results.load(self.folder)
        self.assertEqual((len(found.runs), len(found.groups)), (300, 60))
        for module in all_figures.FIGURES:
            style.plt.close(module.draw(found))

    def test_unknown_strategies_and_thin_series(self):
        write_run(self.folder, "gossip", 2, 1, snapshots=1, samples=2000)
        write_run(self.folder, "easgd", 2, 1, snapshots=0, samples=2000)
        write_run(self.folder, "ssp", 1, 1, target=0.0, samples=2000, tables={"snapshots": [(0, 0.0, 0, 0, 0.0, 0, 0)]})
        self.assertEqual(self.draw(self.folder)[0], 0)


class Best(Folder):
    SEARCH = """
title = "Some trials"
seed = 101
workers = [1, 2]
samples = 6000
optimizer.rule = "momentum"
optimizer.learning_rate = [0.01, 0.02, 0.04]
[strategy.sync]
[strategy.averaging]
tau = [5, 20]
"""

    def setUp(self):
        super().setUp()
        self.search = self.folder / "search.toml"
        self.search.write_text(self.SEARCH)
        for workers in (1, 2):
            for rate in (0.01, 0.02, 0.04):
                self.trial("sync", workers, rate, correct=9000 if rate == 0.02 else 8000)
                for tau in (5, 20):
                    self.trial("averaging", workers, rate, correct=8000 + 1000 * (rate == 0.04) + tau * workers, tau=tau)

    def trial(self, strategy, workers, rate, correct, **own):
        write_run(self.folder, strategy, workers, 101, samples=6000, outcome="diverged" if correct is None else "ok",
                  config={"optimizer.learning_rate": rate, "optimizer.rule": "momentum"}
                  | {f"strategy.{k}": v for k, v in own.items()},
                  tables={"snapshots": [(6000, 1.0, 0, 0, 0.5, correct or 9999, 10000)]})

    def run_best(self, *words):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
            code = best.main([str(self.search), str(self.folder), *words])
        return code, out.getvalue(), errors.getvalue()

    def test_picks_the_highest_accuracy_and_marks_edges(self):
        code, out, _ = self.run_best()
        self.assertEqual(0, code)
        self.assertRegex(out, r"(?m)^sync +2 +3 +3 +90.00  optimizer.learning_rate = 0.02$")
        self.assertRegex(out, r"(?m)^averaging +2 +6 +6 +90.40  optimizer.learning_rate = 0.04\*, tau = 20$")

    def test_diverged_trials_count_but_do_not_win(self):
        self.trial("sync", 2, 0.08, correct=None)
        self.assertRegex(self.run_best()[1], r"(?m)^sync +2 +4 +3 +90.00  optimizer.learning_rate = 0.02$")

    def test_writes_experiments_and_trials(self):
        code, _, _ = self.run_best("--write", "compare", "-o", str(self.folder), "--csv", str(self.folder / "trials.csv"))
        self.assertEqual(0, code)
        text = (self.folder / "compare-2.toml").read_text()
        self.assertTrue(text.startswith("# The best of 9 trials in all "), text)  # of 18 with 1 and 2 workers
        written = tomllib.loads(text)
        self.assertEqual((2, 6000, [1, 2, 3, 4, 5]), (written["workers"], written["samples"], written["seed"]))
        self.assertEqual({"sync": {"optimizer": {"rule": "momentum", "learning_rate": 0.02}},
                          "averaging": {"optimizer": {"rule": "momentum", "learning_rate": 0.04}, "tau": 20}},
                         written["strategy"])
        self.assertEqual(1 + 2 * (3 + 6), len((self.folder / "trials.csv").read_text().splitlines()))

    def test_a_strategy_without_an_ok_trial_is_exit_code_1(self):
        self.trial("averaging", 7, 0.01, correct=None, tau=5)
        code, _, errors = self.run_best()
        self.assertEqual(1, code)
        self.assertIn("no trial ended as ok: averaging with 7 workers", errors)


class Validation(Folder):
    def table(self, *arguments) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = importlib.import_module("validation").main([str(a) for a in (self.folder, *arguments)])
        return code, out.getvalue(), err.getvalue()

    def write(self, engine, seconds, seed=1, communication=0.5, compute=1.0, slowness={}, **more):
        tables = {"ranks": [(0, 0, 10, 1000, seconds, compute, communication, 0.25, 0, 0, 0, 10, 0)], "snapshots": [], "steps": []}
        config = {"engine": engine} | ({"cluster.round": 1.0} if engine == "simulated" else {}) | slowness
        path = write_run(self.folder, seed=seed, samples=1000, engine=engine, tables=tables, config=config, **more)
        with changed(path) as file:
            file["result"].attrs["seconds"] = seconds

    def test_twins_are_compared(self):
        for seed, seconds in enumerate((2.0, 4.0, 5.0), 1):
            self.write("mpi", seconds, seed)
        self.write("simulated", 2.5, communication=0.75, compute=0.8, slowness={"cluster.jitter": 0.03})  # calibrated
        self.write("mpi", 1.0, strategy="bmuf")  # alone
        code, out, _ = self.table()
        self.assertEqual(code, 1)
        [row] = [line for line in out.splitlines() if line.startswith("sync")]
        self.assertEqual(row.split(), ["sync", "1", "250", "(200..500)", "400", "1.60", "1.25", "0.7500", "(0.7500..0.7500)", "1.0000",
                                       "+6.2", "%"])
        self.assertIn("0 of 1 within 15 %", out)
        self.assertEqual(self.table("--within", "0.61")[0], 0)

    def test_slowed_runs_are_twins_of_slowed_ones(self):
        for slowdown, engine in itertools.product((1.0, 4.0), ("mpi", "simulated")):
            self.write(engine, slowdown, slowness=straggler_of(slowdown, engine))
        code, out, _ = self.table()
        self.assertEqual(code, 0)
        rows = [line.split("  ") for line in out.splitlines() if line.startswith("sync")]
        self.assertEqual(["sync", "sync, slowdown 4"], [row[0] for row in rows])
        self.assertIn("2 of 2 within 15 %", out)

    def test_runs_with_jitter_are_twins_of_those_with_the_same(self):
        for most, engine in itertools.product((0.0, 0.3), ("mpi", "simulated")):
            self.write(engine, 1 + most, slowness={"cluster.jitter": most} if most or engine == "simulated" else {})
        rows = [line.split("  ") for line in self.table()[1].splitlines() if line.startswith("sync")]
        self.assertEqual(["sync", "sync, jitter 0.3"], [row[0] for row in rows])

    def test_without_twins_there_is_no_table(self):
        self.write("mpi", 1.0)
        self.assertEqual(self.table()[0], 1)
        self.assertIn("no run of both engines", self.table()[2])


class RealResults(unittest.TestCase):
    """Result files of the harness, given on the command line."""

    folder: Path

    def test_every_file_is_read(self):
        found = results.load(self.folder, allow_mixed=True)
        self.assertEqual([problem for problem in found.problems if "not finished" not in problem], [])
        for run in found.runs:
            self.assertLessEqual({*result_file.TABLES["steps"]}, {*run.steps.dtype.names}, run.path.name)
            for key in ("commit", "build_type", "flags", "cpu", "cores"):
                self.assertIn(key, run.provenance, run.path.name)
            if run.ok:
                self.assertGreater(run.throughput, 0, run.path.name)
                self.assertTrue(0 <= run.reached_accuracy <= 1, run.path.name)
                self.assertEqual(len(run.worker_ranks), run.workers, run.path.name)
                self.assertEqual(run.mean_staleness is not None, len(run.ranks) > run.workers, run.path.name)
                parts = sum(run.phase(phase) for phase in result_file.PHASES)
                self.assertAlmostEqual(parts, run.worker_ranks["total_s"].mean(), delta=0.02 * parts, msg=run.path.name)

    def test_every_figure_is_drawn_or_says_why_not(self):
        out = io.StringIO()
        with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(out):
            self.assertEqual(all_figures.main([str(self.folder), "-o", output, "--allow-mixed"]), 0)
            for name in FIGURES:
                drawn = all((Path(output) / f"{name}.{kind}").exists() for kind in ("png", "pdf"))
                self.assertNotEqual(drawn, f"no {name}: " in out.getvalue(), name)


if __name__ == "__main__":
    if len(sys.argv) > 1 and Path(sys.argv[-1]).is_dir():
        RealResults.folder = Path(sys.argv.pop())
    else:
        del RealResults
    unittest.main()
