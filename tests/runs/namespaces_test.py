#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real jobs over TCP between network namespaces with shaped links, and simulations of the same: do seconds agree?

    DSGD_BUILD=build /usr/bin/python3 tests/runs/namespaces_test.py -v

Prints predicted / measured throughput. Asserted is a loose bound, for other programs may have the cores.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "plots"))
import results  # noqa: E402
import validation  # noqa: E402

DSGD = os.path.join(os.path.abspath(os.environ.get("DSGD_BUILD", "build")), "dsgd")
PATIENCE = 100  # seconds that any one command may take
PREFIX = "dsgd-test-"
RATE = 100e6  # bit/s of a shaped link
GOODPUT = RATE / 8 * 1448 / 1514  # bytes/s; tbf counts Ethernet headers, the last 14 of the 66 bytes that are not content
LATENCY = 5e-6  # s of a link, half of an MPI message of 4 bytes without queues

EXPERIMENT = """
title = "Between network namespaces"
dataset = "synthetic"
synthetic.train = 2000
synthetic.test = 100
model = "lenet"
minibatch = 32
samples = 2560
snapshots = 1
optimizer.learning_rate = 0.01
"""
# As much as to say: who has a link of 100 Mbit/s waits for it.
STRATEGIES = ("sync", "averaging", "staleness_aware", "downpour")
LOWEST, HIGHEST = 0.7, 4.0  # predicted / measured throughput


measured = []  # lines, printed at the end: between a test's name and its "ok" they would hide the latter


def tearDownModule():
    print(*measured, sep="\n")


def run(*words, check=True):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    if check and done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode}: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done


def remove(namespace):
    for pid in run("ip", "netns", "pids", namespace, check=False).stdout.split():
        with contextlib.suppress(OSError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "del", namespace, check=False)


def namespaces():
    return [line.split()[0] for line in run("ip", "netns", "list").stdout.splitlines() if line.startswith(PREFIX)]


class Network:
    """Namespaces 10.99.0.1, 10.99.0.2, ... behind a switch in one of its own; each link is shaped in both directions."""

    def __init__(self, hosts, outwards):
        self.name = f"{PREFIX}{os.getpid()}-"
        self.made = []
        self.hosts = hosts
        try:
            switch = self.add("switch")
            run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
            run("ip", "-n", switch, "link", "set", "bridge", "up")
            for i in range(1, hosts + 1):
                host = self.add(i)
                run("ip", "link", "add", "eth", "netns", host, "type", "veth", "peer", "name", f"port{i}", "netns", switch)
                run("ip", "-n", switch, "link", "set", f"port{i}", "master", "bridge", "up")
                run("ip", "-n", host, "addr", "add", f"10.99.0.{i}/24", "dev", "eth")
                for device in "lo", "eth":
                    run("ip", "-n", host, "link", "set", device, "up")
                self.shape(host, "eth", outwards)
                self.shape(switch, f"port{i}", f"tbf rate {RATE:.0f} burst 16kb latency 50ms")
        except BaseException:
            self.close()
            raise

    def add(self, what):
        namespace = f"{self.name}{what}"
        self.made.append(namespace)
        run("ip", "netns", "add", namespace)
        return namespace

    @staticmethod
    def shape(namespace, device, how):
        run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *how.split())

    def close(self):
        while self.made:
            remove(self.made.pop())


class Namespaces(unittest.TestCase):
    def setUp(self):
        for program in "ip", "tc", "mpirun":
            if not shutil.which(program):
                self.skipTest(f"needs the program {program} (Debian: iproute2, openmpi-bin)")
        if os.geteuid() != 0:
            self.skipTest("needs root to make network namespaces")
        for namespace in namespaces():  # of tests that were killed
            if not os.path.exists(f"/proc/{namespace.removeprefix(PREFIX).split('-')[0]}"):
                remove(namespace)
        self.folder = tempfile.mkdtemp(prefix="dsgd-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def machine(self):
        """This machine as a cluster of one host, and what its hosts are called."""
        file = f"{self.folder}/machine.toml"
        if not os.path.exists(file):
            run(DSGD, "calibrate", "-o", file, "--models", "lenet", "--minibatches", "32", "--strategies", ",".join(STRATEGIES))
        with open(file) as f:
            return file, next(line for line in f if line.startswith("[hosts.")).strip("[]\n").split(".")[1]

    def network(self, hosts, outwards):
        try:
            network = Network(hosts, outwards)
        except AssertionError as error:
            self.skipTest(f"this kernel makes no such network: {str(error).splitlines()[-1]}")
        self.addCleanup(network.close)
        return network

    def ratios(self, network, workers, strategies, latency=LATENCY):
        """Runs both engines and prints what they differ in; predicted / measured throughput, by strategy."""
        out, inside, agent, hosts = (f"{self.folder}/{workers}w-{name}" for name in ("out", "inside", "agent", "hosts"))
        with open(f"{self.folder}/x.toml", "w") as f:
            f.write(EXPERIMENT + f"workers = {workers}\n" + "".join(f"[strategy.{s}]\n" for s in strategies))
        with open(inside, "w") as f:  # started as: inside HOST COMMAND. Open MPI 5 needs hosts that have names of their own.
            f.write('#!/bin/sh\nhost=$1\nshift\n'
                    'exec ip netns exec "$host" unshare --uts sh -c \'hostname "$0" && exec "$@"\' "$host" "$@"\n')
        with open(agent, "w") as f:  # started as: agent ADDRESS COMMAND. Every host has files of its own.
            f.write(f'#!/bin/sh\nhost={network.name}${{1##*.}}\nshift\nexport TMPDIR={self.folder}/$host\nmkdir -p "$TMPDIR"\n'
                    f'exec {inside} "$host" sh -c "$*"\n')
        for script in inside, agent:
            os.chmod(script, 0o755)
        with open(hosts, "w") as f:
            f.write("".join(f"10.99.0.{i} slots=1\n" for i in range(1, network.hosts + 1)))
        # Ranks wait in busy loops, and all hosts have the same cores.
        launcher = (f"mpirun -n {{ranks}} --hostfile {hosts} --map-by node --bind-to none --mca plm_rsh_agent {agent}"
                    " --mca btl tcp,self --mca btl_tcp_if_include 10.99.0.0/24 --mca oob_tcp_if_include 10.99.0.0/24"
                    " --mca mpi_yield_when_idle 1")
        run(inside, f"{network.name}1", DSGD, "sweep", f"{self.folder}/x.toml", "-o", out, "--launcher", launcher)
        cluster, host = self.machine()
        twin = {"name": cluster, "server.placement": "own", f"hosts.{host}.count": network.hosts, f"hosts.{host}.slots": 1,
                f"hosts.{host}.bandwidth": GOODPUT, f"hosts.{host}.latency": latency}
        overrides = [word for key, value in twin.items() for word in ("--set", f"cluster.{key}={value}")]
        run(DSGD, "sweep", f"{self.folder}/x.toml", "-o", out, "--set", "engine=simulated", *overrides)
        found = results.load(Path(out))
        lines, ratios = validation.table(found.runs)
        measured.extend(lines)
        return dict(zip(sorted(strategies), ratios, strict=True))

    def test_shaped_links(self):
        network = self.network(3, f"tbf rate {RATE:.0f} burst 16kb latency 50ms")
        for strategy, ratio in self.ratios(network, 2, STRATEGIES).items():
            self.assertTrue(LOWEST < ratio < HIGHEST, f"{strategy}: {ratio:.2f}")

    def test_four_hosts(self):
        network = self.network(4, f"tbf rate {RATE:.0f} burst 16kb latency 50ms")
        for workers in 3, 4:
            for strategy, ratio in self.ratios(network, workers, ("sync",)).items():
                self.assertTrue(LOWEST < ratio < HIGHEST, f"{strategy}, {workers} workers: {ratio:.2f}")

    def test_added_latency(self):
        network = self.network(3, f"netem delay 4ms rate {RATE:.0f} limit 1000")
        for strategy, ratio in self.ratios(network, 2, STRATEGIES, LATENCY + 2e-3).items():
            self.assertTrue(LOWEST < ratio < HIGHEST, f"{strategy}: {ratio:.2f}")


if __name__ == "__main__":
    for signum in signal.SIGTERM, signal.SIGHUP:
        signal.signal(signum, lambda *_: sys.exit(1))  # which cleans up
    unittest.main()
