#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs on a GPU, and what can be tested of them without one: the script for machines that have one, and how ranks end.

    DSGD_BUILD=build /usr/bin/python3 tests/gpu/gpu_runs_test.py -v
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))
from open_mpi import mpirun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "plots"))
import results  # noqa: E402

BUILD = os.path.abspath(os.environ.get("DSGD_BUILD", "build"))
PATIENCE = 240  # seconds that any one command may take
DEVICES = subprocess.run([f"{BUILD}/dsgd", "list", "devices"], stdout=subprocess.PIPE, text=True).stdout
WITHOUT_GPU = re.search(r"^ *cudnn .*?: (?!ready$)(.*)$", DEVICES, re.M)
WITHOUT_CUDA = "cudnn" not in DEVICES or "built without CUDA" in DEVICES


def run(*words, code=0, **variables):
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "DSGD_BUILD": BUILD, **variables}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    if done.returncode != code:
        raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dsgd-gpu-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)


class Script(Case):
    """tests/gpu.sh."""

    @unittest.skipUnless(WITHOUT_GPU, "there is a GPU")
    def test_says_why_there_is_no_gpu(self):
        said = run("bash", "tests/gpu.sh", self.folder + "/out", code=1)
        self.assertIn("gpu.sh: no GPU to use with", said)
        self.assertIn(WITHOUT_GPU[1], said)
        self.assertIn("dsgd doctor` says more", said)

    def test_refuses_unknown_options(self):
        self.assertIn("--sanitise: unknown option (allowed: --sanitize", run("bash", "tests/gpu.sh", "--sanitise", code=1))
        self.assertIn("usage: bash tests/gpu.sh", run("bash", "tests/gpu.sh", "--help"))

    @unittest.skipIf(WITHOUT_CUDA, "built without CUDA: there is nothing to carry to a GPU")
    def test_carries_all_libraries(self):
        bundle = {"DSGD_BUNDLE": self.folder + "/bundle"}
        self.assertRegex(run("bash", "tests/gpu.sh", "bundle", **bundle), r"dsgd.tar.gz: \d+ MiB")
        bundle["DSGD_BUILD"] = self.folder  # no programs there
        carried = os.path.realpath(self.folder) + "/bundle/unpacked/"
        foreign = []
        # The system's C library and C++ library; CUDA's and the driver's are the other machine's.
        known = re.compile(r"linux-vdso|ld-linux|/lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s|cud[a-z_]*|cublas[A-Za-z]*|nv[a-zA-Z-]*|nccl)[.-]")
        for program in "dsgd", "dsgd-sim", "bin/mpirun":
            ldd = f"LD_LIBRARY_PATH=$DSGD_LIBRARIES ldd $DSGD_PROGRAMS/{program}"
            for line in run("bash", "tests/gpu.sh", "exec", "sh", "-c", ldd, **bundle).splitlines():
                if carried not in line and not known.search(line):
                    foreign.append(f"{program}: {line.strip()}")
        self.assertEqual([], foreign)
        report = run("bash", "tests/gpu.sh", "exec", "dsgd", "doctor", **bundle)
        self.assertRegex(report, r"ok +ranks +rank 1: .*shares memory with rank 0")
        self.assertRegex(report, r"ok +simulator")
        self.assertEqual(carried + "dsgd", run("bash", "tests/gpu.sh", "exec", "bash", "-c", "command -v dsgd", **bundle).strip())


class Watch(unittest.TestCase):
    """A sum between GPUs that does not come ends the ranks, with a message."""

    def ended(self, test, code=1):
        program = f"{BUILD}/tests/mpi_lockstep_nccl_test"
        if not os.path.exists(program):
            self.skipTest("built without NCCL")
        return run(*mpirun(2, crowded=True), program, "--gtest_also_run_disabled_tests",
                   f"--gtest_filter=NcclTwin.DISABLED_{test}", code=code)

    def test_ends_ranks_whose_sum_does_not_come(self):
        self.assertRegex(self.ended("EndsWithoutTheSum"), r"rank \d: NCCL: a sum of GPUs' vectors is not there after 0.3 s: a peer has died")

    def test_ends_ranks_whose_abort_hangs(self):
        said = self.ended("EndsWhereAbortHangs", code=128 + signal.SIGALRM)
        self.assertRegex(said, r"rank \d: NCCL: a sum of GPUs' vectors is not there after 0.3 s")

    def test_ends_ranks_with_what_nccl_says(self):
        self.assertRegex(self.ended("EndsWithAFailedPeer"), r"rank \d: NCCL: a sum of GPUs' vectors: an error of the twin: no such network")


class Runs:
    """Whole runs, against the host's."""

    DSGD, MODEL, SAMPLES = f"{BUILD}/dsgd", "mlp", 2048
    SETTINGS = {"threshold": {"tau": 0.05}, "topk": {"density": 0.1}, "diloco": {"H": 10}, "sandblaster": {"batch": 64, "portion": 1}}

    def train(self, strategy, device, own={}, **settings):
        settings = {"dataset": "synthetic", "model": self.MODEL, "synthetic.train": 1024, "synthetic.test": 256, "minibatch": 32,
                    "samples": self.SAMPLES, "snapshots": 2, "workers": 1, "optimizer.learning_rate": 0.01,
                    "stall_limit": 120, "device": device, **settings}  # twins are slow
        name = f"{self.folder}/{strategy}-{device}-{len(os.listdir(self.folder))}"
        lines = [f"{key} = {value if isinstance(value, (int, float)) else repr(value)}" for key, value in settings.items()]
        lines += [f"[strategy.{strategy}]"] + [f"{key} = {value}" for key, value in {**self.SETTINGS.get(strategy, {}), **own}.items()]
        with open(name + ".toml", "w") as file:
            file.write("\n".join(lines))
        run(self.DSGD, "run", name + ".toml", "-o", name)
        return results.read(next(pathlib.Path(name).glob("*.h5")))

    def same_course(self, a, b, bound):
        self.assertEqual(len(a.snapshots), len(b.snapshots))
        for x, y in zip(a.snapshots["test_loss"], b.snapshots["test_loss"]):
            self.assertLess(abs(x - y), bound * y)

    def test_every_strategy_learns_what_it_learns_on_the_host(self):
        listed = run(self.DSGD, "list", "strategies")
        for strategy in re.findall(r"^  (\w+) ", listed, re.M):
            with self.subTest(strategy):
                there, here = (self.train(strategy, device) for device in ("cudnn", "cpu"))
                self.assertTrue(there.ended, there.outcome)
                self.same_course(there, here, 1e-2 if strategy in ("threshold", "topk", "qsgd", "signsgd", "ef_signsgd", "onebit") else 1e-3)

    def test_servers_and_their_workers_share_a_card(self):
        for strategy in "downpour", "easgd":
            self.assertTrue(self.train(strategy, "cudnn", workers=2).ended)

    def test_the_simulation_uses_the_card(self):
        real, simulated = (self.train("sync", "cudnn", workers=2, engine=engine) for engine in ("mpi", "simulated"))
        self.same_course(simulated, real, 1e-4)
        self.assertEqual(real.provenance["device_library"], simulated.provenance["device_library"])


@unittest.skipIf(WITHOUT_GPU or WITHOUT_CUDA, WITHOUT_GPU[1] if WITHOUT_GPU else "built without CUDA")
class Gpu(Runs, Case):
    """On one card."""

    def test_ranks_on_one_card_are_one_worker(self):
        for model, bound in ("mlp", 1e-4), ("lenet", 1e-4):
            alone = self.train("sync", "cudnn", model=model, minibatch=96, samples=3840)
            for workers in 2, 3:
                with self.subTest(model=model, workers=workers):
                    several = self.train("sync", "cudnn", model=model, minibatch=96 // workers, workers=workers, samples=3840)
                    self.same_course(several, alone, bound)


@unittest.skipUnless(os.path.exists(f"{BUILD}/twin/dsgd"), "built without NCCL")
class Twin(Runs, Case):
    """On twins of cards, in the host's memory."""

    DSGD, MODEL, SAMPLES = f"{BUILD}/twin/dsgd", "softmax", 512

    def test_local_updates_are_in_the_graph(self):
        for strategy, rule, own in (("averaging", "adam", {}), ("easgd_sync", "momentum", {}), ("eamsgd_sync", "sgd", {}),
                                    ("dpsgd", "nesterov", {"mix": "'after'"})):
            with self.subTest(strategy):
                weights, launches = [], []
                for clip in 0, 1e6:  # with any clip the update waits for a norm: a launch of its own in every step
                    file = f"{self.folder}/{strategy}-{clip}"
                    with unittest.mock.patch.dict(os.environ, {"DSGD_TWIN_LAUNCHES": file}):
                        there = self.train(strategy, "cudnn", own, workers=2, **{"optimizer.rule": rule, "optimizer.clip": clip})
                    weights.append(there.result["weights_sha256"])
                    launches.append(sum(map(int, pathlib.Path(file).read_text().split())))
                self.assertEqual(weights[0], weights[1])
                replayed = sum(there.ranks["steps"] - 1)  # the first step is not captured
                self.assertEqual(launches[1] - launches[0], replayed)

    def test_buckets_are_one_sum(self):
        settings = {"model": "lenet", "workers": 3, "minibatch": 8, "samples": 200, "optimizer.rule": "momentum"}
        shared = self.train("sync", "cudnn", **settings)
        self.assertRegex(shared.provenance["collectives"], "not NCCL: 3 workers share 1 GPUs")
        with unittest.mock.patch.dict(os.environ, {"DSGD_TWIN_CARDS": "1"}):
            whole, buckets = (self.train("sync", "cudnn", {"bucket_mib": size}, **settings) for size in (0, 0.25))
        self.assertRegex(whole.provenance["collectives"], r"^NCCL [\d.]+$")
        self.assertRegex(buckets.provenance["collectives"], r"^NCCL [\d.]+, gradients in \d+ buckets during the backward pass$")
        self.assertEqual({shared.result["weights_sha256"]}, {one.result["weights_sha256"] for one in (whole, buckets)})
        self.assertEqual(list(whole.ranks["bytes_sent"]), list(buckets.ranks["bytes_sent"]))
        self.same_course(buckets, self.train("sync", "cpu", **settings), 1e-5)


if __name__ == "__main__":
    unittest.main()
