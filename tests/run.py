#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs all tests of a build and prints one line for each program, every skipped test with its reason, and the totals.

usage: run.py BUILD_DIR [--quick] [--gpu] [--list] [--excuse=REASON] [NAME ...]     NAME: part of a program's name, or =NAME; default: all
--quick: what takes seconds: no whole runs, and of the ranks' tests one world of each kind
--gpu: only the tests that need a GPU; one that is skipped fails
--list: label and name of each program, as ctest wants them; nothing is run
--excuse: tests may be skipped for that reason, too (part of what they say)
Programs of one process that measure no time run side by side, one for each core; the others by themselves.
"""
import concurrent.futures
import glob
import os
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as xml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
from open_mpi import mpirun, variables
from sanitizers import sanitized

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = "/usr/bin/python3"
LIMIT, SANITIZED_LIMIT = 600, 3600  # seconds a program

# Seconds that a program should take on two cores that have nothing else to do; who takes longer is named at the end.
BUDGETS = {"mpi_": 30, "simulated_test": 120, "gpu_": 60, "layers_": 60, "end_to_end_test.py": 300, "simulated_runs_test.py": 240, "plots_test.py": 120,
           "namespaces_test.py": 60, "calibrate_test.py": 60, "convergence_test.py": 60, "gpu_runs_test.py": 90}
BUDGET = 20

# A single process, and no clock in it that another program's work would disturb.
SIDE_BY_SIDE = ("cluster_test", "compression_test", "datasets_test", "experiment_test", "gather_test", "gpu_kernels_test", "gpu_parts_test",
                "gpu_parts_twin_test", "gpu_test", "gpu_twin_test", "layers_test", "layers_twin_test", "model_test", "model_twin_test",
                "optimizer_test", "oracles_test", "plots_test.py", "sampler_test", "shard_test", "simulated_test", "simulation_test",
                "strategies_test", "winograd_test", "wire_test")
QUICK_WORLDS = ("-2w0s", "-2w1s")

# Workers, servers and ranks per host (0: all) of the mpi_*_test programs; mpi_lockstep_* run without servers, mpi_servers_* with.
WORLDS = [(workers, servers, 0) for servers in (0, 1, 2) for workers in (1, 2, 3, 4)] + [
    (2, 0, 1), (3, 0, 1), (4, 0, 1), (3, 0, 2), (4, 0, 2), (5, 0, 3), (1, 1, 1), (2, 1, 2), (3, 1, 2), (1, 2, 2), (2, 2, 1)]

# Tests that need a GPU are told by their names; their worlds fit on one card.
GPU_TESTS = "*cudnn*:*Cudnn*:*Cuda*:*Gpu*:*Nccl*"
# With a twin of CUDA under them: one size of minibatches less, and not what counts allocations, which are the twin's.
TWIN_TESTS = f"{GPU_TESTS}:-*_12:*AllocatesNothing*"
GPU_WORLDS = [(1, 0, 0), (2, 0, 0), (3, 0, 0), (2, 1, 0), (2, 2, 0)]

# Our own kernels have a copy for each instruction set; the widest is tested with everything else.
KERNELS = {"winograd_test": "*", "layers_test": "Layers/OnDevice.AgreesWithTheReference/cpu_*2:Activations.*:Transpose.*:"
                                                "-*lenet*:*cifar*:*resnet*:*mlp*:*dnn_?2"}
# And once more without oneDNN, as a build without it has them.
WITHOUT_ONEDNN = {"layers_test": "Layers/OnDevice.AgreesWithTheReference/cpu_*:Devices.*:MaxPool.*", "model_test": "*cpu*"}


def gpu_programs(build):
    """As programs, of those that have tests for GPUs."""
    for name in sorted(f for f in os.listdir(f"{build}/tests") if f.endswith("_test") and not f.endswith("_twin_test")):
        program, chosen = f"{build}/tests/{name}", f"--gtest_filter={GPU_TESTS}"
        if "  " not in subprocess.run([program, "--gtest_list_tests", chosen], stdout=subprocess.PIPE, text=True).stdout:
            continue
        if not name.startswith("mpi_"):
            yield name, [program, chosen], "gtest"
            continue
        for workers, servers, ranks_per_host in GPU_WORLDS:
            if servers and name.startswith("mpi_lockstep") or not servers and name.startswith("mpi_servers"):
                continue
            command = [*mpirun(workers + servers), program, str(servers), str(ranks_per_host), chosen]
            yield f"{name}-{workers}w{servers}s", command, "gtest"
    yield "gpu_runs_test.py", [sys.executable, "tests/gpu/gpu_runs_test.py", "-v", "Gpu"], "unittest"


def programs(build):
    """(name, command, kind) of every test program; kind says how its output is counted."""
    binaries = sorted(f for f in os.listdir(f"{build}/tests") if f.endswith("_test"))
    for name in binaries:
        program = f"{build}/tests/{name}"
        if name == "fetch_test":
            yield name, ["bash", "tests/unit/fetch_test.sh", build], "gtest"
        elif name.endswith("_twin_test") and not name.startswith("mpi_"):
            yield name, [program, f"--gtest_filter={TWIN_TESTS}"], "gtest"
        elif name.startswith("mpi_"):
            for workers, servers, ranks_per_host in GPU_WORLDS if "_gpu_" in name else WORLDS:
                if servers and name.startswith("mpi_lockstep") or not servers and name.startswith("mpi_servers"):
                    continue
                hosts = f"-{ranks_per_host}each" if ranks_per_host else ""
                command = [*mpirun(workers + servers), program, str(servers), str(ranks_per_host)]
                yield f"{name}-{workers}w{servers}s{hosts}", command, "gtest"
        else:
            yield name, [program], "gtest"
            for instructions in ("avx2", "generic") if name in KERNELS else ():
                command = ["env", f"DSGD_INSTRUCTIONS={instructions}", program, f"--gtest_filter={KERNELS[name]}"]
                yield f"{name}-{instructions}", command, "gtest"
            if name in WITHOUT_ONEDNN:
                command = ["env", "DSGD_ONEDNN=off", program, f"--gtest_filter={WITHOUT_ONEDNN[name]}"]
                yield f"{name}-without-onednn", command, "gtest"
    for file in sorted(glob.glob("tests/*/*_test.py", root_dir=ROOT), key=os.path.basename):
        yield os.path.basename(file), [PYTHON, file, "-v"], "unittest"


def count_gtest(log, report):
    """(passed, failed, {skipped test: reason}) from a GoogleTest XML report."""
    if not os.path.exists(report):
        return 0, 1, {}
    passed, failed, skipped = 0, 0, {}
    with open(report, errors="replace") as f:  # names of parameters may hold characters that XML forbids
        content = re.sub("[\x00-\x08\x0b-\x1f\x7f]|value_param=\"[^\"]*\"", "", f.read())
    for case in xml.fromstring(content).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None:
            failed += 1
        elif case.find("skipped") is not None:
            skipped[name] = " ".join((case.find("skipped").text or case.find("skipped").get("message") or "").split())
        elif case.get("status") == "run":
            passed += 1
    return passed, failed, skipped


def count_unittest(log, report):
    passed = len(re.findall(r"\.\.\. ok$", log, re.M))
    failed = len(re.findall(r"\.\.\. (?:FAIL|ERROR)$", log, re.M))
    skipped = dict(re.findall(r"^ *(\w+) \(.*?\.\.\. skipped ['\"](.*)['\"]$", log, re.M))
    return passed, failed, skipped


def label(name):
    if name.startswith("mpi_") or name == "simulated_test":
        return "ranks"
    return "runs" if name.endswith(".py") else "gpu" if "gpu" in name or "twin" in name else "unit"


def side_by_side(name):
    return any(name == one or name.startswith(one + "-") for one in SIDE_BY_SIDE)


def budget(name):
    return next((seconds for part, seconds in BUDGETS.items() if name.startswith(part)), BUDGET)


def is_quick(name):
    if name.startswith("mpi_"):
        return name.endswith(QUICK_WORLDS)
    return not name.endswith(".py") and name != "simulated_test" or name in ("includes_test.py", "links_test.py", "mutations_test.py")


class Suite:
    """Runs programs, and counts what their tests say."""

    def __init__(self, build, gpu, excuses):
        self.build, self.logs = build, f"{build}/logs"
        os.makedirs(self.logs, exist_ok=True)
        self.environment = dict(os.environ, **variables(), DSGD_BUILD=os.path.abspath(build), OMP_NUM_THREADS="1")
        self.environment.setdefault("ASAN_OPTIONS", "detect_leaks=0")  # Open MPI's own
        self.environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        self.limit = SANITIZED_LIMIT if sanitized(build) else LIMIT
        with open("tests/skips.txt") as f:
            declared = [] if gpu else [line.split("#")[0].strip() for line in f]
        self.allowed = [line for line in declared if not line.startswith("because ")]
        self.reasons = [line.removeprefix("because ") for line in declared if line.startswith("because ")] + excuses
        self.totals, self.bad, self.slow = [0, 0, 0], [], []
        self.telling = threading.Lock()

    def run(self, name, command, kind):
        report, path = os.path.abspath(f"{self.logs}/{name}.xml"), f"{self.logs}/{name}.log"
        if os.path.exists(report):
            os.remove(report)
        begun = time.time()
        with open(path, "w") as log:
            try:
                code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=self.limit,
                                      env=dict(self.environment, GTEST_OUTPUT=f"xml:{report}")).returncode
            except subprocess.TimeoutExpired:
                code = "no end after %d s" % self.limit
        with self.telling:
            self.tell(name, kind, code, time.time() - begun, path, report)

    def tell(self, name, kind, code, seconds, path, report):
        with open(path, errors="replace") as log:
            text = log.read()
        passed, failed, skipped = (count_gtest if kind == "gtest" else count_unittest)(text, report)
        if code != 0 and failed == 0:
            failed = 1
        excused = {r: [test for test in skipped if r in skipped[test]] for r in self.reasons}
        unexpected = [test for test in skipped if test not in self.allowed and not any(test in tests for tests in excused.values())]
        self.totals = [a + b for a, b in zip(self.totals, (passed, failed + len(unexpected), len(skipped) - len(unexpected)))]
        print(f"{'ok  ' if not failed and not unexpected else 'FAIL'} {name:<40} {passed:>4} passed {seconds:6.1f} s of {budget(name)}",
              flush=True)
        if seconds > budget(name):
            self.slow.append(f"{name} ({seconds:.0f} s of {budget(name)})")
        for reason, tests in excused.items():
            if tests:
                print(f"     skipped {len(tests)} tests: {skipped[tests[0]][skipped[tests[0]].index(reason):]}")
        for test, reason in skipped.items():
            if any(test in tests for tests in excused.values()):
                continue
            print(f"     skipped {test}: {reason}{'' if test in self.allowed else '   (not in tests/skips.txt)'}")
        if failed or unexpected:
            self.bad.append(name)
            print("".join(f"     | {line}\n" for line in text.splitlines()[-40:]), end="")
            print(f"     exit code {code}; whole log: {path}", flush=True)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, options = os.path.abspath(sys.argv[1]), [word for word in sys.argv[2:] if word.startswith("--")]
    for option in options:
        if option not in ("--quick", "--gpu", "--list") and not option.startswith("--excuse="):
            sys.exit(f"run.py: {option}: unknown option\n{__doc__}")
    gpu, wanted = "--gpu" in options, [word for word in sys.argv[2:] if not word.startswith("--")]
    os.chdir(ROOT)
    chosen = [(name, command, kind) for name, command, kind in (gpu_programs if gpu else programs)(build)
              if not wanted or any(w[1:] == name if w.startswith("=") else w in name for w in wanted)]
    if "--quick" in options:
        chosen = [program for program in chosen if is_quick(program[0])]
    if "--list" in options:
        print("\n".join(f"{label(name)} {name}" for name, _, _ in chosen))
        return 0
    begun = time.time()
    suite = Suite(build, gpu, [option.removeprefix("--excuse=") for option in options if option.startswith("--excuse=")])
    together = [program for program in chosen if not gpu and side_by_side(program[0])]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(suite.run, *program) for program in together]:
            done.result()
    for program in chosen:
        if program not in together:
            suite.run(*program)
    if suite.slow:
        print("longer than their budgets on two idle cores: " + ", ".join(suite.slow))
    if suite.bad:
        print("failed: " + " ".join(suite.bad))
    passed, failed, skipped = suite.totals
    print(f"{passed} passed, {failed} failed, {skipped} skipped in {(time.time() - begun) / 60:.1f} min")
    return 1 if suite.bad or passed == 0 else 0


sys.exit(main())
