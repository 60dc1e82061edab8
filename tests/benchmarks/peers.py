# SPDX-License-Identifier: Apache-2.0
"""dsgd and PyTorch side by side, in turns: training steps on one rank and on two, or the time to a test accuracy.

The ratio of a pair is dsgd's rate over that of the best of PyTorch's variants, measured right before or after; "best"
is the best window of dsgd over the best of PyTorch. Kinds:
  one        one rank, one thread; samples per second of processor time
  sync       two ranks, wall clock: `sync` against DistributedDataParallel over gloo
  averaging  two ranks, wall clock: an average of the models every 5 steps
PyTorch is taken at its best: a trial chooses OpenBLAS's kernel (OPENBLAS_CORETYPE) for all measurements and, for every
cell, the variants: channels-last or not, oneDNN's convolutions or PyTorch's own, the optimizer's loops, torch.compile
where it works, and for two ranks binding and buckets. Compiling is outside the windows. Debian's packages:
python3-torch libopenblas0-pthread; for torch.compile g++ python3-dev python3-setuptools libtorch-dev.
Peak is what one core does in a loop of fused multiply-adds (times two for two ranks), measured in the same run.
"""
import argparse
import functools
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "plots"))
import results  # noqa: E402

MODELS = ("lenet", "mlp", "dnn", "cifar_quick", "resnet20")
SHAPES = {"cifar_quick": "3x32x32", "resnet20": "3x32x32"}
MINIBATCHES = (32, 128, 256)
KINDS = ("one", "sync", "averaging")
FINALISTS = 3  # variants of PyTorch that are measured in every pair; all are in a trial before
PERIOD = 5  # steps between two averagings
LIMIT = 1800  # seconds a program; torch.compile takes its time
KERNELS = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids")
NEVER = 10**9  # a period without averagings but the last
RATES = (0.01, 0.02, 0.05, 0.1)
TUNING_SEEDS = (101, 102)
CORES = sorted(os.sched_getaffinity(0))


class Failed(RuntimeError):
    """A program ended otherwise than it should have."""


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(*commands, core=None, env=None):
    """Runs the commands at the same time; returns what the first one wrote."""
    pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    jobs = [subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             preexec_fn=pin, env=env) for words in commands]
    try:
        outputs = [job.communicate(timeout=LIMIT) for job in jobs]
    except subprocess.TimeoutExpired as late:
        sys.exit(f"peers: {' '.join(late.cmd)} took more than {LIMIT} s")
    finally:
        for job in jobs:
            job.terminate()  # dsgd ends its ranks
            job.wait()
    failures = [f"{' '.join(job.args)} ended with {job.returncode}:\n{(error or out)[-2000:]}"
                for job, (out, error) in zip(jobs, outputs) if job.returncode]
    if failures:
        raise Failed("\n".join(failures))
    return outputs[0][0]


class Dsgd:
    def __init__(self, build, device, folder):
        self.build, self.device, self.folder, self.runs = build, device, folder, itertools.count()

    def benchmark(self, pattern, seconds):
        """{name: counters} of those benchmarks; on one core."""
        out = run([self.build / "tests/model_benchmark", f"--benchmark_filter=^({pattern})$",
                   f"--benchmark_min_time={seconds}", "--benchmark_format=json"], core=CORES[-1])
        found = json.loads(out)["benchmarks"] if out.strip() else []
        for b in found:
            if b.get("error_occurred"):
                sys.exit(f"peers: {b['name']}: {b['error_message']}")
        return {b["name"]: b for b in found}

    def train(self, strategy, own={}, **settings):
        """One run, read back from its result file."""
        settings = {"device": self.device, "optimizer.rule": "momentum", "optimizer.momentum": 0.9, **settings}
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += [f"[strategy.{strategy}]"] + [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        name = Path(self.folder) / str(next(self.runs))
        toml = name.with_suffix(".toml")
        toml.write_text("\n".join(lines))
        run([self.build / "dsgd", "run", toml, "-o", name])
        return results.read(next(name.glob("*.h5")))

    def rate(self, kind, model, minibatch, workers, samples, period=PERIOD):
        own = {"tau": period} if kind == "averaging" else {}
        finished = self.train(kind, own, dataset="synthetic", model=model, workers=workers, minibatch=minibatch,
                              samples=samples, snapshots=0,
                              **{"synthetic.shape": SHAPES.get(model, "1x28x28"), "synthetic.train": 4096,
                                 "synthetic.test": 10, "optimizer.learning_rate": 0.01})
        # The loss of a run this short may end a little above its start; its time is as good.
        if not finished.ended:
            sys.exit(f"peers: {kind}, {model}, minibatch {minibatch}: {finished.outcome}")
        return finished.result["samples"] / finished.result["seconds"]


class Torch:
    def __init__(self, folder):
        self.folder, self.runs, self.about, self.left_out, self.trials = folder, itertools.count(), {}, {}, {}
        # Compiling in other processes would disturb the measurements of two ranks.
        self.env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self.choose_kernel()
        say("trial of torch.compile")
        answer = self("compile")
        self.compile, self.compiler = answer["compile"], answer["compiler"]
        if not self.compile:
            say(f"  left out: {self.compiler}")

    def choose_kernel(self):
        """OpenBLAS takes its oldest kernel on a processor that it does not know, so each is tried."""
        self.kernels, self.dense = {}, "another BLAS"
        best = 0
        for kernel in (None, *KERNELS):
            name, env = kernel or "its own choice", {"OPENBLAS_CORETYPE": kernel} if kernel else {}
            say(f"trial of OpenBLAS's kernel: {name}")
            try:
                answer = self.ask("products", env={"ONEDNN_VERBOSE": "1", **env}, seconds=0.3)
            except Failed as failure:
                if "ended with -" not in str(failure):
                    raise
                say("  left out: this processor cannot run it")
                continue
            blas, core = self.about["blas"], self.about.get("kernel")
            if any("/blas/" in path for path in blas):
                sys.exit(f"peers: PyTorch multiplies with the slow reference BLAS ({', '.join(blas)}); "
                         "install libopenblas0-pthread")
            if not answer["right"]:
                say(f"  left out: {core} multiplies wrongly")
                continue
            self.kernels[f"{name} ({core})" if core != kernel else name] = answer["rate"]
            if answer["rate"] > best:
                best, chosen = answer["rate"], env
                self.dense = "oneDNN" if self.verbose else "OpenBLAS" if core else ", ".join(blas) or "its own BLAS"
            if not core:
                break
        if not best:
            sys.exit("peers: no kernel of OpenBLAS ran and multiplied rightly; install libopenblas0-pthread anew")
        self.env.update(chosen)

    def __call__(self, kind, **options):
        """What one measurement answered; gloo now and then aborts as it ends, so there are three attempts."""
        for attempt in (1, 2, 3):
            try:
                return self.measure(kind, **options)
            except Failed as failure:
                if attempt == 3:
                    raise
                say(f"{str(failure).strip()}\n{' ' * 9}again, attempt {attempt + 1} of 3")

    def measure(self, kind, **options):
        answer = self.ask(kind, **options)
        self.left_out.update({f"{options['model']}, {v}": why for v, why in answer.get("left_out", {}).items()})
        return answer

    def ask(self, kind, env={}, **options):
        env = {**self.env, **env}
        command = [sys.executable, HERE / "peer_torch.py", kind]
        command += itertools.chain(*((f"--{name}", value) for name, value in options.items()))
        if kind in ("sync", "averaging", "train"):
            command += ["--store", f"{self.folder}/store{next(self.runs)}"]
            out = run(*([*command, "--rank", rank] for rank in (0, 1)), env=env)
        else:
            out = run(command, core=CORES[-1], env=env)
        lines = out.splitlines()
        self.verbose = [line for line in lines if re.search("verbose.*,exec,.*(matmul|inner_product)", line)]
        answer = json.loads(next(line for line in lines if line.startswith("{")))
        self.about = answer.pop("about")
        return answer

    def rates(self, kind, model, minibatch, seconds, variants):
        return self(kind, model=model, minibatch=minibatch, seconds=seconds, variants=json.dumps(variants))["rates"]

    def trial(self, kind, model, minibatch, seconds):
        """All variants of one rank; of two ranks, all that start from the best of one."""
        about = {"model": model, "minibatch": minibatch, "seconds": seconds}
        if (model, minibatch) not in self.trials:
            self.trials[model, minibatch] = self("one", compile=int(self.compile), **about)["rates"]
        rates = self.trials[model, minibatch]
        return rates if kind == "one" else self(kind, locals=json.dumps(best_of(rates)), **about)["rates"]

    def versions(self):
        openblas = ""
        if "kernel" in self.about:
            openblas = f"OpenBLAS {self.about['openblas']}, kernel {self.about['kernel']}, "
        lines = [f"PyTorch {self.about['torch']}, Python {self.about['python']}, oneDNN {self.about['onednn']}, "
                 f"{openblas}BLAS {', '.join(self.about['blas']) or 'of its own'}; dense layers: {self.dense}",
                 "kernels by trial, Gflop/s: " + ", ".join(f"{k} {v / 1e9:.0f}" for k, v in self.kernels.items()),
                 f"torch.compile: {'' if self.compile else 'left out: '}{self.compiler}"]
        return "\n".join(lines + [f"left out: {name}: {why}" for name, why in self.left_out.items()])


def best_of(rates):
    return sorted(rates, key=rates.get, reverse=True)[:FINALISTS]


class Cell:
    """One line of the table, measured pair by pair."""

    def __init__(self, dsgd, torch, kind, model, minibatch, flops, seconds):
        self.dsgd, self.torch, self.seconds = dsgd, torch, seconds
        self.kind, self.model, self.minibatch, self.flops = kind, model, minibatch, flops
        self.ranks = 1 if kind == "one" else 2
        self.name = f"{model}, minibatch {minibatch}, {kind}"
        self.ours, self.pairs, self.alone, self.apart = [], [], [], []
        self.trial = torch.trial(kind, model, minibatch, seconds / 2)
        self.finalists = best_of(self.trial)
        if kind != "one":
            self.guess = dsgd.rate(kind, model, minibatch, 2, self.window(max(self.trial.values())))

    def window(self, rate):
        """Samples: whole periods, on one rank and on two."""
        block = 2 * PERIOD * self.minibatch
        return max(1, round(rate * self.seconds / block)) * block

    def measure_dsgd(self):
        if self.kind == "one":
            step = f"step/{self.model}/{self.minibatch}/{self.dsgd.device}"
            return self.ours.append(self.dsgd.benchmark(step, self.seconds)[step]["samples/s"])
        samples = self.window(self.guess)
        measure = functools.partial(self.dsgd.rate, self.kind, self.model, self.minibatch)
        self.ours.append(measure(2, samples))
        if self.kind == "averaging":
            self.alone.append(measure(1, samples // 2))
            self.apart.append(measure(2, samples, NEVER))

    def measure_torch(self):
        self.pairs.append(self.torch.rates(self.kind, self.model, self.minibatch, self.seconds, self.finalists))

    def measure(self, dsgd_first):
        both = (self.measure_dsgd, self.measure_torch)
        for measure in both if dsgd_first else reversed(both):
            measure()
        say(f"  {self.name}: dsgd {self.ours[-1]:.0f}, PyTorch {self.theirs[-1]:.0f} samples/s")

    @property
    def theirs(self):
        return [max(pair.values()) for pair in self.pairs]

    def summary(self, peak):
        medians = {v: statistics.median(pair[v] for pair in self.pairs) for v in self.finalists}

        def ratio(others):
            return statistics.median(a / b for a, b in zip(self.ours, others)) if others else None

        return {"model": self.model, "minibatch": self.minibatch, "kind": self.kind,
                "dsgd": self.ours, "pytorch": self.theirs, "pytorch_best_variant": max(medians, key=medians.get),
                "ratio_median": ratio(self.theirs), "ratio_best": max(self.ours) / max(self.theirs),
                "share_of_peak": statistics.median(self.ours) * self.flops / (self.ranks * peak),
                "dsgd_one_rank": self.alone, "of_twice_one_rank": ratio([2 * r for r in self.alone]),
                "dsgd_without_averaging": self.apart, "of_without_averaging": ratio(self.apart),
                "flop_per_sample": self.flops, "pytorch_trial": self.trial, "pytorch_pairs": self.pairs}


def spread(values):
    return f"{statistics.median(values):7.0f} ({min(values):.0f} to {max(values):.0f})"


def table(cells):
    def share(value):
        return "-" if value is None else f"{100 * value:.0f} %"

    rows = [("model", "minibatch", "kind", "dsgd", "PyTorch", "ratio", "best", "of peak", "of 2 x 1 rank",
             "of no averaging", "PyTorch's best variant")]
    rows += [(c["model"], str(c["minibatch"]), c["kind"], spread(c["dsgd"]), spread(c["pytorch"]),
              f"{c['ratio_median']:.2f}", f"{c['ratio_best']:.2f}", share(c["share_of_peak"]),
              share(c["of_twice_one_rank"]), share(c["of_without_averaging"]), c["pytorch_best_variant"])
             for c in cells]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in rows)


def compare(options, dsgd, torch, report, save):
    models, minibatches = "|".join(options.models), "|".join(map(str, options.minibatches))
    steps = dsgd.benchmark(f"step/({models})/({minibatches})/{dsgd.device}", 0.01)  # compares with the reference, too
    cells = []
    for kind, model, minibatch in itertools.product(options.kinds, options.models, options.minibatches):
        name = f"step/{model}/{minibatch}/{dsgd.device}"
        if name not in steps:
            sys.exit(f"peers: model_benchmark has no {name} here")
        say(f"trial of PyTorch's variants: {model}, minibatch {minibatch}, {kind}")
        cells.append(Cell(dsgd, torch, kind, model, minibatch, steps[name]["flop/sample"], options.seconds))
    peaks = []
    for pair in range(options.pairs):
        say(f"pair {pair + 1} of {options.pairs}")
        peaks.append(dsgd.benchmark("peak", 0.1)["peak"]["flop/s"])
        for cell in cells:
            cell.measure(dsgd_first=pair % 2 == 0)
        report.update(peak_flop_per_s=peaks, cells=[cell.summary(statistics.median(peaks)) for cell in cells])
        save()
    print(f"samples per second, median (lowest to highest) of {options.pairs} pairs; "
          f"peak {statistics.median(peaks) / 1e9:.0f} Gflop/s a core")
    print(table(report["cells"]))


def time_to_accuracy(options, dsgd, torch, report, save):
    """LeNet, MNIST, two workers with minibatch 32, momentum 0.9; both look at the test set every 2000 samples."""
    minibatch, every, budget, target = 32, 2000, 120000, 0.98
    data = mnist(options.build)
    say("trial of PyTorch's variants")
    trial = torch.trial("sync", "lenet", minibatch, options.seconds)
    variant = max(trial, key=trial.get)

    # Each returns (seconds, samples) at the target, or None.
    def ours(seed, rate):
        finished = dsgd.train("sync", dataset="mnist", model="lenet", workers=2, minibatch=minibatch, samples=budget,
                              seed=seed, snapshots=budget // every, target=target,
                              **{"optimizer.learning_rate": rate})
        if finished.time_to_target is None:
            return None
        return finished.time_to_target, int(finished.snapshots["used"][finished.accuracy >= target][0])

    def theirs(seed, rate, init):
        answer = torch("train", variants=json.dumps([variant]), data=data, minibatch=minibatch, samples=budget,
                       every=every, target=target, seed=seed, rate=rate, init=init)
        return (answer["seconds"], answer["curve"][-1][0]) if answer["seconds"] else None

    def text(found):
        return f"{found[0]:.2f} s, {found[1]} samples" if found else "not reached"

    measure = {"dsgd": ours, "PyTorch": theirs}
    choices = {"dsgd": [(rate,) for rate in RATES],
               "PyTorch": [(rate, init) for rate in RATES for init in ("default", "glorot")]}
    # Tuned by samples, which other programs on the machine do not change.
    tuning = {side: [] for side in choices}
    for side, choice in [(side, choice) for side in choices for choice in choices[side]]:
        found = [measure[side](seed, *choice) for seed in TUNING_SEEDS]
        samples = sum(f[1] if f else float("inf") for f in found) / len(found)
        tuning[side].append({"choice": choice, "runs": found, "mean_samples": samples})
        say(f"tuning {side}, rate {', '.join(map(str, choice))}: {'; '.join(map(text, found))}")
    best = {side: min(tried, key=lambda t: t["mean_samples"])["choice"] for side, tried in tuning.items()}
    runs = {side: [] for side in choices}
    for seed in range(1, options.seeds + 1):
        for side in sorted(choices, reverse=seed % 2 == 0):
            runs[side].append(measure[side](seed, *best[side]))
        say(f"seed {seed}: " + "; ".join(f"{side} {text(found[-1])}" for side, found in runs.items()))
        report["time_to_accuracy"] = {"target": target, "pytorch_trial": trial, "pytorch_variant": variant,
                                      "tuning": tuning, "chosen": best, "runs": runs}
        save()
    print(f"LeNet to {100 * target:g} % on MNIST, 2 workers, minibatch {minibatch} each: training only, "
          f"{options.seeds} seeds, rates from seeds {', '.join(map(str, TUNING_SEEDS))}; median (lowest to highest)")
    medians = {}
    for side, found in runs.items():
        reached = f"{len(found) - found.count(None)} of {len(found)} reached"
        line = f"{side:8} rate {', '.join(map(str, best[side]))}: {reached}"
        if all(found):
            seconds, samples = zip(*found)
            medians[side] = statistics.median(seconds)
            line += (f", {medians[side]:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
                     f"{statistics.median(samples):.0f} samples ({min(samples)} to {max(samples)})")
        print(line)
    if len(medians) == 2:
        print(f"PyTorch / dsgd, medians of seconds: {medians['PyTorch'] / medians['dsgd']:.2f} (PyTorch: {variant})")


def mnist(build):
    checked = subprocess.run([build / "dsgd", "data", "check", "mnist"], stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"right +(/.*)/train-images-idx3-ubyte$", checked, re.MULTILINE)
    if not found:
        sys.exit("peers: MNIST's plain IDX files are missing; get them with `dsgd data fetch mnist`")
    return found[1]


def main():
    def positive(of):
        def number(text):
            if of(text) <= 0:
                raise argparse.ArgumentTypeError(f"{text} (allowed: above 0)")
            return of(text)
        return number

    parser = argparse.ArgumentParser(prog="peers.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=lambda p: Path(p).resolve(), metavar="BUILD_DIR", help="comes first")
    parser.add_argument("--pairs", type=positive(int), default=5, help="default 5")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all of them")
    parser.add_argument("--minibatches", nargs="+", type=int, choices=MINIBATCHES, default=MINIBATCHES,
                        help="default: all of them")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="default: all of them")
    parser.add_argument("--seconds", type=positive(float), default=0.5, help="of one window (default 0.5)")
    parser.add_argument("--device", default="cpu", help="dsgd's (default cpu)")
    parser.add_argument("--time-to-accuracy", action="store_true",
                        help="LeNet to 98 %% on MNIST with two workers instead")
    parser.add_argument("--seeds", type=positive(int), default=5, help="of --time-to-accuracy (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured, written after every pair")
    options = parser.parse_args()
    with open("/proc/cpuinfo") as info:
        cpu = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                            text=True).stdout
    report = {"command": sys.argv, "cpu": cpu, "cores": len(CORES), "commit": commit.strip(),
              "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    with tempfile.TemporaryDirectory() as folder:
        dsgd, torch = Dsgd(options.build, options.device, folder), Torch(folder)

        def save():
            report.update(torch.about, kernels=torch.kernels, dense_layers=torch.dense, compile=torch.compile,
                          compiler=torch.compiler, left_out=torch.left_out)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1))

        (time_to_accuracy if options.time_to_accuracy else compare)(options, dsgd, torch, report, save)
    print(f"{cpu}, {len(CORES)} cores; dsgd {report['commit']}")
    print(torch.versions())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except Failed as failure:
        sys.exit(f"peers: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
