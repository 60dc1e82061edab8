#!/usr/bin/python3
"""Runs all tests of a build and prints one line for each program, every skipped test with its reason, and the totals.

usage: run.py BUILD_DIR [--gpu] [--excuse=REASON] [NAME ...]     NAME: part of a program's name; default: all
--gpu: only the tests that need a GPU; one that is skipped fails
--excuse: tests may be skipped for that reason, too (part of what they say)
"""
import glob
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
from open_mpi import mpirun, variables
from sanitizers import sanitized

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = "/usr/bin/python3"
LIMIT, SANITIZED_LIMIT = 600, 3600  # seconds a program

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


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, gpu = sys.argv[1], "--gpu" in sys.argv
    wanted = [word for word in sys.argv[2:] if not word.startswith("--")]
    os.chdir(ROOT)
    logs = f"{build}/logs"
    os.makedirs(logs, exist_ok=True)
    environment = dict(os.environ, **variables(), DSGD_BUILD=os.path.abspath(build), OMP_NUM_THREADS="1")
    environment.setdefault("ASAN_OPTIONS", "detect_leaks=0")  # Open MPI's own
    environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    limit = SANITIZED_LIMIT if sanitized(build) else LIMIT
    with open("tests/skips.txt") as f:
        declared = [] if gpu else [line.split("#")[0].strip() for line in f]
    allowed = [line for line in declared if not line.startswith("because ")]
    reasons = [line.removeprefix("because ") for line in declared if line.startswith("because ")]
    reasons += [word.removeprefix("--excuse=") for word in sys.argv if word.startswith("--excuse=")]
    totals, bad = [0, 0, 0], []
    for name, command, kind in (gpu_programs if gpu else programs)(build):
        if wanted and not any(w in name for w in wanted):
            continue
        report = os.path.abspath(f"{logs}/{name}.xml")
        if os.path.exists(report):
            os.remove(report)
        begun = time.time()
        with open(f"{logs}/{name}.log", "w") as log:
            try:
                code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=limit,
                                      env=dict(environment, GTEST_OUTPUT=f"xml:{report}")).returncode
            except subprocess.TimeoutExpired:
                code = "no end after %d s" % limit
        with open(f"{logs}/{name}.log", errors="replace") as log:
            text = log.read()
        passed, failed, skipped = (count_gtest if kind == "gtest" else count_unittest)(text, report)
        if code != 0 and failed == 0:
            failed = 1
        excused = {r: [test for test in skipped if r in skipped[test]] for r in reasons}
        unexpected = [test for test in skipped if test not in allowed and not any(test in tests for tests in excused.values())]
        totals = [a + b for a, b in zip(totals, (passed, failed + len(unexpected), len(skipped) - len(unexpected)))]
        print(f"{'ok  ' if not failed and not unexpected else 'FAIL'} {name:<40} {passed:>4} passed {time.time() - begun:6.1f} s", flush=True)
        for reason, tests in excused.items():
            if tests:
                print(f"     skipped {len(tests)} tests: {skipped[tests[0]][skipped[tests[0]].index(reason):]}")
        for test, reason in skipped.items():
            if any(test in tests for tests in excused.values()):
                continue
            print(f"     skipped {test}: {reason}{'' if test in allowed else '   (not in tests/skips.txt)'}")
        if failed or unexpected:
            bad.append(name)
            print("".join(f"     | {line}\n" for line in text.splitlines()[-40:]), end="")
            print(f"     exit code {code}; whole log: {logs}/{name}.log")
    if bad:
        print("failed: " + " ".join(bad))
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    sys.exit(1 if bad or totals[0] == 0 else 0)


main()
