#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What simulated ranks cost, beside the targets: memory and time of whole simulations, the overhead over bare gradients.

    /usr/bin/python3 tests/benchmarks/scale.py BUILD_DIR [memory] [overhead] [timing] [agreement]    # about four minutes; default: all

memory     peak of 256 LeNet workers; target 1 GiB
overhead   processor time of a minibatch of 32 with 32 LeNet workers over that of its gradient alone; target 15 %. Alone means: in turns
           for 32 replicas, each with its own model and gradient. The same process takes two of these after every eighth gradient that
           it simulates, since others on the machine slow both. Median of stretches of 128, of three simulations of each strategy
timing     4096 workers, 20 rounds of sync, 25.6 million parameters, gradients skipped; target 120 s and 4 GiB
agreement  virtual seconds of 2 to 64 LeNet workers with sync, gradients skipped, over those computed; target 1 %
"""
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import h5py

STRATEGIES = ("sync", "averaging", "downpour", "staleness_aware")
COMMON = """
engine = "simulated"
dataset = "synthetic"
synthetic.test = 1
snapshots = 0
cluster.name = "ethernet-10g"
cluster.hosts.node.count = 5000
"""


def plan(folder, strategy, keys):
    path = os.path.join(folder, "plan.toml")
    with open(path, "w") as file:
        file.write(COMMON + "".join(f"{key.replace('__', '.')} = {json.dumps(value)}\n" for key, value in keys.items())
                   + f"[strategy.{strategy}]\n")
    return path


def simulate(build, strategy, **keys):
    """(wall-clock seconds, processor seconds, MiB) of one simulation."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        job = subprocess.Popen([f"{build}/dsgd-sim", plan(folder, strategy, keys), ""], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
    if job.returncode:
        sys.exit(f"scale: {strategy} with {keys} failed")
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def virtual_seconds(build, strategy, **keys):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([f"{build}/dsgd", "run", plan(folder, strategy, keys), "-o", f"{folder}/out"], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        (result,) = (name for name in os.listdir(f"{folder}/out") if name.endswith(".h5"))
        with h5py.File(f"{folder}/out/{result}") as file:
            return float(file["result"].attrs["seconds"])


def memory(build):
    for strategy in STRATEGIES:
        _, _, mib = simulate(build, strategy, model="lenet", workers=256, samples=16384)
        print(f"memory     {strategy:<16} 256 LeNet workers: {mib:5.0f} MiB (target 1024)", flush=True)


def overhead(build):
    found = {strategy: [] for strategy in STRATEGIES}
    for _ in range(3):
        for strategy, stretches in found.items():
            with tempfile.TemporaryDirectory() as folder:
                job = subprocess.run([f"{build}/tests/simulated_gradients", plan(folder, strategy, {"model": "lenet", "workers": 32, "samples": 62 * 1024})],
                                     check=True, capture_output=True, text=True)
            stretches += [[float(us) for us in line.split()] for line in job.stdout.splitlines()]
    for strategy, stretches in found.items():
        over = [(whole / bare - 1) * 100 for whole, _, bare in stretches]
        slower = statistics.median((inside / bare - 1) * 100 for _, inside, bare in stretches)
        low, middle, high = statistics.quantiles(over, n=4)
        print(f"overhead   {strategy:<16} 32 LeNet workers: {middle:5.1f} % (quartiles {low:.1f} and {high:.1f} of {len(over)}; target 15); of it "
              f"{slower:+.1f} inside gradients, which alone take {statistics.median(bare for *_, bare in stretches):.0f} us", flush=True)


def timing(build):
    seconds, cpu, mib = simulate(build, "sync", model="mlp", synthetic__shape="12x1997x1", gradient="skipped", workers=4096,
                                 samples=4096 * 32 * 20, synthetic__train=1000000)
    print(f"timing     sync             4096 workers, 20 rounds, 25600010 parameters: {seconds:.0f} s, {cpu:.0f} s of processor time, "
          f"{mib:.0f} MiB (target 120 s, 4096 MiB)", flush=True)


def agreement(build):
    for workers in 2, 3, 8, 64:
        computed, skipped = (virtual_seconds(build, "sync", model="lenet", workers=workers, samples=workers * 32 * 2, gradient=gradient,
                                             synthetic__train=2048) for gradient in ("computed", "skipped"))
        print(f"agreement  sync             {workers:>4} workers: {100 * (skipped / computed - 1):.4f} % (target 1)", flush=True)


def main():
    parts = {"memory": memory, "overhead": overhead, "timing": timing, "agreement": agreement}
    build, *wanted = sys.argv[1:] or [None]
    if not build or not os.path.exists(f"{build}/dsgd-sim") or any(w not in parts for w in wanted):
        sys.exit(re.sub("^", "scale: no simulator in the build folder, or an unknown part\n", __doc__))
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in wanted or parts:
        parts[name](build)


if __name__ == "__main__":
    main()
