# SPDX-License-Identifier: Apache-2.0
"""dsgd beside PyTorch on one GPU, in turns, and what dsgd's own layers cost there.

  steps       training steps a second, data on the card: dsgd, and PyTorch eager, as a CUDA graph, and compiled (max-autotune)
  strategy    samples a second of a whole run, `sync` with one rank, against those bare steps
  simulated   real samples a second of a simulated run, 64 workers on the one card, against the bare steps

A ratio is the median over the pairs of dsgd's rate over PyTorch's best measured right before or after. The floor of a step: the
operations and bytes that it must do, every layer's values read and written once a pass, and its launches with one kernel for each
layer and pass; seconds of these at the rates of cuBLASLt's products (8192 x 8192) and of copies on this card. Compiling takes
longest and comes last, the most wanted cells first; what the time does not allow is left out and said so. Answers: a table, and
everything measured in OUT/gpu.json; the runs' result files in OUT/runs.
"""
import argparse
import itertools
import json
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

import peers
from peers import HERE, Dsgd, Failed, run, say, spread

MODELS = ("lenet", "mlp", "dnn", "resnet20")
MINIBATCHES = (32, 128, 1024)
PRECISIONS = ("fp32", "tf32", "bf16")
KINDS = ("eager", "graph", "compile")
WORKERS = 64  # simulated


class Peer:
    """peer_gpu.py, which is asked and answers; none where this Python has no PyTorch."""

    def __init__(self, device, log):
        self.why, self.log = "", log
        with open(log, "w") as errors:
            self.job = subprocess.Popen([sys.executable, HERE / "peer_gpu.py", "--device", device], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=errors, text=True)
        self.about = self.answer(60)

    def answer(self, patience):
        """A line of JSON; {} and a reason in `why` where none comes."""
        ready, _, _ = select.select([self.job.stdout], [], [], patience)
        line = self.job.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        said = self.log.read_text(errors="replace").strip().splitlines()
        self.why = f"it ended: {said[-1] if said else ''}" if ready else f"no answer for {patience:.0f} s"
        self.end()
        return {}

    def ask(self, patience, **question):
        if self.why:
            return {}
        self.job.stdin.write(json.dumps(question) + "\n")
        self.job.stdin.flush()
        return self.answer(patience)

    def end(self):
        if self.job.poll() is None:
            self.job.kill()
        self.job.wait()


class Cell:
    def __init__(self, model, minibatch, precision):
        self.model, self.minibatch, self.precision = model, minibatch, precision
        self.ours, self.turns, self.floor, self.failures = [], [], {}, {}

    @property
    def key(self):
        return [self.model, self.minibatch, self.precision]

    def add(self, rates):
        """PyTorch's answer beside the rate of dsgd in the same turn."""
        self.failures.update({v: r for v, r in rates.items() if isinstance(r, str)})
        if self.ours:
            self.turns.append({"dsgd": self.ours[-1], **{v: r for v, r in rates.items() if not isinstance(r, str)}})

    def of(self, turn, kind):
        """The rates of PyTorch's variants of that kind; all of them where there is none."""
        return [rate for variant, rate in turn.items() if variant != "dsgd" and variant.startswith(kind)]

    def rates(self, kind):
        return [max(self.of(turn, kind)) for turn in self.turns if self.of(turn, kind)]

    def ratio(self, kind):
        ratios = [turn["dsgd"] / max(self.of(turn, kind)) for turn in self.turns if self.of(turn, kind)]
        return statistics.median(ratios) if ratios else None

    def ratio_best(self):
        """Over the kind that is fastest here."""
        return min((r for r in map(self.ratio, KINDS) if r), default=None)

    def floor_seconds(self, limits):
        """(by operations, by bytes)"""
        return self.floor["flop/step"] / limits[self.precision], self.floor["bytes/step"] / limits["copy"]

    def summary(self, limits):
        return {"model": self.model, "minibatch": self.minibatch, "precision": self.precision, "dsgd": self.ours, "turns": self.turns,
                "not_measured": self.failures, "floor": self.floor,
                "floor_seconds": self.floor_seconds(limits) if limits and self.floor else None,
                **{f"ratio_{kind}": self.ratio(kind) for kind in KINDS}, "ratio_best": self.ratio_best()}


class Benchmarks:
    def __init__(self, options):
        self.options, self.end = options, time.monotonic() + options.seconds
        runs = options.out / "runs" / self.started.replace(":", "")  # an older call's stay
        runs.mkdir(parents=True, exist_ok=True)
        self.dsgd = Dsgd(options.build, options.device, runs)
        self.peer = Peer(options.peer_device, options.out / "pytorch.txt")
        self.cells = [Cell(*key) for key in itertools.product(options.models, options.minibatches, options.precisions)]
        self.limits, self.strategy, self.simulated, self.library = None, [], [], ""
        self.problems = {}  # what was not measured, by reason

    def miss(self, why, what):
        self.problems.setdefault(why, []).append(what)

    def left(self):
        return self.end - time.monotonic()

    def step_names(self, cells):
        return {f"step/{c.model}/{c.minibatch}/{self.options.device}" + ("" if c.precision == "fp32" else f"/{c.precision}"): c
                for c in cells}

    def ours(self, cells):
        """One rate more for each of these cells; cells that dsgd does not have are left without."""
        names = self.step_names(cells)
        try:
            out = run([self.options.build / "tests/model_benchmark", f"--benchmark_filter=^({'|'.join(names)})$",
                       f"--benchmark_min_time={self.options.window}", "--benchmark_format=json"])
        except Failed as failure:  # the other models go on
            return self.miss(str(failure), ", ".join(names))
        measured = {b["name"]: b for b in json.loads(out)["benchmarks"]} if out.strip() else {}
        for name, cell in names.items():
            b = measured.get(name, {"error_message": "is not there"})
            if "samples/s" in b:
                cell.ours.append(b["samples/s"])
                cell.floor = {key: b[key] for key in ("flop/step", "bytes/step", "launches/step") if key in b}
            elif name not in self.problems.get(b["error_message"], ()):
                self.miss(b["error_message"], name)

    def turn(self, cells, kinds, dsgd_first, patience=0):
        """Both sides of these cells, one right after the other; no variant begins with fewer seconds left than `patience`."""
        answers = []

        def theirs():
            for cell in cells:
                answers.append({})
                for variant in self.peer.about.get("variants", {}).get(cell.model, ()):
                    if not variant.startswith(kinds):
                        continue
                    if self.left() < patience:
                        self.miss("no time left", f"{'/'.join(map(str, cell.key))} {variant}")
                        continue
                    answers[-1].update(self.peer.ask(max(1, min(self.left(), 120)), cell=cell.key, variants=[variant],
                                                     seconds=self.options.window))

        for measure in (lambda: self.ours(cells), theirs)[::1 if dsgd_first else -1]:
            measure()
        for cell, answer in zip(cells, answers):
            cell.add(answer)

    def rates_of_the_card(self):
        if self.options.device != "cudnn":
            return None
        names = {f"product/8192/{p}": p for p in PRECISIONS} | {"copy/2048": "copy"}
        try:
            out = run([self.options.build / "tests/gpu_benchmark", f"--benchmark_filter=^({'|'.join(names)})$",
                       "--benchmark_min_time=0.2", "--benchmark_format=json"])
        except Failed as failure:
            return self.miss(str(failure), "rates of the card")
        rates = {}
        for b in json.loads(out)["benchmarks"]:
            if "error_message" in b:
                self.miss(b["error_message"], b["name"])
            else:
                rates[names[b["name"]]] = b.get("flop/s", b.get("bytes/s"))
        return rates if len(rates) == len(names) else None

    def steps(self):
        self.limits = self.rates_of_the_card()
        for pair in range(self.options.pairs):
            say(f"pair {pair + 1} of {self.options.pairs}")
            for model in self.options.models:
                cells = [c for c in self.cells if c.model == model]
                if self.left() < 0.45 * self.options.seconds and pair > 0:
                    say("  the time for pairs is over")
                    return
                self.turn(cells, ("eager", "graph"), dsgd_first=pair % 2 == 0)

    def compiled(self):
        """The compiled variants, with a turn of ours each."""
        if self.options.peer_device != "cuda" or self.peer.why:
            return
        patience = 25
        wanted = sorted(self.cells, key=lambda c: (self.options.precisions.index(c.precision), c.minibatch > 128,
                                                   self.options.models.index(c.model), c.minibatch))
        for number, cell in enumerate(wanted):
            if self.left() < patience or self.peer.why:
                for c in wanted[number:]:
                    self.miss("no time left", f"{'/'.join(map(str, c.key))} compile")
                return
            self.turn([cell], ("compile",), dsgd_first=True, patience=patience)

    def train(self, model, minibatch, seconds, **settings):
        """(samples, seconds of the program, seconds of the clock) of a run that takes about so long if it is as fast as bare steps."""
        samples = max(2, int(self.bare(model, minibatch) * seconds / (WORKERS * minibatch))) * WORKERS * minibatch
        begun = time.monotonic()
        finished = self.dsgd.train("sync", dataset="synthetic", model=model, minibatch=minibatch, samples=samples, snapshots=0,
                                   **{"synthetic.shape": peers.SHAPES.get(model, "1x28x28"), "synthetic.train": 4096,
                                      "synthetic.test": 10, "optimizer.learning_rate": 0.001}, **settings)
        if not finished.ended:  # nothing is learned in this short time
            raise Failed(f"{model}, {settings}: {finished.outcome}")
        self.library = finished.provenance["device_library"]
        return samples, time.monotonic() - begun, finished.result["seconds"]

    def bare(self, model, minibatch):
        return next((statistics.median(c.ours) for c in self.cells if c.key == [model, minibatch, "fp32"] and c.ours), None)

    def layers(self):
        """What a strategy and the simulation add to bare steps."""
        for model, minibatch in itertools.product(self.options.models, self.options.minibatches):
            if self.left() < 0.3 * self.options.seconds or not self.bare(model, minibatch):
                continue
            self.ours([c for c in self.cells if c.key == [model, minibatch, "fp32"]])
            samples, _, seconds = self.train(model, minibatch, 2, workers=1)
            self.strategy.append({"model": model, "minibatch": minibatch, "sync": samples / seconds, "bare": self.bare(model, minibatch)})
        model, minibatch = "lenet", 32
        if self.bare(model, minibatch):
            # The clock is virtual there: the real time of two lengths, without what both take to start.
            (few, short, _), (many, long, _) = (self.train(model, minibatch, seconds, workers=WORKERS, engine="simulated")
                                                for seconds in (1, 3))
            self.simulated.append({"model": model, "minibatch": minibatch, "workers": WORKERS,
                                   "simulated": (many - few) / max(1e-9, long - short), "bare": self.bare(model, minibatch)})

    def report(self):
        return {"command": sys.argv, "started": self.started, "device": self.options.device, "library": self.library, "commit": self.commit,
                "program": run([self.options.build / "dsgd", "--version"]).strip(), "pytorch": self.peer.about, "limits": self.limits,
                "cells": [c.summary(self.limits) for c in self.cells], "strategy": self.strategy, "simulated": self.simulated,
                "not_measured": self.problems}

    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True).stdout.strip()


def aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths))).rstrip()
                     for row in rows)


def table(report, cells, limits):
    def number(value, form="{:.2f}"):
        return "-" if value is None else form.format(value)

    def rates(values):
        return spread(values).strip() if values else "-"

    rows = [("samples/s", "minibatch", "", "dsgd (lowest to highest)", "eager", "graph", "compile", "/ eager", "/ best",
             "Gflop", "MB", "launches", "floor us", "of floor", "of products")]
    for c in cells:
        if not c.ours:
            continue
        step = c.minibatch / statistics.median(c.ours)
        by_flops, by_bytes = c.floor_seconds(limits) if limits else (None, None)
        floor = max(by_flops, by_bytes) if limits else None
        rows.append((c.model, str(c.minibatch), c.precision, rates(c.ours), *(rates(c.rates(k)) for k in KINDS),
                     number(c.ratio("eager")), number(c.ratio_best()),
                     number(c.floor["flop/step"] / 1e9), number(c.floor["bytes/step"] / 1e6), number(c.floor.get("launches/step"), "{:.0f}"),
                     number(floor and floor * 1e6, "{:.1f}"), number(floor and 100 * floor / step, "{:.0f} %"),
                     number(by_flops and 100 * by_flops / step, "{:.0f} %")))
    lines = [aligned(rows)]
    for s in report["strategy"]:
        lines.append(f"sync, 1 rank: {s['model']}, minibatch {s['minibatch']}: {s['sync']:.0f} samples/s, bare steps {s['bare']:.0f}: "
                     f"{100 * (s['bare'] / s['sync'] - 1):.1f} % over them")
    for s in report["simulated"]:
        lines.append(f"{s['workers']} simulated workers: {s['model']}, minibatch {s['minibatch']}: {s['simulated']:.0f} samples/s, "
                     f"{100 * s['simulated'] / s['bare']:.0f} % of bare steps")
    if limits:
        lines.append("this card: cuBLASLt's products " + ", ".join(f"{limits[p] / 1e12:.3g} Tflop/s {p}" for p in PRECISIONS) +
                     f"; copies {limits['copy'] / 1e9:.0f} GB/s read and written")
    if report["pytorch"]:
        lines.append("PyTorch: " + ", ".join(f"{key} {value}" for key, value in report["pytorch"].items() if key != "variants"))
    missed = {**report["not_measured"]}
    for c in cells:
        for variant, why in c.failures.items():
            missed.setdefault(why, []).append(f"{c.model}/{c.minibatch}/{c.precision} {variant}")
    lines += [f"not measured, {why}: {', '.join(what)}" for why, what in missed.items()]
    return "\n".join(lines + [report["library"], report["program"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=lambda p: Path(p).resolve(), metavar="BUILD_DIR")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="default gpu-results")
    parser.add_argument("--seconds", type=float, default=420, help="for all of it (default 420)")
    parser.add_argument("--window", type=float, default=0.3, help="seconds of one measurement (default 0.3)")
    parser.add_argument("--pairs", type=int, default=3, help="turns of dsgd and PyTorch (default 3)")
    parser.add_argument("--models", nargs="+", choices=peers.MODELS, default=MODELS)
    parser.add_argument("--minibatches", nargs="+", type=int, default=MINIBATCHES)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--device", default="cudnn", help="dsgd's (default cudnn)")
    parser.add_argument("--peer-device", choices=("cuda", "cpu"), default="cuda", help="PyTorch's; cpu: to try this program")
    options = parser.parse_args()
    options.models, options.minibatches, options.precisions = map(tuple, (options.models, options.minibatches, options.precisions))
    benchmarks = Benchmarks(options)
    try:
        for part in (benchmarks.steps, benchmarks.layers, benchmarks.compiled):
            try:
                part()
            except Failed as failure:
                benchmarks.miss(str(failure), part.__name__)
            (options.out / "gpu.json").write_text(json.dumps(benchmarks.report(), indent=1))
    finally:
        if benchmarks.peer.why:
            benchmarks.miss(benchmarks.peer.why, "PyTorch")
        benchmarks.peer.end()
    print(table(benchmarks.report(), benchmarks.cells, benchmarks.limits))
    sys.exit(1 if any(not c.ours for c in benchmarks.cells) else 0)


if __name__ == "__main__":
    main()
