# SPDX-License-Identifier: Apache-2.0
"""One result file, schema version 1: the only module that knows it. results/README.md defines every number here."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

FORMAT = "dsgd result, schema 1"
LINE = 64  # bytes
TABLES = {
    "steps": ("rank", "step", "samples", "used", "seconds", "loss", "compute_s", "communication_s"),
    "snapshots": ("used", "seconds", "version_min", "version_max", "test_loss", "test_correct", "test_count"),
    "ranks": ("rank", "server", "steps", "samples", "total_s", "compute_s", "communication_s", "wait_s",
              "snapshot_s", "bytes_sent", "bytes_received", "messages", "synchronisations"),
    "staleness": ("shard", "tau", "count"),
}
PHASES = ("compute", "compression", "communication", "wait", "snapshot", "other")
OUTCOMES = {"diverged": "diverged", "unlearned": "learned nothing", "timeout": "timed out", "error": "failed", "running": "did not finish"}

# Not part of a variant: what groups are made of, and keys that say how to run and report, not what is computed
# (those that harness/config/run_config.cpp calls policy).
NOT_A_SETTING = {"strategy", "workers", "seed", "text", "title", "target", "time_limit", "stall_limit", "setup_limit",
                 "snapshot_memory_mib", "trace", "cluster.title", "cluster.platform"}
# Real runs have what slows ranks only where some are slowed; the others have these.
NOT_SLOWED = {"cluster.jitter": 0.0, "cluster.straggler.slowdown": 1.0}
STRAGGLER = ("cluster.straggler.share", "cluster.straggler.workers")  # mean nothing without its slowdown


class ResultError(Exception):
    """A result file, or a set of them, that cannot be used; the text is meant for the user."""


class Variant(NamedTuple):
    """A strategy with all its settings, whatever the number of workers and the seed; those that depend on the workers are
    the expressions that say how."""

    strategy: str
    settings: tuple[tuple[str, object], ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One result file. Tables are structured arrays, empty where the run did not come that far."""

    path: Path
    outcome: str
    title: str
    engine: str
    config: dict
    effective: dict
    provenance: dict
    result: dict
    snapshots: np.ndarray
    ranks: np.ndarray
    staleness: np.ndarray
    target: float | None = None
    expressions: dict = field(default_factory=dict)  # of the settings that depend on the number of workers
    apart: tuple[tuple[str, object], ...] = ()  # what keeps it from runs of the folder with the same settings

    strategy = property(lambda self: self.config["strategy"])
    workers = property(lambda self: self.config["workers"])
    seed = property(lambda self: self.config["seed"])
    ok = property(lambda self: self.outcome == "ok")
    timed = property(lambda self: self.outcome in ("ok", "unlearned"))  # its seconds are those of honest arithmetic
    ended = property(lambda self: self.timed or self.outcome == "diverged")

    @cached_property
    def steps(self) -> np.ndarray:
        """The training curve; read on demand, as it is the bulk of a file."""
        with h5py.File(self.path, "r") as file:
            return _table(file, "steps")

    @cached_property
    def variant(self) -> Variant:
        said = {k: self.expressions.get(k, v) for k, v in self.config.items()}
        settings = [(k, v) for k, v in (NOT_SLOWED | said).items() if k not in NOT_A_SETTING]
        return Variant(self.strategy, tuple(sorted(settings + list(self.apart))))

    @property
    def identity(self) -> dict[str, str]:
        """What must agree between runs that are compared, and the engine. A failed run may lack some of it."""
        commit, dirty, compiler, kind, flags, cpu, cores = (
            self.provenance.get(key) for key in ("commit", "dirty", "compiler", "build_type", "flags", "cpu", "cores"))
        known = {"commit": commit and commit[:12] + (" with changes" if dirty == "true" else ""),
                 "build": kind and f"{compiler} {kind} {flags}",
                 "engine": self.engine,
                 "host": cpu and f"{cpu}, {cores} cores"}
        return {k: v or "unknown" for k, v in known.items() if v or self.ok}

    # Derived numbers, each None where the run has none.

    @property
    def accuracy(self) -> np.ndarray:
        """Test accuracy of each snapshot."""
        return self.snapshots["test_correct"] / np.maximum(self.snapshots["test_count"], 1)

    @property
    def reached_accuracy(self) -> float | None:
        return float(self.accuracy[-1]) if len(self.snapshots) else None

    @property
    def throughput(self) -> float | None:
        samples, seconds = self.result.get("samples"), self.result.get("seconds")
        return samples / seconds if self.timed and samples and seconds and seconds > 0 else None

    @property
    def time_to_target(self) -> float | None:
        if not self.ok or self.target is None:
            return None
        reached = self.snapshots["seconds"][self.accuracy >= self.target]
        return float(reached[0]) if len(reached) else None

    @property
    def mean_staleness(self) -> float | None:
        count = self.staleness["count"].sum()
        return float((self.staleness["tau"] * self.staleness["count"]).sum() / count) if count else None

    @property
    def worker_ranks(self) -> np.ndarray:
        return self.ranks[self.ranks["server"] == 0]

    @property
    def megabytes_sent(self) -> float | None:
        return float(self.worker_ranks["bytes_sent"].mean()) / 1e6 if len(self.worker_ranks) else None

    def megabytes_per_1000_samples(self, server: bool | None = None) -> float | None:
        """Sent by all workers, by all servers, or by both, for 1000 of the samples that all workers used."""
        samples = self.result.get("samples")
        if not samples or not len(self.ranks):
            return None
        rows = self.ranks if server is None else self.ranks[(self.ranks["server"] != 0) == server]
        return float(rows["bytes_sent"].sum()) / 1e3 / samples

    def _seconds(self, phase: str) -> np.ndarray:
        known = f"{phase}_s" in self.worker_ranks.dtype.names  # results of earlier programs have no compression
        return self.worker_ranks[f"{phase}_s"] if known else np.zeros(len(self.worker_ranks))

    def phase(self, name: str) -> float | None:
        """Seconds of one of PHASES, or `total`: mean over workers. `other` is what the others leave of the total."""
        if not len(self.worker_ranks):
            return None
        if name in ("total", *PHASES[:-1]):
            return float(np.mean(self._seconds(name)))
        measured = sum(self._seconds(phase) for phase in PHASES[:-1])
        return float(np.maximum(self.worker_ranks["total_s"] - measured, 0).mean())


def read(path: Path, target: float | None = None) -> Run:
    """One result file; `target` overrides the one in its configuration."""
    try:
        _verify(path)
        with h5py.File(path, "r") as file:
            root = _attributes(file)
            config = _attributes(file.get("config"))
            for key, kind in (("strategy", str), ("workers", int), ("seed", int)):
                if not isinstance(config.get(key), kind):
                    raise ResultError(f"{path.name}: /config has no {key}")
            if target is None and isinstance(config.get("target"), (int, float)) and config["target"] > 0:
                target = float(config["target"])
            return Run(path, root.get("outcome", "running"), root.get("title", ""), root.get("engine", ""), config,
                       *(_attributes(file.get(name)) for name in ("effective", "provenance", "result")),
                       *(_table(file, name) for name in ("snapshots", "ranks", "staleness")), target,
                       _attributes(file.get("expressions")))
    except ResultError:
        raise
    # What h5py makes of damage depends on where it is.
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
        raise ResultError(f"{path.name}: damaged or not a result file: {error}") from error


def first_line(content: bytes | memoryview) -> bytes:
    """The line that belongs to the content that follows it in a complete file."""
    text = f"{FORMAT}, crc32 {zlib.crc32(content):08x} of {len(content)} bytes"
    return text.ljust(LINE - 1).encode() + b"\n"


def _verify(path: Path) -> None:
    """HDF5 must not see damage: it may crash or hang on a single wrong bit."""
    if not path.is_file():
        raise ResultError(f"{path.name}: expected a file, found a folder, device or pipe")
    content = path.read_bytes()
    line, right = content[:LINE], first_line(memoryview(content)[LINE:])
    if line == right:
        return
    if not line.startswith(f"{FORMAT}, crc32 ".encode()):
        raise ResultError(f'{path.name}: damaged, or not a complete file of format "{FORMAT}"')
    actual, expected = (ascii(text[len(FORMAT) + 2:].strip().decode(errors="replace"))[1:-1] for text in (right, line))
    raise ResultError(f"{path.name}: damaged: {actual}, expected {expected}; run it again")


def _attributes(group: h5py.Group | None) -> dict:
    """Attributes as Python's own types; none where there is no such group."""

    def plain(value):
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, np.generic):
            return bool(value) if value.dtype == np.uint8 else value.item()
        return str(value)

    return {} if group is None else {key: plain(value) for key, value in group.attrs.items()}


def _table(file: h5py.File, name: str) -> np.ndarray:
    if name not in file:
        return np.zeros(0, [(field, float) for field in TABLES[name]])
    table = file[name][()]
    missing = [field for field in TABLES[name] if field not in (table.dtype.names or ())]
    if missing:
        raise ResultError(f"{Path(file.filename).name}: /{name} has no {', '.join(missing)}")
    return table
