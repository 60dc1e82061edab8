# SPDX-License-Identifier: Apache-2.0
"""Puts bugs into the sources, one at a time, rebuilds what changed, and lists the bugs that no test notices."""
import argparse
import concurrent.futures
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import time
import tomllib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))
from open_mpi import mpirun, variables

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUGS = os.path.join(ROOT, "tests", "mutation", "mutations.toml")
BUILD = os.path.join(ROOT, "build-mutation")
# Fast ones first; then real ranks, who share memory, and simulated ones, on whom the conformance suite runs.
PROGRAMS = ["shard_test", "optimizer_test", "sampler_test", "compression_test", "wire_test", "oracles_test", "strategies_test"]
REAL_RANKS, RANKS = "mpi_communicator_test", "simulated_test"
SLOW = "*ReachesTheOptimum*"  # Table/Conformance.ReachesTheOptimum/topk
ENVIRONMENT = dict(os.environ, **variables(), GTEST_FAIL_FAST="1")
SAMPLE = 100  # bugs, within 30 minutes on two cores
COMPILING, TESTING = 900, 600  # seconds at most; a bug may make a program wait for ever


def read_bugs(parts):
    with open(BUGS, "rb") as f:
        bugs = tomllib.load(f)["bug"]
    wrong = []
    for number, bug in enumerate(bugs, 1):
        bug["name"] = f"{number} {bug['file']}: {bug['what']}"
        with open(os.path.join(ROOT, bug["file"])) as f:
            count = f.read().count(bug["old"])
        if count != 1:
            wrong.append(f"{bug['name']}: `{bug['old']}` is there {count} times (expected: once)")
    if wrong:
        sys.exit("tests/mutation/mutations.toml:\n  " + "\n  ".join(wrong))
    return [b for b in bugs if not parts or any(p in b["file"] or p in b["what"] for p in parts)]


class Copy:
    """A copy of the sources with a build of its own."""

    def __init__(self, number, bugs):
        self.source, self.build = f"{BUILD}/{number}/source", f"{BUILD}/{number}/build"
        self.changed = None
        self.bugs = bugs  # that may be tried here

    def make(self):
        files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
        for name in files.stdout.splitlines():
            there, here = os.path.join(ROOT, name), os.path.join(self.source, name)
            if os.path.isfile(there) and not (os.path.isfile(here) and read(there) == read(here)):
                os.makedirs(os.path.dirname(here), exist_ok=True)
                shutil.copyfile(there, here)
        self.run(["cmake", "-S", self.source, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                  "-DDSGD_CUDA=OFF"], COMPILING)
        self.compile()
        own = sorted({test for bug in self.bugs for test in bug.get("tests", [])})
        for command in [*self.named(own), *(self.tests("*") if any("tests" not in bug for bug in self.bugs) else [])]:
            self.run(command, TESTING)

    def compile(self):
        named = [test.split()[0] for bug in self.bugs for test in bug.get("tests", [])]
        programs = [name for name in named if not name.endswith(".py")]
        if any(name.endswith(".py") and name != "plots_test.py" for name in named):
            programs += ["dsgd", "dsgd-sim"]
        if any("tests" not in bug for bug in self.bugs):
            programs += [*PROGRAMS, REAL_RANKS, RANKS]
        if programs:
            self.run(["ninja", "-C", self.build, "-j1", *sorted(set(programs))], COMPILING)

    def named(self, tests):
        """Commands of what a bug says in `tests`: a program of tests/, and arguments."""
        for test in tests:
            name, *arguments = test.split()
            folder = f"{self.source}/tests/runs/" if name.endswith(".py") else f"{self.build}/tests/"
            yield [*([sys.executable] if name.endswith(".py") else []), folder + name, *arguments]

    def tests(self, *likely):
        """Commands; of the simulated ranks' tests the likely ones first, the slow ones last."""
        folder = f"{self.build}/tests/"
        yield from ([folder + program] for program in PROGRAMS)
        yield [*mpirun(2, crowded=True), folder + REAL_RANKS]
        yield from ([folder + RANKS, f"--gtest_filter={chosen}"] for chosen in likely)

    def run(self, command, limit):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=limit,
                              env=dict(ENVIRONMENT, DSGD_BUILD=self.build))
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}")

    def write(self, name, text):
        with open(os.path.join(self.source, name), "w") as f:
            f.write(text)

    def try_bug(self, bug):
        """Who noticed it; empty: nobody."""
        if self.changed and self.changed != bug["file"]:
            self.write(self.changed, read(os.path.join(ROOT, self.changed)).decode())
        self.changed = bug["file"]
        self.write(bug["file"], read(os.path.join(ROOT, bug["file"])).decode().replace(bug["old"], bug["new"]))
        self.compile()
        stem = os.path.basename(bug["file"]).split(".")[0]
        for command in self.named(bug["tests"]) if "tests" in bug else self.tests(f"*/{stem}", f"-{SLOW}", SLOW):
            program = next(word for word in map(os.path.basename, command) if word.endswith(("_test", "_test.py")))
            try:
                self.run(command, TESTING)
            except RuntimeError as e:
                failed = re.search(r"\[  FAILED  \] \S+\.[^\s,]+|(?:FAIL|ERROR): \w+", str(e))
                return f"{program} {failed[0].split()[-1] if failed else 'crashed'}"
            except subprocess.TimeoutExpired:
                return f"{program} did not end"
        return ""


def read(path):
    with open(path, "rb") as f:
        return f.read()


def main():
    parser = argparse.ArgumentParser(prog="mutation.sh", description=__doc__)
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="bugs tried at the same time; default: one for each core")
    parser.add_argument("--list", action="store_true", help="print the bugs and try none")
    parser.add_argument("--all", action="store_true", help="try all bugs, not a sample: hours on two cores")
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help=f"so many, drawn by --seed (default {SAMPLE})")
    parser.add_argument("--seed", help="any text; default: today's date")
    parser.add_argument("part", nargs="*", help="all bugs whose file or text holds it, no sample")
    args = parser.parse_args()
    bugs = read_bugs(args.part)
    if not (args.part or args.list or args.all) and len(bugs) > args.sample:
        seed = args.seed or time.strftime("%Y-%m-%d")
        print(f"a sample of {args.sample} of {len(bugs)} bugs, drawn by --seed {seed}; --all tries every one")
        bugs = random.Random(seed).sample(bugs, args.sample)
    if args.list or not bugs:
        print("\n".join(b["name"] for b in bugs) or "no such bug")
        return 0 if bugs else 2

    begun = time.monotonic()
    copies = [Copy(i, bugs) for i in range(min(args.jobs, len(bugs)))]
    print(f"building {len(copies)} copies in build-mutation; their tests must pass first", flush=True)
    with concurrent.futures.ThreadPoolExecutor(len(copies)) as pool:
        list(pool.map(Copy.make, copies))
        idle = queue.SimpleQueue()
        for copy in copies:
            idle.put(copy)

        def attempt(bug):
            copy = idle.get()
            try:
                return copy.try_bug(bug), None
            except (RuntimeError, subprocess.TimeoutExpired) as e:
                return None, str(e)
            finally:
                idle.put(copy)

        # A file's bugs stay together: what was changed last need not be compiled as it was.
        bugs.sort(key=lambda b: b["file"])
        survivors, broken = [], []
        for done, (bug, (noticed, error)) in enumerate(zip(bugs, pool.map(attempt, bugs)), 1):
            if error:
                broken.append(bug)
            elif not noticed:
                survivors.append(bug)
            says = "cannot be tried: " + error if error else noticed or "SURVIVES"
            print(f"[{done}/{len(bugs)}] {bug['name']}: {says}", flush=True)
    print(f"{len(bugs)} bugs, {len(bugs) - len(survivors) - len(broken)} noticed, {len(survivors)} not, {len(broken)} cannot be tried;"
          f" {(time.monotonic() - begun) / 60:.0f} min")
    for bug in survivors:
        print(f"survives: {bug['name']}\n  - {bug['old']}\n  + {bug['new']}")
    return 1 if survivors or broken else 0


if __name__ == "__main__":
    sys.exit(main())
