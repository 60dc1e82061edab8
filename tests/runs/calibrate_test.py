#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`dsgd calibrate`, as a user runs it: what it writes can be simulated, and what it cannot write it says.

    DSGD_BUILD=build /usr/bin/python3 tests/runs/calibrate_test.py -v
"""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import h5py

DSGD = os.path.join(os.path.abspath(os.environ.get("DSGD_BUILD", "build")), "dsgd")
PATIENCE = 240  # seconds
QUICK = ("--models", "softmax", "--minibatches", "4,16", "--strategies", "sync,topk,downpour")


class Calibrate(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dsgd-")
        self.addCleanup(shutil.rmtree, self.folder)
        os.mkdir(f"{self.folder}/tmp")
        self.environment = dict(os.environ, XDG_CONFIG_HOME=f"{self.folder}/config", TMPDIR=f"{self.folder}/tmp")

    def dsgd(self, *words, code=0):
        done = subprocess.run([DSGD, *words], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertEqual(done.returncode, code, f"dsgd {' '.join(words)}\n{done.stdout}{done.stderr}")
        return done

    def refused(self, *words):
        """The one line that says why nothing was measured."""
        lines = self.dsgd("calibrate", *words, code=2).stderr.splitlines()
        self.assertEqual(len(lines), 1, lines)
        return lines[0]

    def simulate(self, cluster, *words, strategy="sync"):
        """Seconds of a worker, and of its gradients, in a simulated run."""
        with open(f"{self.folder}/x.toml", "w") as f:
            f.write('dataset = "synthetic"\nsynthetic.train = 512\nsynthetic.test = 100\nmodel = "softmax"\nminibatch = 16\n'
                    f'samples = 3200\nsnapshots = 0\nengine = "simulated"\ncluster = "{cluster}"\n[strategy.{strategy}]\n')
        out = tempfile.mkdtemp(dir=self.folder)
        self.dsgd("sweep", f"{self.folder}/x.toml", "-o", out, *words)
        [name] = [name for name in os.listdir(out) if name.endswith(".h5")]
        with h5py.File(f"{out}/{name}") as file:
            worker = file["ranks"][0]
            return worker["total_s"], worker["compute_s"], int(worker["steps"]), int(file["result"].attrs["parameters"])

    def test_what_it_writes_is_simulated(self):
        printed = self.dsgd("calibrate", *QUICK).stdout
        file = f"{self.folder}/config/dsgd/clusters/local.toml"
        with open(file) as f:
            text = f.read()
        self.assertIn(text, printed)
        self.assertIn('cluster = "local"', printed)
        self.assertEqual(os.listdir(f"{self.folder}/config/dsgd/clusters"), ["local.toml"])
        self.assertEqual([name for name in os.listdir(f"{self.folder}/tmp") if "calibrate" in name], [])
        self.assertIn("  local ", self.dsgd("list", "clusters").stdout)

        found = dict(re.findall(r"^([\w.]+) = ([\d.e+-]+) +#.*±", text, re.M))
        self.assertLessEqual({"softmax.4", "softmax.16", "sync.1", "sync.2", "topk.1", "topk.2", "downpour.1"}, found.keys())
        self.assertNotIn("downpour.2", found)
        for number in ("speed", "rate", "bandwidth", "latency", "softmax.4", "topk.2"):
            self.assertGreater(float(re.search(rf"^{number} = (\S+)", text, re.M)[1]), 0, number)

        # A message takes half of push and pull.
        latency = float(re.search(r"^latency = (\S+) +# s; half", text, re.M)[1])
        trip = float(re.search(r"^# +1 +\S+ ± \S+ % +(\S+) ", text, re.M)[1])
        self.assertAlmostEqual(latency, 1e-6 * trip / 2, delta=1e-3 * latency)
        # What a simulation charges as a message is no part of a round, and of push and pull a rank wakes for either.
        waited, added, message = map(float, re.search(r"^round = (\S+) .* takes (\S+) us .*, a message (\S+) us$", text, re.M).groups())
        self.assertAlmostEqual(1e6 * waited, max(added - message, 0), delta=0.06 * (added + message))
        if os.cpu_count() > 1:
            wake, crowded, free = map(float, re.search(r"^wake = (\S+) .* than with 2: (\S+) us .*, (\S+) us ", text, re.M).groups())
            self.assertAlmostEqual(1e6 * wake, max(crowded - free, 0) / 2, delta=0.01 * (crowded + free))

        # The seconds are those that are written, the strategy's own work included.
        for strategy in "sync", "topk":
            total, compute, steps, n = self.simulate("local", "--set", "cluster.jitter=0", strategy=strategy)
            self.assertAlmostEqual(compute, steps * float(found["softmax.16"]), delta=1e-3 * compute)
            self.assertAlmostEqual(total - compute, steps * n * float(found[f"{strategy}.1"]), delta=1e-3 * total)
        # Without them, the speed gives the same for the usual minibatch.
        with open(f"{self.folder}/speed.toml", "w") as f:
            f.write(re.sub(r"(?m)^softmax\.\d+ = .*\n", "", text))
        _, compute, steps, _ = self.simulate(f"{self.folder}/speed.toml", "--set", "cluster.jitter=0")
        self.assertAlmostEqual(compute, steps * float(found["softmax.16"]), delta=1e-3 * compute)
        self.simulate("local", "--set", "workers=2", "--set", "cluster.hosts.{}.slots=2".format(self.hosts(text)), strategy="downpour")

    @staticmethod
    def hosts(text):
        return re.search(r"^\[hosts\.(\w+)\]", text, re.M)[1]

    def test_every_device_and_another_file(self):
        file = f"{self.folder}/both.toml"
        devices = re.findall(r"^  (\w+) .*: ready$", self.dsgd("list", "devices").stdout, re.M)
        self.dsgd("calibrate", "-o", file, "--devices", ",".join(devices), "--models", "softmax,softmax", "--minibatches", "8,8", "--strategies",
                  "sync,sync", "--ranks", "1")
        with open(file) as f:
            text = f.read()
        self.assertEqual(re.findall(r"^\[hosts\.(\w+)\]", text, re.M), devices)
        self.assertEqual(re.findall(r"^slots = (\d)", text, re.M), ["1"] + ["0"] * (len(devices) - 1))
        for device in devices:
            slots = [f"--set=cluster.hosts.{other}.slots={int(other == device)}" for other in devices]
            self.assertGreater(self.simulate(file, *slots)[0], 0)
        self.assertFalse(os.path.exists(f"{self.folder}/config"))

    def test_wrong_options(self):
        for words, problem in {
            ("--models", "lenot"): '--models: "lenot" is unknown, did you mean lenet?',
            ("--strategies", "sinc"): '--strategies: "sinc" is unknown, did you mean sync?',
            ("--devices", "abacus"): '--devices: "abacus" is unknown',
            ("--minibatches", "0"): "--minibatches: Value 0 not in range",
            ("--ranks", "0"): "--ranks: Value 0 not in range",
            ("--model", "lenet"): "--model: unknown option, did you mean --models?",
        }.items():
            self.assertIn(problem, self.refused(*words))
        self.assertFalse(os.path.exists(f"{self.folder}/config/dsgd/clusters/local.toml"))

    def test_nowhere_to_write(self):
        with open(f"{self.folder}/file", "w"):
            pass
        self.assertRegex(self.refused("-o", f"{self.folder}/file/x.toml"), "x.toml: cannot be written: Not a directory")
        self.environment["XDG_CONFIG_HOME"] = f"{self.folder}/file"
        self.assertRegex(self.refused(), "file/dsgd/clusters: cannot be made: .*-o takes another file")

    def test_what_was_there_stays_until_the_new_one_is_complete(self):
        file = f"{self.folder}/x.toml"
        with open(file, "w") as f:
            f.write("old")
        running = subprocess.Popen([DSGD, "calibrate", "-o", file], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        running.send_signal(signal.SIGINT)
        self.assertEqual(running.wait(PATIENCE), 130)
        with open(file) as f:
            self.assertEqual(f.read(), "old")
        self.assertEqual(sorted(os.listdir(self.folder)), ["tmp", "x.toml"])
        self.assertEqual(os.listdir(f"{self.folder}/tmp"), [])

    def test_without_a_calibration_there_is_no_local_cluster(self):
        found = self.dsgd("sweep", "validate-simulation", "-o", f"{self.folder}/out", code=2).stderr
        self.assertRegex(found, r"cluster: local: this machine has not been measured: `dsgd calibrate` does it")
        self.assertRegex(self.dsgd("list", "experiments").stdout, "validate-simulation +not usable here: .*dsgd calibrate")


def setUpModule():
    if not os.path.exists(f"{DSGD}-sim"):
        raise unittest.SkipTest("built without SimGrid (Debian: libsimgrid-dev)")


if __name__ == "__main__":
    unittest.main()
