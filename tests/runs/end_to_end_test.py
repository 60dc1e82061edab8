#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests: the program `dsgd` as a user runs it, with real ranks that are killed and stopped, and disks that are full.

    DSGD_BUILD=build /usr/bin/python3 tests/runs/end_to_end_test.py -v
"""
import contextlib
import ctypes
import datetime
import glob
import gzip
import hashlib
import os
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))
import open_mpi
from result_files import seal
from sanitizers import OWN_MEMORY, sanitized

DSGD = os.path.join(os.path.abspath(os.environ.get("DSGD_BUILD", "build")), "dsgd")
PATIENCE = 1440 if sanitized(os.path.dirname(DSGD)) else 240  # seconds that any one command may take
GONE_WITHIN = 10  # seconds after which nothing of a broken run may be alive

COMPRESSED = ("threshold", "topk", "qsgd", "signsgd", "ef_signsgd", "onebit", "powersgd")
LOCK_STEP = ("sync", "averaging", "bmuf", "easgd_sync", "eamsgd_sync", "slowmo", "diloco", *COMPRESSED)
SETTINGS = {"threshold": "tau = 0.05\n", "topk": "density = 0.1\n", "signsgd": "optimizer.learning_rate = 0.001\n", "diloco": "H = 10\n", "fasgd": "optimizer.learning_rate = 0.002\n",
            "sandblaster": "batch = 80\nportion = 1\nbackups = 0\n"}  # of strategies that need some
SERVED = ("downpour", "staleness_aware", "ssp", "dc_asgd", "fasgd", "easgd", "eamsgd", "sandblaster")
STRATEGIES = LOCK_STEP + SERVED
QUICKSTART = ("sync", "averaging", "bmuf", "downpour", "staleness_aware")

# A task that is learned in milliseconds.
SMALL = """
title = "Small"
dataset = "synthetic"
model = "softmax"
synthetic.shape = "1x8x8"
synthetic.train = 500
synthetic.test = 101
minibatch = 10
snapshots = 3
optimizer.learning_rate = 0.05
"""
TRAIN, TEST, EPOCHS = 500, 101, 4

# Runs that would go on for hours, and a short one.
ENDLESS = """
title = "Endless"
dataset = "synthetic"
model = "softmax"
synthetic.train = 600
synthetic.test = 101
workers = 2
samples = 1000000000
minibatch = 64
snapshots = 2
"""
SHORT = "[strategy.bmuf]\nsamples = 4000\n"


def setUpModule():
    global scratch, environment
    scratch = tempfile.mkdtemp(prefix="dsgd-")
    environment = dict(os.environ, TMPDIR=scratch, XDG_CACHE_HOME=scratch, XDG_CONFIG_HOME=scratch)
    for name in "DSGD_DATA", "OMPI_MCA_btl_vader_backing_directory", "OMPI_MCA_btl_sm_backing_directory":
        environment.pop(name, None)
    unittest.addModuleCleanup(shutil.rmtree, scratch, ignore_errors=True)


def dsgd(*words, code=0):
    """Runs the program to its end, which must come with this exit code."""
    done = subprocess.run([DSGD, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != code:
        raise AssertionError(f"exit code {done.returncode}, not {code}: dsgd {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done


# ---- processes


def stat(pid):
    """The fields of /proc/PID/stat from the state on; none for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()
    except OSError:
        return None


def alive(pid):
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


def processes(folder):
    """Command lines, by process, of everything alive that was started for results in the folder."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read().decode(errors="replace").split("\0")
            if int(pid) != os.getpid() and any(word.startswith(folder) for word in words) and alive(pid):
                found[int(pid)] = words
    return found


def variables(pid):
    with open(f"/proc/{pid}/environ") as f:
        return dict(v.split("=", 1) for v in f.read().split("\0") if "=" in v)


def ranks(folder):
    found = {}
    for pid, words in processes(folder).items():
        if words[1:2] == ["rank"]:
            with contextlib.suppress(OSError):
                found[int(variables(pid)["OMPI_COMM_WORLD_RANK"])] = pid
    return found


def mpirun(folder):
    return next((pid for pid, words in processes(folder).items() if words[0] in open_mpi.PROGRAMS), None)


def processor_seconds(pid):
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=scratch)
        self.addCleanup(self.end_processes)
        self.out = self.folder + "/out"

    def end_processes(self):
        for pid in processes(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def experiment(self, text, name="mine.toml"):
        path = f"{self.folder}/{name}"
        with open(path, "w") as f:
            f.write(text)
        return path

    def start(self, *words):
        process = subprocess.Popen([DSGD, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.02)
        self.fail(f"no {what} after {seconds} s")

    def training(self, sweep, part, seconds=0.5):
        """Waits until the run with this part of a name is in the middle of its training; returns its processes."""
        def busy():
            if sweep.poll() is not None:
                self.fail(f"dsgd ended before {part} was training:\n" + "".join(sweep.communicate()))
            now = ranks(self.folder)
            return 0 in now and part in " ".join(processes(self.folder).get(now[0], [])) and processor_seconds(now[0]) > seconds
        self.wait_for(busy, f"training of {part}")
        return mpirun(self.folder), ranks(self.folder)

    def job_folder(self, pid):
        """Where Open MPI keeps the session directory and the ranks' shared memory of one job."""
        folder = variables(pid)["TMPDIR"]
        self.assertRegex(folder, r"^/dev/shm/dsgd-job-\w{6}$")
        self.assertIn({name.split(".")[0] for name in os.listdir(folder)}, open_mpi.FILES)
        return folder

    def assert_gone(self, pids):
        with self.subTest("nothing is left alive"):
            self.wait_for(lambda: not any(map(alive, pids)), "end of all processes", GONE_WITHIN)

    def assert_tidy(self, folder=None):
        """Only finished records: no part, plan or damaged file."""
        names = [name for name in os.listdir(folder or self.out) if name != ".lock"]
        self.assertEqual([], [name for name in names if not name.endswith(".h5")])
        return sorted(names)


# ---- records


class Record:
    """A result file, read with h5py alone."""

    def __init__(self, path):
        self.path = path
        with h5py.File(path, "r") as file:
            self.attributes = dict(file.attrs)
            self.groups = {name: dict(g.attrs) for name, g in file.items() if isinstance(g, h5py.Group)}
            self.types = {place: {name: g.attrs.get_id(name).dtype for name in g.attrs}
                          for place, g in [("/", file), *((n, g) for n, g in file.items() if isinstance(g, h5py.Group))]}
            self.tables = {name: d[:] for name, d in file.items() if isinstance(d, h5py.Dataset)}
        self.config, self.result = self.groups.get("config", {}), self.groups.get("result", {})

    def __getitem__(self, name):
        return self.attributes[name]


def records(folder):
    return {os.path.basename(path): Record(path) for path in sorted(glob.glob(folder + "/*.h5"))}


def record(folder, pattern):
    (path,) = glob.glob(f"{folder}/{pattern}")
    return Record(path)


TABLES = {
    "steps": [("rank", "i4"), ("step", "i8"), ("samples", "i4"), ("used", "i8"), ("seconds", "f8"), ("loss", "f4"),
              ("compute_s", "f4"), ("communication_s", "f4")],
    "snapshots": [("used", "i8"), ("seconds", "f8"), ("version_min", "i8"), ("version_max", "i8"), ("test_loss", "f8"),
                  ("test_correct", "i8"), ("test_count", "i8")],
    "ranks": [("rank", "i4"), ("server", "u1"), ("steps", "i8"), ("samples", "i8"), ("total_s", "f8"), ("compute_s", "f8"),
              ("communication_s", "f8"), ("wait_s", "f8"), ("snapshot_s", "f8"), ("bytes_sent", "i8"), ("bytes_received", "i8"),
              ("messages", "i8"), ("synchronisations", "i8"), ("compression_s", "f8"), ("share", "f8")],
    "staleness": [("shard", "i4"), ("tau", "i8"), ("count", "i8")],
    "requests": [("shard", "i4"), ("worker", "i4"), ("kind", "u1"), ("version", "i8"), ("samples", "i8"), ("position", "i8")],
}
TEXT, FLOAT, INTEGER = "text", "f8", "i8"
ATTRIBUTES = {
    "/": {"schema": INTEGER, "name": TEXT, "id": TEXT, "title": TEXT, "outcome": TEXT, "outcome_detail": TEXT, "engine": TEXT},
    "provenance": {**dict.fromkeys(["commit", "dirty", "compiler", "build_type", "flags", "mpi", "collectives", "hdf5", "device_library", "host",
                                    "cpu", "instruction_set", "started", "ended", "plan", "plan_sha256", "dataset_files", "dataset_sha256"], TEXT),
                   "cores": INTEGER, "ranks": INTEGER, "threads": INTEGER},
    "result": {**dict.fromkeys(["seconds", "setup_s", "scoring_s", "first_loss", "last_loss", "chance"], FLOAT),
               **dict.fromkeys(["samples", "updates", "synchronisations", "unapplied_samples", "lost_samples", "parameters", "sample_uses_min",
                                "sample_uses_max"], INTEGER),
               "weights_sha256": TEXT},
}


def kind(dtype):
    text = h5py.check_string_dtype(dtype)
    if text is None:
        return dtype.str.lstrip("<|")
    return TEXT if text.encoding == "utf-8" and text.length is None else f"text of another kind: {text}"


def strategy_parameters():
    parameters, name = {}, None
    for line in dsgd("list", "strategies").stdout.splitlines():
        if re.match(r"  \S", line):
            name = line.split()[0]
            parameters[name] = set()
        elif match := re.match(r" {6}(\w+) {2,}\S", line):  # padded to a column
            parameters[name].add(match[1])
    return parameters


class RecordChecks:
    """What results/README.md says of a complete record."""

    def assert_schema(self, r):
        for place, expected in ATTRIBUTES.items():
            self.assertEqual(expected, {name: kind(t) for name, t in r.types[place].items() if name != "history"}, place)
        self.assertEqual({"config", "effective", "provenance", "result"}, set(r.groups))
        served = r.config["strategy"] in SERVED
        self.assertEqual(set(TABLES) - (set() if served else {"staleness", "requests"}), set(r.tables))
        for name, table in r.tables.items():
            self.assertEqual({field: np.dtype(t) for field, t in TABLES[name]},
                             {field: table.dtype[field] for field in table.dtype.names}, name)
        own = {"strategy." + key for key in strategy_parameters()[r.config["strategy"]]}
        run_keys = {key for key in re.findall(r"^ {6}(\S+) ", dsgd("list", "keys").stdout, re.M)
                    if key not in ("base", "together") and not key.startswith("cluster.")}  # of experiments, of simulated runs
        self.assertGreater(len(run_keys), 20)
        self.assertEqual(run_keys | own | {"strategy", "text"}, set(r.config))
        self.assertLessEqual({kind(t) for t in r.types["config"].values()}, {TEXT, FLOAT, INTEGER, "u1"})
        self.assertEqual({FLOAT}, {kind(t) for t in r.types["effective"].values()})
        self.assertIn("global_minibatch", r.groups["effective"])

        self.assertEqual(1, r["schema"])
        self.assertEqual("mpi", r["engine"])
        self.assertEqual(os.path.basename(r.path), r["name"] + ".h5")
        self.assertEqual(f"{r.config['strategy']}-{r.config['workers']}w-seed{r.config['seed']}-{r['id']}", r["name"])
        provenance = r.groups["provenance"]
        self.assertEqual([], [key for key, value in provenance.items() if value == ""])
        started, ended = (datetime.datetime.strptime(provenance[key], "%Y-%m-%dT%H:%M:%SZ") for key in ("started", "ended"))
        self.assertLessEqual(started, ended)
        self.assertIn(provenance["dirty"], ("true", "false"))
        self.assertIn(provenance["commit"], dsgd("--version").stdout)
        self.assertIn(provenance["cores"], (os.cpu_count(), len(os.sched_getaffinity(0))))
        self.assertEqual(len(r.tables["ranks"]), provenance["ranks"])

    def assert_consistent(self, r, test_count):
        """What must hold between the numbers of a run that ended well."""
        steps, snapshots, rows, result = r.tables["steps"], r.tables["snapshots"], r.tables["ranks"], r.result
        workers, budget, minibatch = int(r.config["workers"]), r.config["samples"], r.config["minibatch"]
        self.assertEqual("ok", r["outcome"])
        served = r.config["strategy"] in SERVED

        self.assertEqual([0] * workers + [1] * int(served and r.config["servers"]), list(rows["server"]))
        self.assertEqual(list(range(len(rows))), list(rows["rank"]))
        self.assertEqual(budget, result["samples"] + result["unapplied_samples"])
        self.assertEqual(budget, rows["samples"].sum())
        self.assertEqual(budget, steps["samples"].sum())
        self.assertLessEqual(steps["samples"].max(), minibatch)
        self.assertTrue(np.isfinite(steps["loss"]).all())
        self.assertLess(result["last_loss"], result["first_loss"])
        self.assertRegex(result["weights_sha256"], "^[0-9a-f]{64}$")
        for rank in range(workers):
            own, row = steps[steps["rank"] == rank], rows[rank]
            self.assertEqual(list(range(row["steps"])), list(own["step"]))
            self.assertEqual(row["samples"], own["samples"].sum())
            self.assertTrue((np.diff(own["seconds"]) >= 0).all())
            # Between pulls a worker takes the others for as fast as itself; then it hears what they did.
            periods = [int(r.config.get(f"strategy.{key}", 1)) for key in ("tau", "n_fetch")] if served else [0]
            self.assertGreaterEqual(np.diff(own["used"]).min(initial=0), -(workers - 1) * max(periods) * minibatch)
            self.assertLessEqual(own["seconds"][-1], result["seconds"])
            self.assertAlmostEqual(row["compute_s"], own["compute_s"].sum(dtype=float), delta=1e-3 + 0.01 * row["compute_s"])
            parts = row["compute_s"] + row["communication_s"] + row["wait_s"] + row["snapshot_s"]
            self.assertLessEqual(parts, row["total_s"] * 1.01 + 0.002)

        self.assertEqual(r.config["snapshots"] + 2, len(snapshots))
        self.assertEqual((0, 0), (snapshots["used"][0], snapshots["version_max"][0]))
        self.assertEqual(result["samples"], snapshots["used"][-1])
        self.assertTrue((snapshots["test_count"] == test_count).all())
        self.assertTrue((snapshots["test_correct"] <= test_count).all() and (snapshots["test_correct"] >= 0).all())
        self.assertTrue((snapshots["version_min"] <= snapshots["version_max"]).all())
        for field in ("used", "seconds", "version_min"):
            self.assertTrue((np.diff(snapshots[field]) >= 0).all(), field)
        due = budget * np.arange(len(snapshots) - 1) // (len(snapshots) - 1)
        self.assertTrue((snapshots["used"][:-1] >= due).all(), "a snapshot was taken early")

        if served:
            for shard in range(r.config["servers"]):
                own = r.tables["staleness"][r.tables["staleness"]["shard"] == shard]
                arrivals = own["count"].sum()
                tau = r.config.get("strategy.tau", 1)  # every step pushes a gradient, every period and the end a difference
                if r.config["strategy"] == "sandblaster":  # a push for every portion, here of a minibatch
                    self.assertEqual(budget // minibatch, arrivals)
                else:
                    self.assertEqual((-(-rows["steps"][:workers] // tau)).sum(), arrivals)
                self.assertTrue((own["count"] > 0).all() and (own["tau"] >= 0).all())
            if "staleness_bound" in r.groups["effective"]:
                self.assertLessEqual(r.tables["staleness"]["tau"].max(), r.groups["effective"]["staleness_bound"])
            c = r.config.get("strategy.batch", 0) // minibatch or max(1, workers // r.config.get("strategy.n", workers))
            self.assertEqual(arrivals // c, result["updates"])
        elif r.config["strategy"] == "sync":
            n = result["parameters"]
            self.assertEqual(2 * (workers - 1) / workers * 4 * n * rows["steps"][0], rows["bytes_sent"][0])
            self.assertEqual(rows["steps"][0], result["updates"])


def table_rows(text):
    """Rows of a printed table by (strategy, workers), each a dictionary by heading."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("strategy "))
    headings = re.split(r"  +", lines[at])
    rows = {}
    for line in lines[at + 1:]:
        cells = re.split(r"  +", line)
        if len(cells) != len(headings):
            break
        row = dict(zip(headings, cells))
        rows[row["strategy"], int(row["workers"])] = row
    return rows


# ---- tests


class SweepOnRealImages(unittest.TestCase, RecordChecks):
    """The shipped quickstart with a small budget: LeNet on Fashion-MNIST."""

    @classmethod
    def setUpClass(cls):
        cls.out = tempfile.mkdtemp(dir=scratch)
        cls.words = ["sweep", "quickstart", "-o", cls.out, "--set", "seed=1", "--set", "samples=2400", "--set", "snapshots=1",
                     "--set", "target=0.3"]
        cls.sweep = dsgd(*cls.words)
        cls.records = records(cls.out)

    def test_first_start(self):
        wanted = {(strategy, workers) for strategy in QUICKSTART for workers in (1, 2)}
        self.assertEqual(wanted, {(r.config["strategy"], r.config["workers"]) for r in self.records.values()})
        self.assertEqual(10, len(self.records))
        self.assertEqual([], [f for f in os.listdir(self.out) if not f.endswith(".h5") and f != ".lock"])
        self.assertEqual(wanted, set(table_rows(self.sweep.stdout)))
        self.assertIn("results: " + self.out, self.sweep.stdout)
        self.assertIn("Five strategies, LeNet on Fashion-MNIST", self.sweep.stdout)

    def test_records_follow_the_schema(self):
        for name, r in self.records.items():
            with self.subTest(name):
                self.assert_schema(r)

    def test_numbers_are_consistent(self):
        for name, r in self.records.items():
            with self.subTest(name):
                self.assert_consistent(r, test_count=10000)
                self.assertEqual((0, 1), (r.result["sample_uses_min"], r.result["sample_uses_max"]))
                self.assertEqual(4 + 1, len(r.groups["provenance"]["plan"].splitlines()))

    def test_all_start_from_the_same_weights(self):
        losses = [r.tables["snapshots"]["test_loss"][0] for r in self.records.values()]
        self.assertLess(max(losses) - min(losses), 1e-4)

    def test_all_learn(self):
        for name, r in self.records.items():
            with self.subTest(name):
                staleness = r.tables.get("staleness")
                if staleness is not None and staleness["tau"][staleness["count"] > 0].max() > 8:
                    continue  # how late gradients come is the machine's; very late ones need smaller rates
                correct = r.tables["snapshots"]["test_correct"]
                self.assertGreater(correct[-1], correct[0] + 500)

    def test_second_start_runs_nothing(self):
        before = {f: os.stat(f"{self.out}/{f}").st_mtime_ns for f in self.records}
        begun = time.monotonic()
        again = dsgd(*self.words)
        self.assertLess(time.monotonic() - begun, 5)
        self.assertEqual("10 of 10 runs are there already", again.stderr.strip())
        self.assertEqual(self.sweep.stdout, again.stdout)
        self.assertEqual(before, {f: os.stat(f"{self.out}/{f}").st_mtime_ns for f in self.records})

    def test_table_follows_its_definitions(self):
        text = dsgd("table", self.out).stdout
        self.assertIn(text, self.sweep.stdout)
        rows = table_rows(text)
        runs = {(r.config["strategy"], int(r.config["workers"])): r for r in self.records.values()}
        throughput = {key: r.result["samples"] / r.result["seconds"] for key, r in runs.items()}
        for (strategy, workers), r in runs.items():
            with self.subTest(strategy=strategy, workers=workers):
                row, snapshots = rows[strategy, workers], r.tables["snapshots"]
                self.assertEqual(f"{100 * snapshots['test_correct'][-1] / 10000:.2f}", row["test accuracy %"])
                reached = [s["seconds"] for s in snapshots if s["test_correct"] >= 3000]
                self.assertEqual(f"{reached[0]:.2f}" if reached else "0 of 1 reached", row["time to 30 % (s)"])
                self.assertEqual(f"{throughput[strategy, workers]:.0f}", row["samples/s"])
                if workers == 2:
                    speedup = throughput[strategy, 2] / throughput[strategy, 1]
                    self.assertIn(f"{speedup:.2f} weak", row["speed-up (base: 1 worker)"])
                self.assertEqual(f"{r.tables['ranks']['bytes_sent'][:workers].mean() / 1e6:.1f}", row["MB sent/worker"])
                staleness = r.tables.get("staleness")
                mean = "-" if staleness is None else f"{np.average(staleness['tau'], weights=staleness['count']):.2f}"
                self.assertEqual(mean, row["mean staleness"])
                self.assertEqual("1 ok", row["runs"])
        self.assertIn("time to 99 %", dsgd("table", self.out, "--target", "0.99").stdout)
        self.assertIn("0 of 1 reached", dsgd("table", self.out, "--target", "0.99").stdout)

    def test_show(self):
        for name, r in self.records.items():
            with self.subTest(name):
                text = dsgd("show", f"{self.out}/{name}").stdout
                for part in (r["name"], ": ok", r.result["weights_sha256"], "lenet", "global_minibatch", "snapshots", "ranks"):
                    self.assertIn(part, text)
                self.assertEqual(r.config["strategy"] in SERVED, "staleness: mean" in text)
                plan = dsgd("show", "--plan", f"{self.out}/{name}").stdout
                self.assertEqual(r.groups["provenance"]["plan"].strip(), plan.strip())


class Snapshots(Case):
    def test_copies_take_under_2_percent_of_the_clock(self):
        text = 'model = "lenet"\nminibatch = 64\nsamples = 60000\nworkers = 2\n[strategy.sync]\n[strategy.downpour]\n'
        dsgd("sweep", self.experiment(text), "-o", self.out)
        for name, r in records(self.out).items():
            with self.subTest(name):
                self.assertEqual(12, len(r.tables["snapshots"]))
                share = r.tables["ranks"]["snapshot_s"].max() / r.result["seconds"]
                self.assertTrue(0 < share < 0.02, share)
                self.assertIn(f"copied in {100 * share:.3f} % of the clock, scored in {r.result['scoring_s']:.2f} s after it",
                              dsgd("show", r.path).stdout)


class SmallSweep(Case, RecordChecks):
    """All strategies on a task of four whole epochs, with repeats and more servers than one."""

    TEXT = (SMALL + f"samples = {TRAIN * EPOCHS}\nworkers = [1, 2]\n"
            + "".join(f"[strategy.{s}]\n{SETTINGS.get(s, '')}" for s in STRATEGIES if s not in ("downpour", "eamsgd", "eamsgd_sync"))
            + "[strategy.downpour]\nservers = 2\n"
            + "".join(f"[strategy.{s}]\ndelta = 0.9\noptimizer.learning_rate = 0.01\n" for s in ("eamsgd", "eamsgd_sync")))

    def test_records(self):
        dsgd("sweep", self.experiment(self.TEXT), "-o", self.out)
        self.assertEqual(2 * len(STRATEGIES), len(self.assert_tidy()))
        made = {(r.config["strategy"], int(r.config["workers"])): r for r in records(self.out).values()}
        for (strategy, workers), r in made.items():
            with self.subTest(strategy=strategy, workers=workers):
                self.assert_consistent(r, test_count=TEST)
                uses = r.result["sample_uses_min"], r.result["sample_uses_max"]
                if strategy in ("downpour", "ssp", "easgd", "eamsgd") and workers == 2 or strategy == "sandblaster":
                    # Replicas go through their own parts at their own pace; batches are looked at more than once.
                    self.assertTrue(uses[0] <= EPOCHS <= uses[1], uses)
                else:
                    self.assertEqual((EPOCHS, EPOCHS), uses)

        # The same seed gives the same weights, to the last bit, where the order of work is fixed; the record's own text is enough.
        for strategy in LOCK_STEP:
            with self.subTest("again", strategy=strategy):
                r = made[strategy, 2]
                again = dsgd("run", self.experiment(r.config["text"], "again.toml"), "-o", self.folder + "/again").stdout
                self.assertIn(f"{r['name']}: ok", again)
                self.assertIn(r.result["weights_sha256"], again)
        # One worker that averages with nobody is serial SGD.
        self.assertEqual(made["sync", 1].result["weights_sha256"], made["averaging", 1].result["weights_sha256"])
        self.assertNotEqual(made["sync", 1].result["weights_sha256"], made["sync", 2].result["weights_sha256"])

    def test_diverging_run(self):
        text = SMALL + "samples = 2000\nworkers = [1, 2]\noptimizer.l2 = 1\n[strategy.sync]\noptimizer.learning_rate = 1e6\n"
        done = dsgd("sweep", self.experiment(text), "-o", self.out)
        self.assertEqual(2, len(re.findall(r"diverged: ", done.stderr)))
        for r in records(self.out).values():
            self.assertEqual("diverged", r["outcome"])
            self.assertNotEqual("", r["outcome_detail"])
        row = table_rows(done.stdout)["sync", 2]
        self.assertEqual(("-", "0 of 1 weak", "1 diverged"),
                         (row["samples/s"], row["speed-up (base: 1 worker)"], row["runs"]))
        self.assertNotRegex(done.stdout, r"nan|inf\b")
        self.assertIn("2 of 2 runs are there already", dsgd("sweep", self.experiment(text), "-o", self.out).stderr)

    def test_outcomes(self):
        """Against the untrained model, snapshot 0; not against the first steps, which may be the worst ones."""
        cases = {  # settings, outcome, detail
            "one good step": ("samples = 10", "ok", "training loss"),
            "learned nothing": ("samples = 10000\noptimizer.learning_rate = 1e-9", "unlearned",
                                r"test accuracy \S+ % after 10000 samples is not above chance, 10.89 %$"),
            "a timing run": ("samples = 9990\noptimizer.learning_rate = 1e-9", "ok", "training loss"),
            "better than it was, but worse than untrained": (
                "samples = 2000\noptimizer.learning_rate = 30\noptimizer.schedule = 'step'\noptimizer.schedule_samples = 100\n"
                "optimizer.schedule_factor = 0.01", "diverged", r"test loss \S+ -> \S+, worse than untrained$"),
            "the last step's weights": ("samples = 40\noptimizer.learning_rate = 1e6\noptimizer.l2 = 1e6", "diverged",
                                        "^weights of rank 0 are not finite$"),
            "a loss": ("samples = 50\noptimizer.learning_rate = 1e6\noptimizer.l2 = 1e6", "diverged",
                       "^the loss of rank 0 in step 4 is not finite$")}
        for what, (settings, outcome, detail) in cases.items():
            with self.subTest(what):
                text = SMALL.replace("optimizer.learning_rate = 0.05\n", "" if "learning_rate" in settings else "optimizer.learning_rate = 0.05\n")
                done = dsgd("run", self.experiment(text + settings + "\n[strategy.sync]\n"), "-o", f"{self.out}/{what}")
                r = record(f"{self.out}/{what}", "*.h5")
                self.assertEqual(outcome, r["outcome"], r["outcome_detail"])
                self.assertRegex(r["outcome_detail"], detail)
                self.assertEqual(11 / 101, r.result["chance"])  # labels go round
                self.assertIn(f"{r['name']}: {outcome} (", done.stdout)
        row = table_rows(dsgd("table", f"{self.out}/learned nothing").stdout)["sync", 1]
        self.assertRegex(row["test accuracy %"], r"^0 of 1 \(\S+\)$")
        self.assertRegex(row["samples/s"], r"^\d+$")

    def test_dry_run_and_lists(self):
        done = dsgd("sweep", self.experiment(self.TEXT), "-o", self.out, "--dry-run")
        self.assertEqual(2 * len(STRATEGIES), len(re.findall(r"^\w+-[12]w-seed1-[0-9a-f]{12} ", done.stdout, re.M)))
        self.assertRegex(done.stdout, f"{2 * len(STRATEGIES)} runs, about .*; results would go to " + self.out)
        self.assertFalse(os.path.exists(self.out))
        for what, expected in {"strategies": STRATEGIES, "models": ["softmax", "mlp", "dnn", "lenet", "cifar_quick", "resnet20"], "devices": ["reference"],
                               "datasets": ["mnist", "fashion-mnist", "cifar10", "cifar10-jpeg", "synthetic"],
                               "experiments": ["quickstart", *STRATEGIES], "keys": ["workers", "optimizer.learning_rate"]}.items():
            listing = dsgd("list", what).stdout
            for name in expected:
                self.assertRegex(listing, rf"(?m)^ +{name} ", what)

    def test_dry_run_says_what_a_worker_sends_and_how_long_it_takes(self):
        """softmax has 7850 parameters, and of two workers each sends 4 bytes of every one in a step: 3.14 MB in 100 steps."""
        text = self.experiment('dataset = "synthetic"\nmodel = "softmax"\nworkers = [1, 2]\nminibatch = 50\nsamples = 10000\n[strategy.sync]\n')
        sent = re.findall(r"^sync-(\d)w-.* (\S+)$", dsgd("sweep", text, "--dry-run").stdout, re.M)
        self.assertEqual([("1", "0.0"), ("2", "3.1")], sent)
        self.assertRegex(dsgd("sweep", text, "--dry-run", "--set", "samples=1000000000000").stdout, r"2 runs, about \d+ h [0-5]\d min ")

    def test_lists_no_defaults_of_what_has_none(self):
        keys = dsgd("list", "keys").stdout
        self.assertRegex(keys, r"(?m)^ +cluster\.hosts\.NAME\.count .*\(default 1\): integers")
        for name in "seconds.MODEL.MINIBATCH", "work.STRATEGY.WORKERS":
            (line,) = re.findall(rf"(?m)^ +cluster\.hosts\.NAME\.{re.escape(name)} .*$", keys)
            self.assertNotIn("default", line)

    def test_lists_what_is_damaged_and_the_users_own(self):
        folder = os.path.join(scratch, "dsgd", "clusters")
        os.makedirs(folder)
        self.addCleanup(shutil.rmtree, os.path.join(scratch, "dsgd"))
        with open(os.path.join(folder, "broken.toml"), "w") as f:
            f.write("[hosts.node]\ncuont = 2\n")
        with open(os.path.join(folder, "ethernet-10g.toml"), "w") as f:
            f.write('title = "Mine"\n[hosts.node]\ncount = 4\nspeed = 1e9\n')
        listing = dsgd("list", "clusters").stdout
        self.assertRegex(listing, r"(?m)^ +broken +not usable here: .*broken.toml:2:1: .*cuont")
        self.assertRegex(listing, r"(?m)^ +ethernet-1g ")
        (line,) = re.findall(r"(?m)^ +ethernet-10g +(.*)$", listing)  # the one that is used
        self.assertEqual(f"Mine (your own: {folder}/ethernet-10g.toml)", line)


class Faults(Case):
    RUN = SMALL + 'workers = 3\nsamples = 3000\n[cluster]\nstraggler.slowdown = 2\njitter = 0.5\n[faults]\n'

    def test_a_worker_leaves(self):
        text = self.RUN + 'leave_step = 5\nleave_worker = 1\n[strategy.sync]\n[strategy.downpour]\n[strategy.ssp]\n'
        done = dsgd("sweep", self.experiment(text), "-o", self.out, code=1)
        self.assertRegex(done.stderr, r"error: rank 1: left after step 5 \(faults.leave_step\); sync cannot go on without it")
        found = {r.config["strategy"]: r for r in records(self.out).values()}
        self.assertEqual("error", found["sync"]["outcome"])
        self.assertEqual("rank 1: left after step 5 (faults.leave_step); sync cannot go on without it", found["sync"]["outcome_detail"])
        for name in "downpour", "ssp":
            r = found[name]
            self.assertEqual("ok", r["outcome"])
            self.assertRegex(r["outcome_detail"], r"; rank 1 left after step 5, at \S+ s$")
            ((rank, step, samples, seconds),) = r.tables["departures"]
            self.assertEqual((rank, step, samples), (1, 5, 50))
            self.assertTrue(0 < seconds < r.result["seconds"])
            self.assertEqual(list(r.tables["ranks"]["steps"])[1], 5)
            self.assertEqual(3000, sum(r.result[key] for key in ("samples", "unapplied_samples", "lost_samples")))
            self.assertLessEqual(r.result["lost_samples"], 20)
            self.assertEqual([1], list(r.tables["requests"]["worker"][r.tables["requests"]["kind"] == 2]))

    def test_pushes_are_lost(self):
        dsgd("sweep", self.experiment(self.RUN + "drop = 0.25\n[strategy.downpour]\n"), "-o", self.out)
        r = record(self.out, "downpour-*.h5")
        self.assertEqual("ok", r["outcome"])
        pushes = (r.tables["requests"]["kind"] == 1).sum()
        arrived = r.tables["staleness"]["count"].sum()
        self.assertAlmostEqual(arrived / pushes, 0.75, delta=0.1)  # of 300
        self.assertEqual(r.result["lost_samples"], 3000 - r.result["samples"])
        self.assertLessEqual(r.result["samples"], arrived * 10)  # the last minibatch of an epoch is short


class BatchNorm(Case):
    TEXT = """
dataset = "synthetic"
model = "resnet20"
synthetic.shape = "3x8x8"
synthetic.train = 256
synthetic.test = 101
minibatch = 16
snapshots = 0
samples = 1280
optimizer.learning_rate = 0.02
"""

    def test_every_strategy_learns(self):
        dsgd("sweep", self.experiment(self.TEXT + "workers = 2\n" + "".join(f"[strategy.{s}]\n{SETTINGS.get(s, '')}" for s in STRATEGIES)), "-o", self.out)
        made = records(self.out)
        self.assertEqual(len(STRATEGIES), len(made))
        for name, r in made.items():
            with self.subTest(name):
                self.assertEqual("ok", r["outcome"])
                first, last = r.tables["snapshots"][[0, -1]]
                self.assertLess(first["test_correct"], 50)
                self.assertGreater(last["test_correct"], 90)

    def test_statistics_change_the_score_alone(self):
        dsgd("sweep", self.experiment(self.TEXT + "statistics_samples = [16, 20, 40, 256, 1000]\n[strategy.sync]\n"), "-o", self.out)
        made = sorted(records(self.out).values(), key=lambda r: r.config["statistics_samples"])
        self.assertEqual(1, len({r.result["weights_sha256"] for r in made}))
        losses = [r.tables["snapshots"]["test_loss"][-1] for r in made]
        self.assertEqual(4, len(set(losses[:4])))  # 20: a minibatch and a quarter of one
        self.assertEqual(losses[3], losses[4])  # there are no more samples


class StaleResults(Case):
    def test_of_another_commit(self):
        text = self.experiment(SMALL + "samples = 1000\n[strategy.sync]\n[strategy.downpour]\n")
        words = ["sweep", text, "-o", self.out]
        dsgd(*words)
        (sync,) = glob.glob(self.out + "/sync-*.h5")
        with h5py.File(sync, "r+") as file:
            file["provenance"].attrs["commit"] = "0123456789abcdef" * 2 + "01234567"
        seal(sync)
        before = {name: r.result["weights_sha256"] for name, r in records(self.out).items()}
        with open(sync, "rb") as f:
            content = f.read()

        refused = dsgd(*words, code=2)
        self.assertIn(f"1 of 2 results in {self.out} were made by another program", refused.stderr)
        self.assertIn(os.path.basename(sync) + ": commit 0123456789ab", refused.stderr)
        for option in ("--keep-stale", "--redo", "-o"):
            self.assertIn(option, refused.stderr)
        mixed = dsgd("table", self.out, code=2)
        self.assertIn("do not compare", mixed.stderr)
        self.assertIn("commit 0123456789ab", mixed.stderr)
        (option,) = re.findall(r"--[a-z-]+", mixed.stderr)
        self.assertEqual(2, len(table_rows(dsgd("table", self.out, option).stdout)))
        with open(sync, "rb") as f:
            self.assertEqual(content, f.read())

        kept = dsgd(*words, "--keep-stale")
        self.assertEqual("2 of 2 runs are there already", kept.stderr.strip())
        self.assertEqual(2, len(table_rows(kept.stdout)))
        with open(sync, "rb") as f:
            self.assertEqual(content, f.read())

        redone = dsgd(*words, "--redo")
        self.assertIn("[2/2]", redone.stderr)
        self.assertNotIn("0123456789abcdef", Record(sync).groups["provenance"]["commit"])
        self.assertEqual(before[os.path.basename(sync)], Record(sync).result["weights_sha256"])
        self.assertIn("2 of 2 runs are there already", dsgd(*words).stderr)
        self.assert_tidy()


class FinishedRuns(Case):
    """What a sweep makes of finished runs when only their reporting has changed."""

    def test_title_and_target(self):
        text = self.experiment(SMALL + "samples = 1000\ntarget = 0.2\n[strategy.sync]\n[strategy.bmuf]\n")
        dsgd("sweep", text, "-o", self.out)
        before = records(self.out)
        words = ["sweep", text, "-o", self.out, "--set", "title=Newer", "--set", "target=0.3"]
        again = dsgd(*words)
        self.assertIn("2 of 2 runs are there already", again.stderr)
        for shown in again.stdout, dsgd("table", self.out).stdout:
            self.assertIn("time to 30 % (s)", shown)
        self.assertIn("Newer\n", again.stdout)
        untimed = dsgd("table", self.out, "--target", "0").stdout
        self.assertEqual({"-"}, {row["time to target"] for row in table_rows(untimed).values()})
        after = records(self.out)
        self.assertEqual(list(before), list(after))
        for name, r in after.items():
            self.assertEqual(("Newer", "Newer", 0.3), (r["title"], r.config["title"], r.config["target"]))
            self.assertEqual(before[name].groups["provenance"], r.groups["provenance"])
            self.assertEqual(before[name].result, r.result)
        self.assert_tidy()
        content = {name: os.stat(f"{self.out}/{name}").st_mtime_ns for name in after}
        dsgd(*words)
        self.assertEqual(content, {name: os.stat(f"{self.out}/{name}").st_mtime_ns for name in after})

    def test_a_trace_is_recorded_by_another_run(self):
        text = self.experiment(SMALL + "samples = 1000\n[strategy.sync]\n")
        words = ["sweep", text, "-o", self.out]
        dsgd(*words)
        self.assertNotIn("spans", record(self.out, "*.h5").tables)
        traced = dsgd(*words, "--set", "trace=true")
        self.assertNotIn("there already", traced.stderr)
        self.assertIn("spans", record(self.out, "*.h5").tables)
        for more in [], ["--set", "trace=true"]:
            self.assertIn("1 of 1 runs are there already", dsgd(*words, *more).stderr)
        self.assertIn("spans", record(self.out, "*.h5").tables)


class BrokenRuns(Case):
    """Ranks, mpirun and dsgd itself are killed or stopped in the middle of a run."""

    KILLED = r"was ended by signal 9 \(Killed\)"

    def test_killed_and_stopped_processes(self):
        text = self.experiment(ENDLESS + "seed = [1, 2, 3]\n[strategy.sync]\n[strategy.downpour]\n[strategy.averaging]\nseed = 2\n"
                               + SHORT + "seed = [1, 3]\n")
        sweep = self.start("sweep", text, "-o", self.out)
        cases = [("sync-2w-seed1", 1, signal.SIGKILL, "error", "rank 1 " + self.KILLED),
                 ("downpour-2w-seed1", 2, signal.SIGKILL, "error", "rank 2 " + self.KILLED),  # the server
                 ("sync-2w-seed2", "mpirun", signal.SIGKILL, "error", "mpirun " + self.KILLED),
                 ("downpour-2w-seed2", "mpirun", signal.SIGKILL, "error", "mpirun " + self.KILLED),
                 ("averaging-2w-seed2", "mpirun", signal.SIGSTOP, "timeout", r"mpirun \(process {}\) is stopped"),
                 ("sync-2w-seed3", 0, signal.SIGSTOP, "timeout", r"rank 0 \(process {}\) is stopped"),
                 ("downpour-2w-seed3", 1, signal.SIGSTOP, "timeout", r"rank 1 \(process {}\) is stopped")]
        reasons, job_folders = {}, set()
        for name, victim, number, outcome, reason in cases:
            # Three seconds of training: steps have reached the disk.
            parent, children = self.training(sweep, name, seconds=3 if number == signal.SIGSTOP else 0.5)
            self.assertEqual(3 if name.startswith("downpour") else 2, len(children))
            job_folders.add(self.job_folder(parent))
            pid = parent if victim == "mpirun" else children[victim]
            os.kill(pid, number)
            reasons[name] = outcome, reason.format(pid)
            self.assert_gone([parent, *children.values()])
        out, err = sweep.communicate(timeout=PATIENCE)
        self.assertEqual([], [folder for folder in job_folders if os.path.exists(folder)])

        self.assertEqual(1, sweep.returncode, out + err)
        self.assertEqual(9, len(self.assert_tidy()))
        for name, (outcome, reason) in reasons.items():
            with self.subTest(name):
                r = record(self.out, name + "*.h5")
                self.assertEqual(outcome, r["outcome"])
                self.assertRegex(r["outcome_detail"], "^" + reason)
                self.assertRegex(err, f"{outcome}: {reason}")
                self.assertNotIn("result", r.groups)
                self.assertIn("ended", r.groups["provenance"])
                if outcome == "timeout":
                    steps = r.tables["steps"]
                    self.assertGreater(len(steps), 0, "no step had reached the disk")
                    self.assertEqual(list(range(len(steps))), list(steps["step"]))
        quick = {name: os.stat(f"{self.out}/{name}").st_mtime_ns for name in os.listdir(self.out) if name.startswith("bmuf")}
        for name in quick:
            self.assertEqual("ok", Record(f"{self.out}/{name}")["outcome"])
        rows = table_rows(out)
        self.assertEqual(["2 error, 1 timeout", "2 error, 1 timeout", "1 timeout", "2 ok"],
                         [rows[s, 2]["runs"] for s in ("sync", "downpour", "averaging", "bmuf")])

        # The next start tries again what failed and nothing else; the new record tells of the earlier attempt.
        again = dsgd("sweep", text, "-o", self.out, "--set", "seed=1", "--set", "time_limit=1", code=1)
        self.assertIn("2 of 5 runs are there already", again.stderr)
        self.assertEqual(3, len(re.findall(r"timeout: not done after 1 s \(time_limit\)", again.stderr)))
        for name in ("sync-2w-seed1", "downpour-2w-seed1"):
            r = record(self.out, name + "*.h5")
            self.assertEqual("timeout", r["outcome"])
            self.assertIn("not done after 1 s (time_limit)", r["outcome_detail"])
            self.assertRegex(r["history"], rf"^\d{{4}}-\d\d-\d\dT[\d:]+Z error: {reasons[name][1]}")
            self.assertIn("earlier attempts:\n" + r["history"], dsgd("show", r.path).stdout)
        self.assertEqual(quick, {name: os.stat(f"{self.out}/{name}").st_mtime_ns for name in quick})
        self.assertEqual(9, len(self.assert_tidy()))
        self.assertEqual({}, processes(self.folder))

    def test_killed_dsgd(self):
        for strategy in ("sync", "downpour"):
            with self.subTest(strategy):
                out = f"{self.out}-{strategy}"
                text = self.experiment(ENDLESS + SHORT + f"[strategy.{strategy}]\n[strategy.averaging]\nsamples = 4000\n")
                sweep = self.start("sweep", text, "-o", out)
                parent, children = self.training(sweep, strategy + "-2w")
                job_folder = self.job_folder(parent)
                sweep.kill()
                sweep.wait()
                (bmuf,) = glob.glob(out + "/bmuf-*.h5")
                before = os.stat(bmuf).st_mtime_ns
                # At once, while the last ranks may still be dying.
                again = dsgd("sweep", text, "-o", out, "--set", "time_limit=3", code=1)
                self.assert_gone([parent, *children.values()])
                self.assertIn("1 of 3 runs are there already", again.stderr)
                self.assertRegex(again.stderr, rf"{strategy}-2w-seed1-\w+: had been interrupted; starts again")
                self.assertEqual(before, os.stat(bmuf).st_mtime_ns)
                r = record(out, strategy + "*.h5")
                self.assertEqual("timeout", r["outcome"])
                self.assertIn("not done after 3 s (time_limit)", r["outcome_detail"])
                self.assertIn("error: interrupted: dsgd ended before the run did", r["history"])
                self.assertEqual("ok", record(out, "averaging*.h5")["outcome"])
                self.assertEqual(3, len(self.assert_tidy(out)))
                self.assertFalse(os.path.exists(job_folder))

    def test_dsgd_is_killed_and_another_experiment_follows(self):
        sweep = self.start("sweep", self.experiment(ENDLESS + "[strategy.sync]\n"), "-o", self.out)
        parent, children = self.training(sweep, "sync")
        sweep.kill()
        self.assert_gone([parent, *children.values()])
        sweep.wait()
        self.assertEqual({}, processes(self.folder))
        other = self.experiment(SMALL + "samples = 1000\n[strategy.bmuf]\n", "other.toml")
        self.assertRegex(dsgd("sweep", other, "-o", self.out).stderr,
                         r"^sync-2w-seed1-\w+: had been interrupted; recorded, for this experiment does not contain it\n")
        self.assertEqual(2, len(self.assert_tidy()))
        path = record(self.out, "sync*.h5").path
        self.assertEqual("interrupted: dsgd ended before the run did", Record(path)["outcome_detail"])

        # A result is not given up for an attempt to repeat it.
        with open(path, "rb") as f, open(path + ".part", "wb") as part:
            part.write(f.read())
        before = os.stat(path).st_mtime_ns
        self.assertRegex(dsgd("sweep", other, "-o", self.out).stderr, "had been interrupted; its earlier result stays")
        self.assertEqual(before, os.stat(path).st_mtime_ns)
        self.assert_tidy()

    def test_ctrl_c_and_the_bar(self):
        text = self.experiment(ENDLESS + "[strategy.sync]\n" + SHORT)
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(DSGD, [DSGD, "sweep", text, "-o", self.out], environment)
        self.addCleanup(os.close, terminal)
        shown = ""

        def read_until(condition, seconds):
            nonlocal shown
            end = time.monotonic() + seconds
            while time.monotonic() < end and not condition():
                if select.select([terminal], [], [], 0.1)[0]:
                    try:
                        shown += os.read(terminal, 65536).decode(errors="replace")
                    except OSError:  # the other side is closed
                        return
        read_until(lambda: re.search(r"samples/s  loss \d", shown), 60)
        self.assertRegex(shown, r"\r\x1b\[K\[1/2\] sync +2 workers seed 1 [█░]{20} +\d+ %  \d+ samples/s  loss \d")
        parent, children = mpirun(self.folder), ranks(self.folder)
        os.write(terminal, b"\x03")
        ended = []

        def exited():
            ended[:] = ended or [status for waited, status in [os.waitpid(pid, os.WNOHANG)] if waited]
            return ended
        read_until(exited, GONE_WITHIN)
        self.wait_for(exited, "end of dsgd after Ctrl-C", GONE_WITHIN)
        self.assertEqual(130, os.waitstatus_to_exitcode(ended[0]))
        self.assert_gone([parent, *children.values()])
        self.assertEqual({}, processes(self.folder))
        (name,) = self.assert_tidy()
        r = Record(f"{self.out}/{name}")
        self.assertEqual("error", r["outcome"])
        self.assertIn("interrupted by the user", r["outcome_detail"])

        # The same command goes on with the rest.
        again = dsgd("sweep", text, "-o", self.out, "--set", "time_limit=3", code=1)
        self.assertNotIn("there already", again.stderr)
        self.assertIn("interrupted by the user", Record(f"{self.out}/{name}")["history"])
        self.assertEqual("ok", record(self.out, "bmuf*.h5")["outcome"])

    def test_one_sweep_at_a_time_in_a_folder(self):
        text = self.experiment(ENDLESS + "[strategy.sync]\n")
        first = self.start("sweep", text, "-o", self.out)
        parent, children = self.training(first, "sync")
        before = sorted(os.listdir(self.out))
        second = dsgd("sweep", text, "-o", self.out, code=2)
        self.assertEqual(f"dsgd: {self.out}: another dsgd is at work in this folder; wait for it, or use another one (-o)",
                         second.stderr.strip())
        self.assertEqual(before, sorted(os.listdir(self.out)))
        self.assertEqual(children, ranks(self.folder))
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=GONE_WITHIN)
        self.assertEqual(130, first.returncode)
        self.assert_gone([parent, *children.values()])
        self.assert_tidy()

    def test_launchers_that_fail(self):
        text = self.experiment(SMALL + "samples = 1000\nworkers = 2\n[strategy.sync]\n[strategy.downpour]\n")
        for launcher, reason in {"no-such-launcher -n {ranks}": "no-such-launcher: ",
                                 "mpirun --bind-to none --oversubscribe -n 1": "1 MPI ranks?|started with 1",
                                 "false": "exit code 1"}.items():
            with self.subTest(launcher):
                done = dsgd("sweep", text, "-o", self.out, "--launcher", launcher, code=1)
                self.assertEqual(2, len(re.findall(rf"error: .*(?:{reason})", done.stderr)), done.stderr)
                self.assertEqual({"error"}, {r["outcome"] for r in records(self.out).values()})
        dsgd("sweep", text, "-o", self.out)
        self.assertEqual(3, len(record(self.out, "sync*.h5")["history"].splitlines()))
        self.assert_tidy()

    @unittest.skipIf(sanitized(os.path.dirname(DSGD)), OWN_MEMORY)
    def test_not_enough_memory(self):
        text = self.experiment('dataset = "synthetic"\nsynthetic.train = 100000000\nsynthetic.shape = "1024x32x32"\nmodel = "softmax"\n'
                               "[strategy.sync]\n")
        limit = 1 << 46  # bytes, less than the images: hosts that promise any memory refuse too
        done = subprocess.run([DSGD, "sweep", text, "-o", self.out], env=environment, capture_output=True, text=True, timeout=PATIENCE,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        self.assertEqual(1, done.returncode, done.stderr)
        self.assertIn("error: rank 0: not enough memory for data set, model and snapshots", done.stderr)
        self.assert_tidy()


class DamagedResults(Case):
    def test_damaged_files_are_made_again(self):
        text = self.experiment(SMALL + "samples = 1000\n[strategy.sync]\n")
        words = ["sweep", text, "-o", self.out]
        dsgd(*words)
        (name,) = self.assert_tidy()
        path = f"{self.out}/{name}"
        with open(path, "rb") as f:
            good = f.read()

        def zeros(first, last):
            return good[:first] + bytes(last - first) + good[last:]
        damages = {"empty": b"", "text": b"not HDF5 at all\n" * 100, "half": good[:len(good) // 2], "head": zeros(0, 4096),
                   "one bit": good[:len(good) // 2] + bytes([good[len(good) // 2] ^ 8]) + good[len(good) // 2 + 1:],
                   "groups": zeros(8192, 12288), "tables": zeros(12288, len(good))}
        for what, content in damages.items():
            with self.subTest(what, file="record"):
                with open(path, "wb") as f:
                    f.write(content)
                self.assertIn(path, dsgd("show", path, code=2).stderr)
                table = dsgd("table", self.out, code=2)
                self.assertIn(path, table.stderr)
                again = dsgd(*words)
                self.assertIn(path, again.stderr)
                self.assertIn("starts again", again.stderr)
                self.assertEqual("ok", Record(path)["outcome"])
                self.assertEqual([name], self.assert_tidy())
            with self.subTest(what, file="part"):
                os.remove(path)
                with open(path + ".part", "wb") as f:
                    f.write(content)
                again = dsgd(*words)
                self.assertIn(name[:-3] + ": had been interrupted; starts again", again.stderr)
                self.assertEqual("ok", Record(path)["outcome"])
                self.assertEqual([name], [n for n in os.listdir(self.out) if n.endswith(".h5")])
                for left in set(os.listdir(self.out)) - {name, ".lock"}:
                    self.assertEqual(name + ".damaged", left)
                    os.remove(f"{self.out}/{left}")

    def test_a_foreign_file_beside_good_ones(self):
        dsgd("sweep", self.experiment(SMALL + "samples = 1000\n[strategy.sync]\n"), "-o", self.out)
        with h5py.File(self.out + "/foreign.h5", "w") as file:
            file.attrs["schema"] = np.int64(1)
        table = dsgd("table", self.out, code=1)
        self.assertEqual(f'{self.out}/foreign.h5: damaged, or not a complete file of format "dsgd result, schema 1"',
                         table.stderr.strip())
        self.assertIn(("sync", 1), table_rows(table.stdout))
        dsgd("show", self.out + "/foreign.h5", code=2)


class Disks(Case):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("mounting a small disk needs root")
        # Mounts are seen by this process and its children alone, and go with them.
        new_namespace, private = 0x20000, 1 << 18 | 0x4000
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
            self.skipTest("no mount namespace: " + os.strerror(ctypes.get_errno()))
        os.mkdir(self.out)
        self.text = self.experiment(SMALL + "samples = 1000\nworkers = 2\n[strategy.sync]\n[strategy.downpour]\n")

    def mount(self, options, folder=None):
        folder = folder or self.out
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            self.skipTest("no tmpfs can be mounted: " + done.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", "-l", folder], stderr=subprocess.DEVNULL)

    def test_full_disk(self):
        for size in ("4k", "24k", "64k", "160k", "400k"):
            with self.subTest(size):
                self.mount("size=" + size)
                full = subprocess.run([DSGD, "sweep", self.text, "-o", self.out], env=environment, capture_output=True, text=True,
                                      timeout=PATIENCE)
                self.assertIn(full.returncode, (1, 2), full.stdout + full.stderr)
                self.assertRegex(full.stderr, re.escape(self.out) + r"/\S+: .*No space left on device")
                for r in records(self.out).values():  # under a final name, everything can be read
                    self.assertIn(r["outcome"], ("ok", "error"))
                subprocess.run(["mount", "-o", "remount,size=20m", self.out], check=True)
                dsgd("sweep", self.text, "-o", self.out)
                self.assertEqual(["ok", "ok"], [r["outcome"] for r in records(self.out).values()])
                self.assertEqual([], glob.glob(self.out + "/*.part*"))
                subprocess.run(["umount", self.out], check=True)
                self.assertEqual({}, processes(self.folder))

    def test_small_shared_memory(self):
        for size in ("64k", "8m"):
            self.mount("size=" + size, "/dev/shm")
            dsgd("sweep", self.text, "-o", self.out, "--redo")
            self.assertEqual([], os.listdir("/dev/shm"))
        self.assertRegex(dsgd("doctor").stdout, r"- +/dev/shm +\d+ of 8 MiB free\n +-> Open MPI .* set TMPDIR")

    def test_read_only_disk(self):
        self.mount("size=2m")
        dsgd("sweep", self.text, "-o", self.out)
        subprocess.run(["mount", "-o", "remount,ro", self.out], check=True)
        for folder in (self.out, self.out + "/new"):
            refused = dsgd("sweep", self.text, "-o", folder, code=2)
            self.assertRegex(refused.stderr, re.escape(folder) + r".*: Read-only file system; results need a folder that can be written to")
        self.assertEqual(2, len(table_rows(dsgd("table", self.out).stdout)))
        dsgd("show", glob.glob(self.out + "/sync*.h5")[0])


class DataFiles(Case):
    TRAIN, TEST = 60, 20
    NAMES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}

    def setUp(self):
        super().setUp()
        self.data = self.folder + "/data/fashion-mnist"
        self.text = self.experiment('model = "softmax"\nminibatch = 10\nsamples = 100\nworkers = 2\nsnapshots = 0\n[strategy.sync]\n')
        self.write_all()

    def write_all(self):
        os.makedirs(self.data, exist_ok=True)
        random = np.random.default_rng(1)
        for part, count in ("train", self.TRAIN), ("test", self.TEST):
            images, labels = self.NAMES[part]
            self.write(images, struct.pack(">4I", 0x803, count, 28, 28) + random.bytes(count * 784))
            self.write(labels, struct.pack(">2I", 0x801, count) + bytes(i % 10 for i in range(count)))

    def write(self, name, content):
        with open(f"{self.data}/{name}", "wb") as f:
            f.write(content)

    def read(self, name):
        with open(f"{self.data}/{name}", "rb") as f:
            return f.read()

    def test_good_files(self):
        self.text = self.experiment('model = "softmax"\nminibatch = 10\nsamples = 3000\nsnapshots = 0\n[strategy.sync]\n')
        dsgd("sweep", self.text, "-o", self.out, "--data-dir", self.folder + "/data")
        r = record(self.out, "*.h5")
        self.assertEqual(self.TEST, r.tables["snapshots"]["test_count"][0])
        self.assertEqual(50, r.result["sample_uses_max"])

    def test_damaged_files(self):
        images, labels = self.NAMES["train"]
        test_images, test_labels = self.NAMES["test"]
        size = self.TRAIN * 784
        zipped = bytearray(gzip.compress(self.read(images), mtime=0))
        zipped[len(zipped) // 2] ^= 0xff
        cases = {  # file, its damaged content, where, what is expected there
            "wrong magic": (images, struct.pack(">I", 0x801) + self.read(images)[4:], "byte 0", "expected the magic number 00000803"),
            "wrong size": (images, self.read(images)[:8] + struct.pack(">I", 27) + self.read(images)[12:], "byte 8", "expected 28 rows"),
            "empty": (test_labels, b"", "byte 0", "expected an IDX header of 8 bytes, found the end"),
            "truncated": (images, self.read(images)[:-100], f"byte {16 + size - 100}", f"expected the {size} bytes"),
            "trailing bytes": (test_images, self.read(test_images) + b"x", f"byte {16 + self.TEST * 784}", "expected the end of the file"),
            "label out of range": (labels, self.read(labels)[:8 + 7] + b"\x0b" + self.read(labels)[8 + 8:], "byte 15",
                                   "expected a label from 0 to 9, found 11"),
            "other count": (labels, struct.pack(">2I", 0x801, 59) + self.read(labels)[8:-1], "byte 4", "expected 60 labels"),
            "huge count": (images, struct.pack(">2I", 0x803, 0xffffffff) + self.read(images)[8:], f"byte {16 + size}", "expected the"),
            # Of these there is no content that would tell the run's id.
            "gzip damage": (images + ".gz", bytes(zipped), r"byte \d+ of the (de)?compressed", "expected"),
            "gzip cut": (images + ".gz", gzip.compress(self.read(images))[:-1000], r"byte \d+ of the compressed",
                         "expected more gzip data"),
        }
        for what, (name, content, place, expectation) in cases.items():
            with self.subTest(what):
                self.write_all()
                if name.endswith(".gz"):
                    os.remove(f"{self.data}/{name[:-3]}")
                self.write(name, content)
                packed = name.endswith(".gz")
                done = dsgd("sweep", self.text, "-o", self.out, "--data-dir", self.folder + "/data", code=2 if packed else 1)
                message = rf"{re.escape(self.data)}/{name}: {place}.*: {expectation}"
                self.assertEqual(1, len(re.findall(message, done.stderr)), done.stderr)
                if packed:
                    self.assertIn("dsgd data fetch fashion-mnist", done.stderr)
                    self.assertFalse(os.path.exists(self.out))
                    os.remove(f"{self.data}/{name}")
                    continue
                r = record(self.out, "*.h5")
                self.assertEqual("error", r["outcome"])
                self.assertRegex(r["outcome_detail"], r"^rank \d: " + message)
                self.assertIn("dsgd data fetch fashion-mnist", r["outcome_detail"])
                shutil.rmtree(self.out)
                os.remove(f"{self.data}/{name}")

    def other_labels(self):
        """A folder with other labels under the same names."""
        other = self.folder + "/other"
        shutil.copytree(self.data, other + "/fashion-mnist")
        labels = self.NAMES["train"][1]
        with open(f"{other}/fashion-mnist/{labels}", "wb") as f:
            f.write(self.read(labels)[:8] + bytes((i + 1) % 10 for i in range(self.TRAIN)))
        return other

    def test_other_labels_are_another_run(self):
        words = "sweep", self.text, "-o", self.out, "--data-dir"
        dsgd(*words, self.folder + "/data")
        other = self.other_labels()
        again = dsgd(*words, other)
        self.assertNotIn("there already", again.stderr)
        found = sorted(records(self.out).values(), key=lambda r: r["id"])
        self.assertEqual(2, len({r["id"] for r in found}))
        self.assertEqual(2, len({r.result["weights_sha256"] for r in found}))
        for r in found:
            provenance = r.groups["provenance"]
            sums = subprocess.run(["sha256sum", *(name for part in ("train", "test") for name in self.NAMES[part])], capture_output=True,
                                  cwd=self.data if provenance["dataset_files"].split()[2] == self.sum_of_labels() else other + "/fashion-mnist",
                                  check=True).stdout
            self.assertEqual(sums.decode(), provenance["dataset_files"])
            self.assertEqual(hashlib.sha256(sums).hexdigest(), provenance["dataset_sha256"])
            self.assertEqual(provenance["dataset_sha256"], r.config["dataset_sha256"])
            self.assertIn(f'dataset_sha256 = "{r.config["dataset_sha256"]}"\n', r.config["text"])
        rows = [line for line in dsgd("table", self.out).stdout.splitlines() if line.startswith("sync")]
        self.assertEqual({f"sync dataset_sha256={r.config['dataset_sha256'][:12]}" for r in found}, {row.split("  ")[0] for row in rows})
        self.assertIn("1 of 1 runs are there already", dsgd(*words, other).stderr)
        # The published content adds nothing.
        ids = re.findall(r"^sync-2w-seed1-(\w+)", dsgd("sweep", self.text, "--dry-run").stdout, re.M)
        self.assertFalse(set(ids) & {r["id"] for r in found})

    def sum_of_labels(self):
        return hashlib.sha256(self.read(self.NAMES["train"][1])).hexdigest()

    def test_ranks_compare_the_content(self):
        """One of the hosts has other files."""
        other, data = self.other_labels(), self.folder + "/data"
        launcher = f"mpirun -n {{ranks}} --oversubscribe --bind-to none env DSGD_DATA={other}"
        environment["DSGD_DATA"] = data
        self.addCleanup(environment.pop, "DSGD_DATA")
        dsgd("sweep", self.text, "-o", self.out, "--launcher", launcher, code=1)
        r = record(self.out, "*.h5")
        self.assertEqual("error", r["outcome"])
        self.assertRegex(r["outcome_detail"], rf"^rank \d: {other}/fashion-mnist: data set fashion-mnist is \w{{64}} there, and "
                         r"\w{64} in this run \(expected: the same files on all hosts\)")
        dsgd("sweep", self.text, "-o", self.out)
        r = record(self.out, "*.h5")
        self.assertEqual("ok", r["outcome"])
        refused = dsgd("replay", r.path, "--data-dir", other, code=2)
        self.assertIn(f"and {r.config['dataset_sha256']} in this run", refused.stderr)

    def test_ids_are_open_without_data(self):
        text = self.experiment('dataset = "mnist"\nmodel = "softmax"\n[strategy.sync]\n', "mnist.toml")
        done = dsgd("sweep", text, "--dry-run", "--data-dir", self.folder)
        self.assertIn("ids are open: data set mnist is not here", done.stdout)
        self.assertNotIn("ids are open", dsgd("sweep", self.text, "--dry-run", "--data-dir", self.folder + "/data").stdout)

    def test_content_can_be_asked_for(self):
        done = dsgd("sweep", self.text, "-o", self.out, "--data-dir", self.folder + "/data", "--set", "dataset_sha256=" + 64 * "0", code=2)
        self.assertRegex(done.stderr, rf"dataset_sha256: fashion-mnist is \w{{64}} here \(allowed: {64 * '0'}\)")

    def test_missing_data(self):
        os.remove(f"{self.data}/{self.NAMES['test'][1]}")
        text = self.experiment('dataset = "mnist"\nmodel = "softmax"\n[strategy.sync]\n')
        folder = self.folder + "/data"
        for data_dir, place, why in ((folder, folder + "/mnist", "no such folder"),
                                     (self.data, self.data, "1 of 4 files missing, t10k-labels-idx1-ubyte")):
            with self.subTest(why):
                done = dsgd("sweep", text, "-o", self.out, "--data-dir", data_dir, code=2)
                self.assertIn("data set mnist was not found", done.stderr)
                self.assertIn("dsgd data fetch mnist", done.stderr)
                self.assertIn(f"{place}: {why}", done.stderr)
                self.assertIn("/usr/share/datasets/mnist: ", done.stderr)
                self.assertFalse(os.path.exists(self.out))


class Mistakes(Case):
    """Wrong keys, values and options: exit code 2 and a message that helps, before anything is started."""

    def refused(self, *words, expect):
        done = dsgd(*words, code=2)
        for text in [expect] if isinstance(expect, str) else expect:
            self.assertIn(text, done.stderr)
        self.assertEqual("", done.stdout)
        self.assertFalse(os.path.exists(self.out))
        self.assertNotIn("terminate called", done.stderr)
        return done.stderr

    def test_keys_on_the_command_line(self):
        for setting, expect in {
            "workerss=2": ["--set workerss=2: workerss: unknown key", "workers"],
            "optimizer.learning_rte=1": ["unknown key", "optimizer.learning_rate"],
            "workers=0": ["--set workers=0: workers: ", "(allowed: "],
            "workers=two": ["workers: ", "(allowed: "],
            "workers=1.5": ["workers: ", "(allowed: "],
            "model=lenett": ["model: ", "lenet", "(allowed: "],
            "dataset=imagenet": ["dataset: ", "fashion-mnist"],
            "engine=carrier-pigeon": ["engine: ", "mpi"],
            "optimizer.rule=adm": ["optimizer.rule: ", "adam"],
            "minibatch=[8,8]": ["minibatch: ", "duplicate"],
            "seed=[]": ["seed: ", "empty array"],
            "seed": ["--set seed: ", "KEY=VALUE"],
            "strategy.synk.minibatch=8": ["strategy.synk: unknown strategy", "sync"],
            "strategy.averaging.tau=0": ["strategy.averaging.tau: ", "(allowed: "],
            "target=2": ["target: ", "(allowed: "],
            "samples=1": ["samples", "minibatch"],
        }.items():
            with self.subTest(setting):
                self.refused("sweep", "quickstart", "-o", self.out, "--set", setting, expect=expect)

    def test_all_mistakes_of_a_file_at_once(self):
        text = self.experiment('modell = "lenet"\nworkers = [1, 0]\n[strategy.sync]\ntau = 3\n[strategy.boguss]\n')
        message = self.refused("sweep", text, "-o", self.out,
                               expect=[f"{text}:1:1: modell: unknown key", f"{text}:2:15: workers: ", f"{text}:4:1: strategy.sync.tau: ",
                                       "strategy.boguss: unknown strategy"])
        self.assertEqual(4, len(message.strip().splitlines()))

    def test_files(self):
        syntax = self.experiment('model = "lenet\n[strategy.sync]\n', "syntax.toml")
        empty = self.experiment("", "empty.toml")
        self.refused("sweep", syntax, "-o", self.out, expect=f"{syntax}:1:")
        self.refused("sweep", empty, "-o", self.out, expect="strategy: there is none")
        self.refused("sweep", self.folder, "-o", self.out, expect=self.folder + ": is a folder (allowed: a TOML file")
        self.refused("sweep", "quickstat", "-o", self.out, expect=["quickstat: no such file or shipped experiment", "quickstart"])
        self.refused("run", "quickstart", "-o", self.out, expect=["is 30 runs, not one", "dsgd sweep", "--set"])
        self.refused("table", self.out, expect=self.out + ": no such folder")
        self.refused("show", self.out + "/x.h5", expect=[self.out + "/x.h5: cannot be opened", "No such file"])
        self.refused("show", self.folder, expect=self.folder + ": expected a file, found a folder")
        self.refused("show", "/dev/zero", expect="/dev/zero: expected a file, found a folder, device or pipe")
        for data_dir in self.out, empty:
            self.refused("sweep", "quickstart", "-o", self.out, "--data-dir", data_dir, expect=["dsgd sweep: --data-dir: ", data_dir])
        os.mkdir(self.folder + "/none")
        self.refused("table", self.folder + "/none", expect="no result files")
        self.refused("sweep", "quickstart", "-o", syntax + "/out", expect=syntax + "/out: Not a directory")

    def test_lists_strategies_by_papers_names(self):
        found = dsgd("list", "strategies", "sasgd").stdout
        self.assertTrue(found.startswith('  SASGD: staleness_aware with n = "workers"\n'), found)
        self.assertEqual(["staleness_aware"], re.findall(r"(?m)^  (\w+)  ", found))
        self.assertEqual(["easgd", "eamsgd", "easgd_sync", "eamsgd_sync"],
                         re.findall(r"(?m)^  (\w+)  ", dsgd("list", "strategies", "lecun").stdout))
        self.refused("list", "strategies", "sasdg", expect="list strategies sasdg: no strategy has this name or paper, did you mean sasgd?")
        self.refused("list", "models", "lenet", expect="list models lenet: one word too many")
        self.assertIn('minibatch = "256 / workers"', dsgd("list", "keys").stdout)

    def test_options(self):
        commands = "(allowed: run, sweep, table, plot, list, show, replay, trace, calibrate, data, doctor; dsgd --help explains them)"
        for words, expect in [([], [commands, "dsgd sweep quickstart --dry-run"]),
                              (["swep", "quickstart"], ["dsgd: swep: unknown command, did you mean sweep?", commands]),
                              (["--dry-run", "sweep"], "dsgd: --dry-run: unknown option (allowed: --help, --version"),
                              (["sweep"], "dsgd sweep: experiment is required"),
                              (["sweep", "quickstart", "--sett", "a=1"], "dsgd sweep: --sett: unknown option, did you mean --set? (allowed: "),
                              (["sweep", "quickstart", "-o"], "dsgd sweep: --out: 1 required"),
                              (["sweep", "quickstart", "sync"], "dsgd sweep: sync: one word too many"),
                              (["list", "strategy"], "strategies"), (["show"], "dsgd show: file is required"),
                              (["data"], "dsgd data: a command is missing (allowed: fetch, check"),
                              (["data", "ftch"], "dsgd data: ftch: unknown command, did you mean fetch?"),
                              (["data", "check", "mnst"], "mnst")]:
            with self.subTest(words):
                message = self.refused(*words, expect=expect)
                self.assertTrue("a command is missing" in message or message.count("\n") == 1, message)
        with open("/dev/full", "w") as full:
            done = subprocess.run([DSGD, "list", "keys"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(2, done.returncode)
        self.assertRegex(done.stderr, "^dsgd: [^\n]*No space left on device\n$")
        for target in "high", "85", "-1", "nan":
            self.refused("table", "a", "--target", target, expect="dsgd table: --target: expected a number from 0 to 1, got " + target)
        self.assertIn("dsgd sweep quickstart", dsgd("--help").stdout)
        self.assertRegex(dsgd("--version").stdout, r"^dsgd \d+\.\d+\.\d+, commit \w+")


class Doctor(unittest.TestCase):
    """`dsgd doctor` says what is there, and what an ordinary run lacks."""

    @staticmethod
    def topics(report):
        return {line[9:].split("  ")[0].strip() for line in report.splitlines() if line[:2] in ("ok", "- ", "MI")}

    def test_says_what_is_there(self):
        report = dsgd("doctor").stdout
        self.assertLessEqual({"program", "processor", "/dev/shm", "MPI", "launcher", "ranks", "device reference",
                              "device cpu", "GPU driver", "simulator", "HDF5", "data fashion-mnist", "data mnist",
                              "downloads", "plots"}, self.topics(report))
        self.assertRegex(report, r"ok +ranks +rank 0: host \S+, cores \d")
        self.assertRegex(report, r"ok +ranks +rank 1: host \S+, cores [\d,]+, shares memory with rank 0")
        self.assertRegex(report, r"a sum of 4 MiB over 2 ranks takes \d+ us")
        self.assertTrue(report.splitlines()[-1].startswith("An ordinary run (dsgd run sync) has all it needs"), report)
        self.assertNotIn("MISSING", report)

    def test_names_what_is_missing(self):
        for launcher, why in [("false -n {ranks}", "false ended with exit code 1"),
                              ("no-such-program", "no-such-program: No such file")]:
            report = dsgd("doctor", "--launcher", launcher, code=1).stdout
            self.assertRegex(report, "MISSING +ranks +.*" + why)
            self.assertIn("--launcher", report)
            self.assertEqual("An ordinary run (dsgd run sync) lacks: ranks", report.splitlines()[-1])

    def test_starts_as_many_ranks_as_asked(self):
        report = dsgd("doctor", "--ranks", "3").stdout
        self.assertEqual(3, len(re.findall(r"ranks +rank \d:", report)))
        self.assertIn("over 3 ranks", report)


class Progress(Case):
    def test_plain_lines_without_a_terminal(self):
        text = self.experiment(SMALL + "samples = 1000\nseed = [1, 2]\n[strategy.sync]\n[strategy.downpour]\n")
        done = dsgd("sweep", text, "-o", self.out)
        self.assertNotRegex(done.stderr, r"[\r\x1b█░]")
        # Seeds are interleaved across strategies.
        runs = [(number, strategy, seed) for seed in (1, 2) for number, strategy in ((2 * seed - 1, "sync"), (2 * seed, "downpour"))]
        lines = done.stderr.splitlines()
        self.assertEqual(8, len(lines), done.stderr)
        for i, (number, strategy, seed) in enumerate(runs):
            self.assertRegex(lines[2 * i], rf"^\[{number}/4\] {strategy} +1 worker  seed {seed} \.\.\.$")
            self.assertRegex(lines[2 * i + 1], rf"^\[{number}/4\] {strategy} +1 worker  seed {seed} ok: training loss [\d.]+ -> [\d.]+")

    def test_one_run(self):
        text = self.experiment(SMALL + "samples = 1000\nworkers = 2\n[strategy.sync]\n")
        done = dsgd("run", text, "-o", self.out)
        (name,) = self.assert_tidy()
        self.assertIn(name[:-3] + ": ok (training loss", done.stdout)
        self.assertEqual(dsgd("show", f"{self.out}/{name}").stdout.split("results: ")[0], done.stdout.split("results: ")[0])


if __name__ == "__main__":
    if not os.access(DSGD, os.X_OK):
        sys.exit(f"{DSGD}: no such program; set DSGD_BUILD to the build folder")
    unittest.main()
