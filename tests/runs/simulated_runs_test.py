#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Simulated runs, as a user makes them: the same results to the last bit, today and against the transcripts in tests/golden.

    DSGD_BUILD=build /usr/bin/python3 tests/runs/simulated_runs_test.py -v
    DSGD_BUILD=build /usr/bin/python3 tests/runs/simulated_runs_test.py --regenerate     # writes the transcripts anew
"""
import contextlib
import glob
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))
from result_files import seal
from sanitizers import OWN_MEMORY, sanitized

BUILD = os.path.abspath(os.environ.get("DSGD_BUILD", "build"))
DSGD, SIM = f"{BUILD}/dsgd", f"{BUILD}/dsgd-sim"
GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
PATIENCE = 1440 if sanitized(BUILD) else 240  # seconds; simulated ranks are threads there

# Every number of the cluster takes part. A gradient takes about as long as its messages.
TINY = """
title = "Tiny"
engine = "simulated"
device = "reference"
dataset = "synthetic"
model = "softmax"
synthetic.shape = "1x8x8"
synthetic.train = 500
synthetic.test = 101
workers = 3
servers = 2
minibatch = 10
samples = 1205
snapshots = 3
optimizer.learning_rate = 0.05

[cluster]
name = ""
backbone.latency = 1e-5
backbone.bandwidth = 4e6
jitter = 0.2
straggler.workers = 2
straggler.share = 0.25
straggler.slowdown = 3
server.rate = 1e6
server.hosts = "fast"
round = 2e-4
[cluster.hosts.fast]
count = 4
speed = 1e8
efficiency = 0.25
bandwidth = 1e7
latency = 2e-5
[cluster.hosts.slow]
count = 2
seconds.softmax.10 = 2e-3
bandwidth = 2e6
latency = 5e-5
"""
DATES = ("started", "ended")


def dsgd(*words, code=0):
    done = subprocess.run([DSGD, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != code:
        raise AssertionError(f"exit code {done.returncode}, not {code}: dsgd {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done


def strategies():
    return re.findall(r"^  (\w+) ", dsgd("list", "strategies").stdout, re.M)


def tables(names):
    """With settings at which the tiny runs do what is special about a strategy."""
    own = {"sandblaster": "batch = 50\nportion = 2\n"}
    return "".join(f"[strategy.{name}]\n{own.get(name, '')}" for name in names)


def everything(path):
    """All attributes and tables of a result, dates apart."""
    found = {}
    with h5py.File(path) as file:
        def add(name, place):
            for key, value in place.attrs.items():
                if key not in DATES:
                    found[name, key] = str(value)
            if isinstance(place, h5py.Dataset):
                found[name, "rows"] = place[()].tobytes()
        add("/", file)
        file.visititems(add)
    return found


def transcript(path):
    with h5py.File(path) as file:
        result, lines = file["result"].attrs, []
        for row in file["snapshots"]:
            lines.append(f"{row['used']} samples  {row['seconds']:.12g} s  version {row['version_min']} to {row['version_max']}"
                         f"  test loss {row['test_loss']:.9g}  correct {row['test_correct']}")
        for row in file["ranks"]:
            lines.append(f"rank {row['rank']}  {row['steps']} steps  {row['samples']} samples  compute {row['compute_s']:.12g} s"
                         f"  sent {row['bytes_sent']} bytes in {row['messages']} messages")
        if "staleness" in file:
            lines.append("staleness " + "  ".join(f"{s['shard']}:{s['tau']}:{s['count']}" for s in file["staleness"]))
        lines.append(f"{result['seconds']:.12g} s  loss {result['first_loss']:.9g} to {result['last_loss']:.9g}")
        lines.append(f"weights {result['weights_sha256']}")
    return "\n".join(lines) + "\n"


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dsgd-")
        self.addCleanup(shutil.rmtree, self.folder)

    def sweep(self, text, out="out", code=0, options=()):
        """The results by name, and what was printed."""
        with open(f"{self.folder}/x.toml", "w") as f:
            f.write(text)
        done = dsgd("sweep", f"{self.folder}/x.toml", "-o", f"{self.folder}/{out}", *options, code=code)
        folder = f"{self.folder}/{out}"
        return {name.rsplit("-", 1)[0]: f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(".h5")}, done

    def result(self, path, key):
        with h5py.File(path) as file:
            return file["result"].attrs[key]


class Golden(Case):
    def test_transcripts(self):
        """Where these differ for a good reason, --regenerate and say the reason in the commit."""
        names = [name.removesuffix(".txt") for name in sorted(os.listdir(GOLDEN))]
        self.assertGreaterEqual(len(names), 5)
        results, _ = self.sweep(TINY + tables(names))
        for name in names:
            with self.subTest(name):
                with open(f"{GOLDEN}/{name}.txt") as f:
                    self.assertEqual(f.read(), transcript(results[f"{name}-3w-seed1"]))

    def regenerate(self):
        os.makedirs(GOLDEN, exist_ok=True)
        names = strategies()
        results, _ = self.sweep(TINY + tables(names))
        for name in names:
            with open(f"{GOLDEN}/{name}.txt", "w") as f:
                f.write(transcript(results[f"{name}-3w-seed1"]))


class Repeating(Case):
    def test_the_same_seed_gives_the_same_file(self):
        text = TINY + tables(strategies())
        first, second = (self.sweep(text, out)[0] for out in ("a", "b"))
        self.assertEqual(first.keys(), second.keys())
        for name in first:
            with self.subTest(name):
                one, other = everything(first[name]), everything(second[name])
                self.assertGreater(len(one), 60)
                self.assertEqual([place for place in one if one[place] != other.get(place)], [])
                self.assertEqual(one.keys(), other.keys())

    def test_another_seed_gives_other_seconds_and_weights(self):
        results, _ = self.sweep(TINY + "[strategy.downpour]\nseed = [1, 2]\n")
        one, other = results.values()
        for key in ("seconds", "weights_sha256"):
            self.assertNotEqual(self.result(one, key), self.result(other, key))


class Augmenting(Case):
    def test_images_change_in_every_epoch(self):
        """At a rate of 0 the weights stay, so that the loss over an epoch changes with the images alone."""
        text = TimeModel.FAST.replace("workers = 3", "workers = 1").replace("learning_rate = 0.05", "learning_rate = 0")
        self.sweep('augment = ["none", "crop_flip"]\n' + text + "[strategy.sync]\n")
        changes = {}
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                first, second = file["steps"]["loss"].astype(float).reshape(2, 60).mean(axis=1)
                changes[file["config"].attrs["augment"]] = abs(second - first)
        self.assertLess(changes["none"], 1e-5)
        self.assertGreater(changes["crop_flip"], 1e-4)


class Engines(Case):
    # Two workers: a sum of two is the same in whatever order.
    BOTH = TINY.replace('engine = "simulated"', 'engine = ["mpi", "simulated"]').replace("workers = 3", "workers = [1, 2]")
    BOTH = BOTH.replace("straggler.workers = 2", "straggler.workers = 1")

    def test_lock_step_strategies_end_with_the_same_weights(self):
        results, done = self.sweep(self.BOTH + "[strategy.sync]\n[strategy.averaging]\n[strategy.bmuf]\n")
        self.assertEqual(len(re.findall(r"\.h5$", "\n".join(os.listdir(f"{self.folder}/out")), re.M)), 12)
        hashes, losses, uses = {}, {}, set()
        for name in os.listdir(f"{self.folder}/out"):
            if name.endswith(".h5"):
                with h5py.File(f"{self.folder}/out/{name}") as file:
                    key = name.rsplit("-", 1)[0]
                    hashes.setdefault(key, {})[file.attrs["engine"]] = file["result"].attrs["weights_sha256"]
                    losses.setdefault(key, {})[file.attrs["engine"]] = file["snapshots"]["test_loss"]
                    uses.add(tuple(file["result"].attrs[f"sample_uses_{end}"] for end in ("min", "max")))
        for key, by_engine in hashes.items():
            self.assertEqual(by_engine["mpi"], by_engine["simulated"], key)
            np.testing.assert_allclose(losses[key]["mpi"], losses[key]["simulated"], rtol=1e-6)  # real ranks share the test set
        self.assertEqual(uses, {(2, 3)})  # 1205 of 500
        self.assertRegex(done.stdout, r"(?m)^sync +1 .*\n(.*\n)*sync \(simulated\) +1 ")
        self.assertRegex(done.stdout, r"(?m)^simulated: seconds are virtual")
        for line in done.stdout.splitlines():
            if line.startswith("sync"):
                self.assertIn("1 (base)" if re.search(r" 1 +\d", line) else "weak", line)


class Replays(Case):
    # With a model that keeps every worker busy for a while: one that is late by some milliseconds has its part.
    REAL = TINY.split("[cluster]")[0].replace('engine = "simulated"', 'engine = "mpi"')
    # A worker that comes some milliseconds late has its part: a run takes a hundred times as long as TINY's.
    REAL = REAL.replace('"softmax"', '"lenet"').replace("1x8x8", "1x28x28").replace('"reference"', '"cpu"')
    TWO_WORKERS = REAL.replace("workers = 3", "workers = 2").replace("servers = 2", "servers = 1")
    TWO_SERVERS = REAL.replace("workers = 3", "workers = 1")
    STRATEGIES = "[strategy.downpour]\nwarm_start = 100\n[strategy.staleness_aware]\nn = 2\n"

    def assert_same_weights(self, path, *options):
        done = dsgd("replay", path, *options)
        weights = self.result(path, "weights_sha256")
        self.assertRegex(done.stdout, f": the same weights\n  recorded {weights}\n  replayed {weights}\n$")
        return done

    def test_real_runs(self):
        for text, servers, workers in (self.TWO_WORKERS, 1, {0, 1}), (self.TWO_SERVERS, 2, {0}):
            results, _ = self.sweep(text + self.STRATEGIES, f"out-{servers}")
            self.assertEqual(len(results), 2)
            for name, path in results.items():
                with self.subTest(name, servers=servers), h5py.File(path) as file:
                    requests, staleness = file["requests"][:], file["staleness"][:]
                    self.assertEqual(set(requests["shard"]), set(range(servers)))
                    self.assertEqual(set(requests["worker"]), workers)
                    self.assertEqual((requests["kind"] == 1).sum(), staleness["count"].sum())
                    first = requests[requests["shard"] == 0]  # of the servers, it keeps the budget
                    for kind in 0, 1:
                        self.assertEqual(first[first["kind"] == kind]["samples"].sum(), 1205)
                self.assert_same_weights(path)

    def test_pairs_of_real_workers(self):
        text = self.REAL.replace("workers = 3", "workers = 2") + "[strategy.adpsgd]\n"
        results, _ = self.sweep(text)
        (path,) = results.values()
        with h5py.File(path) as file:
            requests, ranks = file["requests"][:], file["ranks"][:]
            self.assertEqual((set(requests["shard"]), set(requests["worker"])), ({1}, {0}))  # who answers, and who asks
            self.assertEqual(len(requests), ranks[0]["steps"])
            self.assertEqual(ranks["samples"].sum(), 1205)
            self.assertEqual(file["result"].attrs["samples"], 1205)
            self.assertEqual(file["result"].attrs["updates"], ranks["steps"].sum())
        self.assert_same_weights(path)

    def test_the_order_decides(self):
        results, _ = self.sweep(self.TWO_WORKERS + self.STRATEGIES)
        for name, path in results.items():
            with self.subTest(name):
                with h5py.File(path, "r+") as file:
                    requests = file["requests"][:]
                    # Of two workers, and not both pulls, which see the same whatever their order.
                    at = next(i for i in range(len(requests) // 2, len(requests))
                              if requests["worker"][i] != requests["worker"][i - 1] and 1 in requests["kind"][i - 1:i + 1])
                    requests[[at - 1, at]] = requests[[at, at - 1]]
                    file["requests"][:] = requests
                seal(path)
                done = dsgd("replay", path, code=1)
                self.assertRegex(done.stdout + done.stderr, f": other weights|left the recorded course at request ({at - 1}|{at}) of")

    def test_simulated_runs_of_every_strategy(self):
        results, _ = self.sweep(TINY + tables(strategies()))
        for name, path in results.items():
            with self.subTest(name):
                self.assert_same_weights(path)

    def test_where_other_weights_are_to_be_expected(self):
        results, _ = self.sweep(self.TWO_WORKERS + "[strategy.downpour]\n")
        (path,) = results.values()
        with h5py.File(path, "r+") as file:
            file["provenance"].attrs["flags"] = "-O0"
            file["provenance"].attrs["instruction_set"] = "sse9"
            file["provenance"].attrs["plan_sha256"] = "0"
        seal(path)
        refused = dsgd("replay", path, code=2)
        self.assertRegex(refused.stderr, r'flags was "-O0" and is ".*"; instruction_set was "sse9" and is "\w+"; plan_sha256 was "0" and is "\w{64}"')
        self.assertEqual((refused.stdout, len(refused.stderr.splitlines())), ("", 1))
        self.assertIn("sse9", self.assert_same_weights(path, "--anyway").stderr)

    def test_sums_are_in_rank_order(self):
        results, _ = self.sweep(self.REAL.replace("workers = 3", "workers = 5") + "[strategy.sync]\n")
        (path,) = results.values()
        self.assert_same_weights(path)
        with h5py.File(path, "r+") as file:
            file["provenance"].attrs["host"] = "here, there"
        seal(path)
        self.assertIn("sums of its 5 workers on several hosts", dsgd("replay", path, code=2).stderr)

    def test_what_cannot_be_replayed(self):
        results, _ = self.sweep(Failures.ENDLESS + "[strategy.downpour]\n", code=1, options=["--set", "time_limit=2"])
        (path,) = results.values()
        self.assertIn("the run did not reach its end: not done after 2 s", dsgd("replay", path, code=2).stderr)


class Traces(Case):
    def test_spans_add_up_to_the_result(self):
        real = Replays.REAL.replace("workers = 3", "workers = 2").replace("servers = 2", "servers = 1")
        for engine, text in ("mpi", real), ("simulated", TINY):
            results, _ = self.sweep(text + "[strategy.sync]\n[strategy.downpour]\n", engine, options=["--set", "trace=true"])
            for name, path in results.items():
                with self.subTest(name, engine=engine), h5py.File(path) as file:
                    dsgd("trace", path, "-o", f"{self.folder}/trace.json")
                    with open(f"{self.folder}/trace.json") as f:
                        events = json.load(f)["traceEvents"]
                    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
                    ranks = file["ranks"][:]
                    self.assertEqual(sorted(names), list(ranks["rank"]))
                    self.assertEqual("simulated" in events[0]["args"]["name"], engine == "simulated")
                    limit = 1e6 * file["result"].attrs["seconds"]
                    for row in ranks:
                        own = [e for e in events if e["ph"] == "X" and e["tid"] == row["rank"]]
                        seconds = {kind: sum(e["dur"] for e in own if e["name"] == kind) / 1e6 for kind in ("compute", "transfer", "wait")}
                        server = bool(row["server"])
                        self.assertEqual(names[row["rank"]].split()[0], "server" if server else "worker")
                        self.assertEqual(seconds["compute"] == 0, server)
                        self.assertAlmostEqual(seconds["compute"], row["compute_s"], delta=1e-3 + 1e-3 * row["compute_s"])
                        if name.startswith("downpour"):
                            self.assertAlmostEqual(seconds["wait"], row["wait_s"], delta=1e-3 + 1e-3 * row["wait_s"])
                            whole = row["communication_s"] + (0 if server else row["wait_s"])  # a server waits between its transfers
                            self.assertAlmostEqual(seconds["transfer"], whole, delta=1e-3 + 1e-3 * whole)
                        computing = [e for e in own if e["name"] == "compute"]
                        self.assertTrue(all(0 <= e["ts"] and e["ts"] + e["dur"] <= limit * 1.001 for e in computing))
                        self.assertTrue(all(a["ts"] + a["dur"] <= b["ts"] + 1 for a, b in zip(computing, computing[1:])))

    def test_nothing_is_recorded_by_default(self):
        results, _ = self.sweep(TINY + "[strategy.downpour]\n")
        (path,) = results.values()
        with h5py.File(path) as file:
            self.assertNotIn("spans", file)
        self.assertIn("--set trace=true", dsgd("trace", path, code=2).stderr)

    def test_in_lock_step_the_early_wait_for_the_last(self):
        text = TimeModel.FAST.replace("[cluster.hosts.a]", "straggler.workers = 1\nstraggler.slowdown = 4\n[cluster.hosts.a]")
        text = text.replace("= 1e15", "= 1e6").replace("1x8x8", "1x64x64")  # messages that take a while are no waiting
        results, _ = self.sweep(text + "[strategy.sync]\n", options=["--set", "trace=true"])
        (path,) = results.values()
        nowhere = f"{self.folder}/none/x.json"
        self.assertIn(f"{nowhere}: No such file or directory; a trace needs a folder", dsgd("trace", path, "-o", nowhere, code=2).stderr)
        dsgd("trace", path)
        with open(path.replace(".h5", ".json")) as f:
            events = json.load(f)["traceEvents"]
        waited = sorted(sum(e["dur"] for e in events if e["name"] == "wait" and e["tid"] == r) / 1e6 for r in range(3))
        for seconds, expected in zip(waited, (0, 120, 120)):  # 40 steps of 1 and 4 seconds
            self.assertAlmostEqual(seconds, expected, delta=0.01)


class TimeModel(Case):
    # Messages take no time to speak of.
    FAST = TINY.split("[cluster]")[0].replace("train = 500", "train = 600").replace("samples = 1205", "samples = 1200") + """
[cluster]
name = ""
[cluster.hosts.a]
count = 8
bandwidth = 1e15
latency = 0
seconds.softmax.10 = 1
"""

    def test_compression_is_charged_by_the_element(self):
        """A step of 3 workers packs n elements and unpacks 3 n; powersgd passes over n three times."""
        self.sweep(self.FAST.replace("[cluster.hosts.a]", "compression = 1e-3\n[cluster.hosts.a]") + "[strategy.qsgd]\n[strategy.powersgd]\n[strategy.sync]\n")
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                passes = {"qsgd": 4, "powersgd": 3, "sync": 0}[file["config"].attrs["strategy"]]
                charged = 40 * passes * file["result"].attrs["parameters"] * 1e-3
                for row in file["ranks"]:
                    self.assertAlmostEqual(row["compression_s"], charged, delta=1e-6)
                self.assertAlmostEqual(file["result"].attrs["seconds"], 40 + charged, delta=0.01)

    def test_known_work_contains_the_compression(self):
        self.sweep(self.FAST.replace("[cluster.hosts.a]", "compression = 1e-3\n[cluster.hosts.a]\nwork.qsgd.3 = 1e-4") + "[strategy.qsgd]\n")
        with h5py.File(glob.glob(f"{self.folder}/out/*.h5")[0]) as file:
            self.assertAlmostEqual(file["result"].attrs["seconds"], 40 + 40 * file["result"].attrs["parameters"] * 1e-4, delta=0.01)
            self.assertEqual(max(file["ranks"]["compression_s"]), 0)

    def test_shares_follow_the_speed_of_workers(self):
        """HeteroSpark: of three workers one is four times as fast. Equal shares last as long as the slow ones take."""
        text = self.FAST.replace("minibatch = 10", "minibatch = 12").replace("seconds.softmax.10 = 1", "speed = 1e6").replace("count = 8", "count = 2")
        text += "[cluster.hosts.b]\ncount = 1\nspeed = 4e6\nbandwidth = 1e15\nlatency = 0\n"
        self.sweep(text + "[strategy.sync]\nshares = ['equal', 'proportional']\n")
        found = {}
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                found[file["config"].attrs["shares"]] = file["result"].attrs["seconds"], sorted(file["ranks"][:]["share"]), \
                    sorted(file["ranks"][:]["samples"]), file["result"].attrs["last_loss"]
        equal, proportional = found["equal"], found["proportional"]
        for shares, expected in (equal[1], (1 / 3,) * 3), (proportional[1], (1 / 6, 1 / 6, 4 / 6)):
            for share, of in zip(shares, expected):
                self.assertAlmostEqual(share, of)
        self.assertEqual(list(equal[2]), [400] * 3)
        self.assertEqual([round(samples / 100) for samples in proportional[2]], [2, 2, 8])
        self.assertAlmostEqual(equal[0] / proportional[0], 2, delta=0.05)
        self.assertAlmostEqual(equal[3], proportional[3], delta=1e-5)  # the same gradients but for rounding

    def test_a_driver_takes_the_time_of_all_vectors(self):
        """A step of 8 workers, in vectors on one link: 7 to the driver and 7 back; in a tree of two levels 2 and 2, and back."""
        text = self.FAST.replace("workers = 3", "workers = 8").replace("bandwidth = 1e15", "bandwidth = 1e6").replace("1x8x8", "1x64x64")
        self.sweep(text + "[strategy.sync]\naggregation = ['tree', 'star']\ndepth = [1, 2]\n")
        paths = glob.glob(f"{self.folder}/out/*.h5")
        self.assertEqual(len(paths), 4)
        for path in paths:
            with h5py.File(path) as file:
                settings = file["config"].attrs
                levels = 2 if settings["strategy.aggregation"] == "tree" and settings["strategy.depth"] == 2 else 1
                vector = 4 * file["result"].attrs["parameters"] / 1e6
                seconds, steps = file["result"].attrs["seconds"], file["ranks"][0]["steps"]
            self.assertAlmostEqual(seconds, 1200 / 80 + steps * {1: 14, 2: 8}[levels] * vector, delta=0.02)

    def test_a_straggler_holds_up_lock_step_but_not_servers(self):
        text = self.FAST.replace("[cluster.hosts.a]", "straggler.workers = 1\nstraggler.slowdown = 4\n[cluster.hosts.a]")
        results, _ = self.sweep(text + "[strategy.sync]\n[strategy.downpour]\nservers = 1\n")
        self.assertAlmostEqual(self.result(results["sync-3w-seed1"], "seconds"), 1200 / 30 * 4, delta=0.01)
        # 1 + 1 + 1/4 minibatches a second; the last one may be the straggler's
        self.assertAlmostEqual(self.result(results["downpour-3w-seed1"], "seconds"), 120 / 2.25, delta=4)

    def test_in_lock_step_all_but_the_last_wait(self):
        """Of three workers one takes 4 s for a gradient and the others 1 s, messages nothing: in each of 40 steps these wait for 3 s."""
        text = self.FAST.replace("[cluster.hosts.a]", "straggler.workers = 1\nstraggler.slowdown = 4\n[cluster.hosts.a]")
        results, _ = self.sweep(text + "[strategy.sync]\n")
        with h5py.File(results["sync-3w-seed1"]) as file:
            ranks, steps, last = file["ranks"][:], file["steps"][:], file["snapshots"][-1]
        for row, computed, waited in zip(ranks, (1, 1, 4), (3, 3, 0)):
            own = steps[steps["rank"] == row["rank"]]
            self.assertEqual(list(own["used"]), list(range(0, 1200, 30)))
            for field, seconds in ("compute_s", computed), ("communication_s", waited):
                self.assertLess(abs(own[field] - seconds).max(), 1e-3, field)
            for field, seconds in ("compute_s", computed), ("wait_s", waited), ("communication_s", 0), ("total_s", 4):
                self.assertAlmostEqual(row[field], 40 * seconds, delta=1e-2, msg=field)
        self.assertEqual(last["used"], 1200)
        # Messages that take a while are no waiting; whoever waits has the same ones.
        results, _ = self.sweep(text.replace("= 1e15", "= 1e6").replace("1x8x8", "1x64x64") + "[strategy.sync]\n", "slow")
        with h5py.File(results["sync-3w-seed1"]) as file:
            first, second, late = file["ranks"][:]
        self.assertGreater(late["communication_s"], 40 * 0.01)
        for row, waited in (first, 120), (second, 120), (late, 0):
            self.assertAlmostEqual(row["wait_s"], waited, delta=0.1 * late["communication_s"])
            self.assertAlmostEqual(row["communication_s"] / late["communication_s"], 1, delta=0.1)

    def test_drawn_samples_are_the_global_minibatch(self):
        """Spark's miniBatchFraction: each of 600 samples is in a step with a probability of 0.05, 30 on average."""
        results, _ = self.sweep("sample_fraction = 0.05\n" + self.FAST + "[strategy.sync]\n[strategy.averaging]\ntau = 5\n")
        for name, period in ("sync", 1), ("averaging", 5):
            with h5py.File(results[f"{name}-3w-seed1"]) as file:
                effective, steps, ranks = dict(file["effective"].attrs), file["steps"][:], file["ranks"][:]
                self.assertEqual(file["result"].attrs["samples"], 1200)
            self.assertAlmostEqual(effective["global_minibatch"], 30)
            self.assertEqual(effective["period"], period)
            self.assertEqual(ranks["samples"].sum(), 1200)
            drawn = [steps["samples"][steps["step"] == step].sum() for step in range(ranks["steps"][0])]
            self.assertAlmostEqual(np.mean(drawn), 30, delta=5)
            self.assertAlmostEqual(np.std(drawn), (600 * 0.05 * 0.95) ** 0.5, delta=3)

    def test_an_incomplete_sum_is_not_lost(self):
        """Of 121 gradients of 10 samples three each make an update."""
        results, _ = self.sweep(self.FAST.replace("samples = 1200", "samples = 1210") + "[strategy.staleness_aware]\nn = 1\n")
        (path,) = results.values()
        self.assertEqual([self.result(path, key) for key in ("samples", "updates", "unapplied_samples", "lost_samples")], [1200, 40, 10, 0])

    def test_staleness_is_what_the_papers_say(self):
        """Zhang et al. 2015: about n with n-softsync, seldom above 2n; with every gradient an update of its own about P - 1."""
        text = self.FAST.replace("[cluster.hosts.a]", "jitter = 0.3\n[cluster.hosts.a]").replace("workers = 3", "workers = 6")
        results, _ = self.sweep(text.replace("samples = 1200", "samples = 12000") + "[strategy.staleness_aware]\nn = [1, 2, 6]\n")
        self.assertEqual(len(glob.glob(f"{self.folder}/out/*.h5")), 3)
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                n, rows = file["config"].attrs["strategy.n"], file["staleness"][:]
                mean = (rows["tau"] * rows["count"]).sum() / rows["count"].sum()
                above = rows["count"][rows["tau"] > 2 * n].sum() / rows["count"].sum()
                with self.subTest(n=n, mean=mean, above=above):
                    self.assertAlmostEqual(mean, 5 if n == 6 else n, delta=0.5)
                    self.assertLess(above, 0.01)

    def test_sandblaster_does_not_wait_for_a_slow_worker(self):
        """Dean et al. 2012: with small portions and backups a straggler costs no more than its own work."""
        def seconds(slowdown, portion, backups):
            text = self.FAST.replace("[cluster.hosts.a]", f"straggler.workers = 1\nstraggler.slowdown = {slowdown}\n[cluster.hosts.a]")
            text = text.replace("samples = 1200", "samples = 2400").replace("workers = 3", "workers = 4").replace("servers = 2", "servers = 3")
            results, _ = self.sweep(text + f"[strategy.sandblaster]\nbatch = 240\nportion = {portion}\nbackups = {backups}\n",
                                    f"out-{slowdown}-{portion}-{backups}")
            (path,) = results.values()
            return self.result(path, "seconds")
        self.assertAlmostEqual(seconds(1, 1, 1), 10 * 24 / 4, delta=0.01)
        self.assertLess(seconds(10, 1, 1), 10 * 24 / 3 + 10)  # the last copy may be the straggler's
        self.assertAlmostEqual(seconds(10, 6, 0), 10 * 60, delta=0.01)  # its pace

    def test_rounds_cost_what_the_cluster_says(self):
        text = self.FAST.replace("[cluster.hosts.a]", "round = 10\n[cluster.hosts.a]")
        results, _ = self.sweep(text + "[strategy.averaging]\ntau = 4\n")
        self.assertAlmostEqual(self.result(results["averaging-3w-seed1"], "seconds"), 40 + 10 * 10, delta=0.01)

    def test_every_synchronisation_of_a_step_is_a_round(self):
        text = self.FAST.replace("[cluster.hosts.a]", "round = 10\n[cluster.hosts.a]")
        results, _ = self.sweep(text + "[strategy.powersgd]\n")
        synchronisations = self.result(results["powersgd-3w-seed1"], "synchronisations")
        self.assertGreater(synchronisations, 40)  # more than one a step
        self.assertAlmostEqual(self.result(results["powersgd-3w-seed1"], "seconds"), 40 + 10 * synchronisations, delta=0.01)

    def test_naive_parallel_sgd_pays_where_synchronising_is_cheap(self):
        """SparkNet's cost model: C / (C/K + S), below 1 for S above C (1 - 1/K)."""
        text = self.FAST.replace("workers = 3", "workers = [1, 2, 5]").replace("minibatch = 10", "minibatch = [2, 5, 10]")
        text = text.replace("[cluster.hosts.a]", "round = [0, 0.4, 0.6, 0.7, 0.9]\n[cluster.hosts.a]")
        self.sweep(text + "[strategy.sync]\n")
        seconds = {}
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                config = file["config"].attrs
                seconds[config["workers"], config["minibatch"], config["cluster.round"]] = file["result"].attrs["seconds"]
        serial = seconds[1, 10, 0]
        self.assertAlmostEqual(serial, 120, delta=0.01)
        for workers, minibatch in (2, 5), (5, 2):
            for synchronising in 0, 0.4, 0.6, 0.7, 0.9:
                with self.subTest(workers=workers, synchronising=synchronising):
                    naive = seconds[workers, minibatch, synchronising]
                    self.assertAlmostEqual(serial / naive, 1 / (1 / workers + synchronising), delta=1e-3)
                    self.assertEqual(naive > serial, synchronising > 1 - 1 / workers)

    def test_periods_pay_for_one_synchronisation_each(self):
        """SparkNet's cost model: rounds (tau C + S)."""
        text = self.FAST.replace("[cluster.hosts.a]", "round = 3\n[cluster.hosts.a]")
        self.sweep(text + "[strategy.averaging]\ntau = [1, 5, 20]\n")
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                tau = file["config"].attrs["strategy.tau"]
                self.assertAlmostEqual(file["result"].attrs["seconds"], 40 / tau * (tau + 3), delta=0.01)


    def test_long_messages_to_one_neighbour_travel_side_by_side(self):
        """A message of mlp takes a third of a gradient's time. Of 3 workers two ask the third: they need not take turns."""
        text = self.FAST.replace("softmax", "mlp").replace("workers = 3", "workers = [2, 3]").replace("mlp.10 = 1", "mlp.10 = 4e-3")
        text = text.replace("samples = 1200", "samples = 6000").replace("1x8x8", "1x28x28").replace("= 1e15", "= 2e10")
        self.sweep('gradient = "skipped"\n' + text + "[strategy.adpsgd]\n")
        seconds = {}
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                seconds[file["config"].attrs["workers"]] = file["result"].attrs["seconds"]
        self.assertGreater(seconds[2] / seconds[3], 1.25)

    def test_snapshots_of_pairs_say_what_is_in_them(self):
        """Every worker copies its model after the step in which its own estimate comes to the point."""
        results, _ = self.sweep(TINY + "[strategy.adpsgd]\n")
        with h5py.File(results["adpsgd-3w-seed1"]) as file:
            steps, snapshots = file["steps"][()], file["snapshots"][()]
        for k, snapshot in enumerate(snapshots[:-1]):
            inside = 0
            for rank in range(3):
                own = steps[steps["rank"] == rank]
                there = np.flatnonzero(own["used"] >= 1205 * k // 4)
                inside += own["samples"][:there[0] + 1 if len(there) else None].sum() if k else 0
            self.assertEqual(snapshot["used"], inside)
        self.assertEqual(snapshots["used"][-1], 1205)

    def test_one_server_saturates_and_four_do_not(self):
        text = self.FAST.replace("workers = 3", "workers = [2, 16]").replace("servers = 2", "servers = [1, 4]").replace("count = 8", "count = 20")
        text = text.replace("[cluster.hosts.a]", "jitter = [0, 0.3]\nserver.rate = 5200\n[cluster.hosts.a]")  # 650 parameters: 1/8 s an update
        self.sweep(text + "[strategy.staleness_aware]\nn = 16\n")
        seconds = {}
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                seconds[tuple(file["config"].attrs[key] for key in ("workers", "servers", "cluster.jitter"))] = file["result"].attrs["seconds"]
        # Without jitter all come together, and are answered together, when all gradients are in.
        for (workers, servers), rounds in {(2, 1): 60, (2, 4): 60, (16, 1): 7.5}.items():
            self.assertAlmostEqual(seconds[workers, servers, 0], rounds * (1 + workers / servers / 8), delta=1)
        # With it, one server is always at work, and four are not.
        self.assertAlmostEqual(seconds[16, 1, 0.3], 120 / 8 + 0.5, delta=0.51)
        self.assertLess(seconds[16, 4, 0.3], 120 / 16 * 1.3)


class TimingOnly(Case):
    """gradient = "skipped": the seconds of runs that compute, to the last bit, and no weights."""
    LENET = TINY.split("[cluster]")[0].replace('"softmax"', '"lenet"').replace("1x8x8", "1x28x28") + """
[cluster]
name = "ethernet-10g"
"""

    def assert_same_seconds(self, text, count):
        results = []
        for gradient in "computed", "skipped":
            out = tempfile.mkdtemp(dir=self.folder)
            results.append(self.sweep(text, os.path.basename(out), options=["--set", f"gradient={gradient}"])[0])
        self.assertEqual(results[0].keys(), results[1].keys())
        self.assertGreaterEqual(len(results[0]), count)
        for name in results[0]:
            with self.subTest(name), h5py.File(results[0][name]) as computed, h5py.File(results[1][name]) as skipped:
                for key in ("seconds", "samples", "updates", "synchronisations", "parameters"):
                    self.assertEqual(skipped["result"].attrs[key], computed["result"].attrs[key], key)
                for table in {"ranks", "staleness", "requests"} & set(computed):
                    self.assertEqual(skipped[table][:].tolist(), computed[table][:].tolist(), table)
                self.assertEqual(skipped["steps"]["seconds"].tolist(), computed["steps"]["seconds"].tolist())
                self.assertTrue(np.isnan(skipped["steps"]["loss"]).all())
                self.assertEqual(skipped.attrs["outcome"], "ok")
                self.assertIn("gradients were skipped", skipped.attrs["outcome_detail"])
                self.assertEqual(skipped["config"].attrs["gradient"], "skipped")
                self.assertFalse({"weights_sha256", "first_loss", "last_loss"} & set(skipped["result"].attrs))
                self.assertEqual(len(skipped["snapshots"]), 0)

    def refusal(self, strategy, *options):
        with open(f"{self.folder}/x.toml", "w") as f:
            f.write(TINY + f"[strategy.{strategy}]\n")
        done = subprocess.run([DSGD, "sweep", f"{self.folder}/x.toml", "-o", f"{self.folder}/none", "--dry-run", "--set", "gradient=skipped",
                               *options], capture_output=True, text=True, timeout=PATIENCE)
        self.assertIn(done.returncode, (0, 2))
        return done.stderr

    def test_every_strategy(self):
        taken = [name for name in strategies() if not self.refusal(name)]
        self.assertLessEqual({"sync", "averaging", "dpsgd", "adpsgd", "downpour", "ssp", "easgd", "staleness_aware"}, set(taken))
        self.assert_same_seconds(TINY + tables(taken), 14)
        self.assert_same_seconds(TINY + '[strategy.averaging]\naggregation = "tree"\n', 1)

    def test_up_to_64_ranks(self):
        text = "stall_limit = 60\n" + self.LENET.replace("workers = 3", "workers = [2, 5, 16, 64]").replace("samples = 1205", "samples = 1280")
        self.assert_same_seconds(text.replace("train = 500", "train = 640") + "[strategy.sync]\n", 4)

    def test_what_it_cannot_do(self):
        for strategy in "topk", "powersgd", "sandblaster":
            self.assertIn(f"leaves {strategy} nothing to work on", self.refusal(strategy))
        self.assertIn("have no accuracy (allowed: 0)", self.refusal("sync", "--set", "target=0.5"))
        self.assertIn('needs engine = "simulated"', self.refusal("sync", "--set", "engine=mpi"))
        results, _ = self.sweep(TINY + "[strategy.downpour]\n", options=["--set", "gradient=skipped"])
        self.assertIn("there are no weights", dsgd("replay", results["downpour-3w-seed1"], code=2).stderr)

    @unittest.skipIf(sanitized(BUILD), OWN_MEMORY)
    def test_a_large_model_needs_no_memory(self):
        """64 workers of 102 MB each, in a process that may have no more than 1 GB of data."""
        text = self.LENET.replace('"lenet"', '"mlp"').replace("1x28x28", "12x1997x1").replace("workers = 3", "workers = 64")
        text = text.replace("train = 500", "train = 640")  # one step of all workers
        limit = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, limit[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_DATA, limit)
        for strategy in "sync", "dpsgd", "downpour":
            results, _ = self.sweep(text + f"[strategy.{strategy}]\n", strategy, options=["--set", "gradient=skipped"])
            self.assertEqual(self.result(results[f"{strategy}-64w-seed1"], "parameters"), 25600010)


class Staleness(Case):
    """Of n-softsync with 30 workers: between a worker's pull and its push the other 29 push once each."""
    TEXT = TINY.split("[cluster]")[0].replace("workers = 3\nservers = 2\nminibatch = 10\nsamples = 1205", """
workers = 30
minibatch = 4
samples = 32000""") + """
[cluster]
name = ""
jitter = 0.1
[cluster.hosts.a]
count = 31
bandwidth = 1e9
latency = 1e-6
seconds.softmax.4 = 0.01
"""

    def spread(self, change=""):
        """By n: mean staleness times c, and P(tau > 2n)."""
        self.sweep(self.TEXT.replace("jitter = 0.1", change or "jitter = 0.1") + "[strategy.staleness_aware]\nn = [1, 2, 6, 15, 30]\n")
        found = {}
        for path in glob.glob(f"{self.folder}/out/*.h5"):
            with h5py.File(path) as file:
                n, rows = file["config"].attrs["strategy.n"], file["staleness"][:]
                count = rows["count"].sum()
                self.assertEqual(count, 8000)
                found[n] = (rows["tau"] * rows["count"]).sum() / count, rows["count"][rows["tau"] > 2 * n].sum() / count
        self.assertEqual(len(found), 5)
        shutil.rmtree(f"{self.folder}/out")
        return found

    def test_mean_and_tail(self):
        for n, (mean, beyond) in self.spread().items():
            with self.subTest(n):
                self.assertAlmostEqual(mean, 29 / (30 // n), delta=0.1)
                self.assertLess(beyond, 1e-3)

    def test_uneven_workers_move_the_tail_and_not_the_mean(self):
        for change in "jitter = 1", "jitter = 0.1\nstraggler.workers = 1\nstraggler.slowdown = 4":
            for n, (mean, beyond) in self.spread(change).items():
                with self.subTest(change, n=n):
                    self.assertAlmostEqual(mean, 29 / (30 // n), delta=0.1)
                    self.assertGreater(beyond, 5e-3)


class Faults(Case):
    RUN = TimeModel.FAST  # a gradient takes a second

    def test_the_others_go_on_without_one_that_leaves(self):
        results, _ = self.sweep(self.RUN + "[faults]\nleave_step = 10\n" + "".join(
            f"[strategy.{name}]\n" for name in ("downpour", "ssp", "staleness_aware", "easgd")))
        self.assertEqual(len(results), 4)
        for name, path in results.items():
            with self.subTest(name), h5py.File(path) as file:
                ((rank, step, samples, seconds),) = file["departures"][:]
                self.assertEqual((rank, step, samples), (2, 10, 100))
                self.assertAlmostEqual(seconds, 10, delta=1e-3)
                self.assertRegex(file.attrs["outcome_detail"], "rank 2 left after step 10, at 10 s$")
                # 30 of 120 minibatches are done by then; the other two do the rest.
                self.assertAlmostEqual(file["result"].attrs["seconds"], 10 + 90 / 2, delta=10 if name.startswith("easgd") else 1)
                self.assertEqual(file["result"].attrs["lost_samples"], 0)
                self.assertIn(": the same weights", dsgd("replay", path).stdout)
                self.assertIn("rank 2 left after step 10", dsgd("show", path).stdout)

    def test_pairs_go_on_without_one_that_leaves(self):
        for leaver in 2, 1:  # who asks, who answers
            results, _ = self.sweep(self.RUN + f"[faults]\nleave_step = 10\nleave_worker = {leaver}\n[strategy.adpsgd]\n", f"out-{leaver}")
            ((name, path),) = results.items()
            with self.subTest(leaver=leaver), h5py.File(path) as file:
                ((rank, step, samples, seconds),) = file["departures"][:]
                self.assertEqual((rank, step, samples), (leaver, 10, 100))
                self.assertAlmostEqual(seconds, 10, delta=1)
                self.assertEqual(file["result"].attrs["lost_samples"], 0)
                # Those who ask share what is left with who answers alone, not with each other.
                self.assertAlmostEqual(file["result"].attrs["seconds"], 10 + 90 / 2, delta=3 if leaver == 2 else 20)
                requests = file["requests"][:]
                left = requests[requests["kind"] == 2]
                if leaver == 2:
                    self.assertEqual([(r["shard"], r["worker"]) for r in left], [(1, 2)])
                else:  # each of those who ask is told once
                    self.assertEqual(sorted((r["shard"], r["worker"]) for r in left), [(1, 0), (1, 2)])
                self.assertGreater(left["samples"].sum(), 0)
                # A copy of its model from before it left is no part of later ones.
                used = file["snapshots"]["used"]
                self.assertTrue((used[1:] > used[:-1]).all(), used)
                self.assertGreater(file["snapshots"]["version_min"][-1], 10)
                # What each worker takes for the samples of all is near to it.
                steps = np.sort(file["steps"][:], order="seconds")
                self.assertLess(np.abs(np.cumsum(steps["samples"]) - steps["used"]).max(), 240 if leaver == 2 else 360)
                self.assertIn(": the same weights", dsgd("replay", path).stdout)

    def test_a_copy_is_the_mean_of_those_that_are_there(self):
        """At a rate of 0 all models stay as they were, and so does their mean when one has left."""
        text = self.RUN.replace("learning_rate = 0.05", "learning_rate = 0") + "[faults]\nleave_step = 10\n[strategy.adpsgd]\n"
        results, _ = self.sweep(text)
        with h5py.File(results["adpsgd-3w-seed1"]) as file:
            self.assertEqual(len(file["departures"]), 1)
            losses = file["snapshots"]["test_loss"]
        np.testing.assert_allclose(losses, losses[0], rtol=1e-5)

    def test_lock_step_cannot(self):
        results, _ = self.sweep(self.RUN + "[faults]\nleave_step = 10\n[strategy.sync]\n[strategy.averaging]\n", code=1)
        for name, path in results.items():
            with h5py.File(path) as file:
                self.assertEqual(file.attrs["outcome"], "error")
                self.assertIn("rank 2: left after step 10 (faults.leave_step)", file.attrs["outcome_detail"])

    def test_lost_pushes_are_those_of_the_seed(self):
        text = self.RUN + "[faults]\ndrop = [0, 0.1]\n[strategy.downpour]\nseed = [1, 2]\n"
        self.sweep(text, "a")
        self.sweep(text, "b")
        lost = set()
        for name in (name for name in os.listdir(f"{self.folder}/a") if name.endswith(".h5")):
            with h5py.File(f"{self.folder}/a/{name}") as one, h5py.File(f"{self.folder}/b/{name}") as other:
                for key in "lost_samples", "weights_sha256":
                    self.assertEqual(one["result"].attrs[key], other["result"].attrs[key])
                drop = one["config"].attrs["faults.drop"]
                self.assertEqual(one["result"].attrs["lost_samples"] > 0, drop > 0)
                lost.add(one["result"].attrs["lost_samples"])
            self.assertIn(": the same weights", dsgd("replay", f"{self.folder}/a/{name}").stdout)
        self.assertEqual(len(lost), 3)


class Platforms(Case):
    XML = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <zone id="all" routing="Full">
    <host id="n0" speed="1Gf"/> <host id="n1" speed="1Gf"/> <host id="n2" speed="1Gf"/>
    <link id="a" bandwidth="1MBps" latency="10ms"/> <link id="b" bandwidth="1MBps" latency="10ms"/>
    <route src="n0" dst="n1"><link_ctn id="a"/></route>
    <route src="n0" dst="n2"><link_ctn id="b"/></route>
    <route src="n1" dst="n2"><link_ctn id="a"/><link_ctn id="b"/></route>
  </zone>
</platform>
"""
    CLUSTER = 'title = "three"\nplatform = "p.xml"\n[hosts.n]\ncount = 3\nspeed = 1e9\nnames = "n{}"\n'

    def experiment(self, xml=XML, cluster=CLUSTER, keys=""):
        with open(f"{self.folder}/p.xml", "w") as f:
            f.write(xml)
        with open(f"{self.folder}/c.toml", "w") as f:
            f.write(cluster)
        return TINY.split("[cluster]")[0] + f'cluster = "{self.folder}/c.toml"\n{keys}[strategy.sync]\n'

    def test_of_simgrid(self):
        results, _ = self.sweep(self.experiment())
        (path,) = results.values()
        # 520 floats with minibatch 10 are less than the latencies of the shortest way to add up three
        self.assertGreater(self.result(path, "seconds"), 41 * 2 * 0.01)
        with h5py.File(path) as file:
            self.assertEqual(len(file["config"].attrs["cluster.platform_sha256"]), 64)

    def test_that_cannot_be_used(self):
        for xml, cluster, words in (
                (self.XML.replace('<route src="n0" dst="n2"><link_ctn id="b"/></route>', ""), self.CLUSTER,
                 'p.xml: has no route from n0 to n2 (allowed: routes between all hosts of the cluster; add a <route src="n0" dst="n2">)'),
                (self.XML.replace('id="n2" speed', 'id="m2" speed').replace('"n2"', '"m2"'), self.CLUSTER,
                 'p.xml: has no host "n2" (allowed: m2, n0, n1; hosts.NAME.names makes the name, with numbers below hosts.NAME.count for {})'),
                (re.sub('<host id="n2".*?/>', "".join(f'<host id="m{i}" speed="1Gf"/>' for i in range(9)), self.XML).replace('"n2"', '"m2"'),
                 self.CLUSTER, "(allowed: m0, m1, m2, m3, m4, m5, m6, m7, ... 11 in all; "),
                *((self.XML.replace(good, bad, 1), self.CLUSTER, words) for good, bad, words in (
                    ('"1MBps"', '"0MBps"', "p.xml: link a has a bandwidth of 0 bytes/s and a latency of 0.01 s (allowed: bandwidth above 0"),
                    ('"1MBps"', '"-1MBps"', "p.xml: link a has a bandwidth of -1e+06 bytes/s"),
                    ('"10ms"', '"-10ms"', "p.xml: link a has a bandwidth of 1e+06 bytes/s and a latency of -0.01 s"),
                    ('"1Gf"', '"0f"', "p.xml: host n0 has a speed of 0 flop/s (allowed: above 0"),
                    ('"1Gf"', '"-1f"', "p.xml: host n0 has a speed of -1 flop/s"))),
                ("<platform", self.CLUSTER, "(allowed: XML by SimGrid's DTD, version 4.1)"),
                (self.XML, self.CLUSTER.replace("p.xml", "q.xml"), "q.xml: cannot be read"),
                (self.XML, self.CLUSTER.replace('names = "n{}"', ""), "which of the platform's hosts are the 3 of n?")):
            with self.subTest(words):
                with open(f"{self.folder}/x.toml", "w") as f:
                    f.write(self.experiment(xml, cluster))
                done = dsgd("sweep", f"{self.folder}/x.toml", "-o", f"{self.folder}/out", code=2)
                self.assertIn(words, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
                self.assertFalse(os.path.exists(f"{self.folder}/out"))


class Failures(Case):
    ENDLESS = TINY.replace("samples = 1205", "samples = 1000000000")

    def simulation(self):
        """The process of the simulation whose results go to the folder."""
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError), open(path) as f:
                words = f.read().split("\0")
                if words[0] == SIM and any(word.startswith(self.folder) for word in words):
                    return int(path.split("/")[2])
        return None

    def test_a_killed_simulation_is_an_error(self):
        with open(f"{self.folder}/x.toml", "w") as f:
            f.write(self.ENDLESS + "[strategy.sync]\n")
        sweep = subprocess.Popen([DSGD, "sweep", f"{self.folder}/x.toml", "-o", f"{self.folder}/out"], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True)
        victim, begun = None, time.time()
        while victim is None and time.time() - begun < 60:
            time.sleep(0.2)
            victim = self.simulation()
        os.kill(victim, signal.SIGKILL)
        output, _ = sweep.communicate(timeout=60)
        self.assertEqual(sweep.returncode, 1, output)
        self.assertIn("error: dsgd-sim was ended by signal 9", output)

    def test_a_limit_ends_it(self):
        _, done = self.sweep(self.ENDLESS + "[strategy.downpour]\n", code=1, options=["--set", "time_limit=3"])
        self.assertRegex(done.stderr, r"timeout: not done after 3 s \(time_limit\); rank 0 was last heard in phase train at \d+ samples")

    def test_mistakes_are_found_before_anything_runs(self):
        for change, message in {
            "workers = 40": "40 workers and 0 servers do not fit the cluster, which has room for 6 workers",
            "cluster.hosts.fast.speed = 0": "hosts fast have no speed",
            "cluster.hosts.fast.bandwidth = 0": "0 is out of range",
            "cluster.server.hosts = 'x'": 'unknown hosts "x" (allowed: fast, slow)',
            "cluster.jiter = 1": "did you mean cluster.jitter?",
        }.items():
            key, _, value = change.partition(" = ")
            with open(f"{self.folder}/x.toml", "w") as f:
                f.write(TINY + "[strategy.sync]\n")
            done = dsgd("sweep", f"{self.folder}/x.toml", "-o", f"{self.folder}/out", "--set", f"{key}={value}", code=2)
            self.assertIn(message, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertFalse(os.path.exists(f"{self.folder}/out"))


def setUpModule():
    if not os.path.exists(SIM):
        raise unittest.SkipTest("built without SimGrid (Debian: libsimgrid-dev)")


if __name__ == "__main__":
    if "--regenerate" in sys.argv:
        case = Golden("regenerate")
        case.setUp()
        case.regenerate()
        case.doCleanups()
    else:
        unittest.main()
