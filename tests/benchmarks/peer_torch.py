# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of peers.py: one rank of one measurement; the answer is a line of JSON from rank 0.

A step takes a minibatch of bytes from memory, scales it, and does forward, loss, backward and SGD with momentum.
  one        one process; samples per second of processor time, so that other programs disturb less
  sync       DistributedDataParallel over gloo; samples per second of wall clock, all ranks together
  averaging  steps of one's own; every 5 of them one all-reduce of all parameters, which are one flat buffer
  train      sync on MNIST until a test accuracy is reached; seconds of training, evaluation excluded
  products   the three products of a dense layer, checked against integers; flop/s of processor time
  compile    whether torch.compile works
"""
import argparse
import contextlib
import ctypes
import datetime
import inspect
import itertools
import json
import math
import os
import platform
import re
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when the libraries load
    os.environ[name] = "1"
os.environ["GLOO_SOCKET_IFNAME"] = "lo"

import torch
import torch.distributed as dist
from torch import nn

PERIOD = 5  # steps between two averagings
CORES = sorted(os.sched_getaffinity(0))
TOOLS = "g++ python3-dev python3-setuptools libtorch-dev"  # torch.compile's packages
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


def relu():
    return nn.ReLU(inplace=True)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), relu(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5, stride=2), relu(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(200, 200), relu(), nn.Linear(200, 10))


def cifar_quick():
    def mean():
        return nn.AvgPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), relu(),
        nn.Conv2d(32, 32, 5, padding=2), relu(), mean(), nn.Conv2d(32, 64, 5, padding=2), relu(), mean(),
        nn.Flatten(), nn.Linear(1024, 64), nn.Linear(64, 10))


class Residual(nn.Module):
    """Two convolutions and a shortcut of option A: every second pixel, missing channels zero."""

    def __init__(self, channels, filters):
        super().__init__()
        self.stride, self.missing = filters // channels, filters - channels
        self.branch = nn.Sequential(
            nn.Conv2d(channels, filters, 3, self.stride, 1, bias=False), nn.BatchNorm2d(filters), relu(),
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x):
        earlier = x
        if self.missing:
            earlier = nn.functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.missing))
        return torch.relu_(self.branch(x) + earlier)


def resnet20():
    widths = [16] * 4 + [32] * 3 + [64] * 3
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), relu(), *map(Residual, widths, widths[1:]),
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1024), relu(), nn.Linear(1024, 1024), relu(), nn.Linear(1024, 10))


def dnn():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 500), nn.Sigmoid(), nn.Linear(500, 500), nn.Sigmoid(),
        nn.Linear(500, 2000), nn.Sigmoid(), nn.Linear(2000, 10))


MODELS = {"lenet": lenet, "mlp": mlp, "dnn": dnn, "cifar_quick": cifar_quick, "resnet20": resnet20}
SHAPES = {"cifar_quick": (3, 32, 32), "resnet20": (3, 32, 32)}


def variants(options):
    """What PyTorch leaves to its user, every combination; the driver goes on with the best."""
    if options.kind == "one":
        axes = [("contiguous",)]
        if options.model in ("lenet", "cifar_quick", "resnet20"):
            axes = [("channels-last", "contiguous"), ("oneDNN", "no oneDNN")]
        axes.append(("foreach", "no foreach"))
        if "fused" in inspect.signature(torch.optim.SGD).parameters:
            axes[-1] += ("fused",)
        if options.compile:
            axes.append(("eager", "compiled"))
    else:
        axes = [options.locals, ("bound", "not bound")]
        if options.kind in ("sync", "train"):
            axes.append(("default buckets", "one bucket", "one bucket static"))
    return [", ".join(choice) for choice in itertools.product(*axes)]


def bind(cores):
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def flatten(model):
    """Makes the parameters views of one buffer, each in its own layout."""
    parameters = list(model.parameters())
    flat = torch.empty(sum(p.numel() for p in parameters))
    first = 0
    for p in parameters:
        view = flat[first:first + p.numel()].as_strided(p.shape, p.stride(), first)
        p.data = view.copy_(p.data)
        first += p.numel()
    return flat


class Trainer:
    def __init__(self, options, variant, pixels, labels, rate=0.01, seed=1, init="default"):
        torch.manual_seed(seed)
        chosen = variant.split(", ")
        self.layout, self.ranks, self.rank = LAYOUTS[chosen[0]], options.ranks, options.rank
        self.minibatch, self.pixels, self.labels = options.minibatch, pixels, labels
        self.order = torch.Generator().manual_seed(seed)
        self.batches = []
        torch.backends.mkldnn.set_flags("no oneDNN" not in chosen)
        if self.ranks > 1:
            bind({CORES[self.rank % len(CORES)]} if "bound" in chosen else CORES)
        self.net = self.model = MODELS[options.model]().to(memory_format=self.layout)
        if init == "glorot":
            for p in self.net.parameters():
                nn.init.xavier_normal_(p) if p.dim() > 1 else nn.init.zeros_(p)
        self.flat = flatten(self.net) if options.kind == "averaging" else None
        if "compiled" in chosen:
            torch._dynamo.reset()
            self.model = torch.compile(self.net)
        if options.kind in ("sync", "train"):
            one = "default buckets" not in chosen
            dist._DEFAULT_FIRST_BUCKET_BYTES = 1 << (30 if one else 20)
            self.model = nn.parallel.DistributedDataParallel(
                self.model, bucket_cap_mb=1024 if one else 25, gradient_as_bucket_view=one,
                static_graph="one bucket static" in chosen)
        self.loss = nn.CrossEntropyLoss()
        self.rate, self.count = rate, 0
        self.way = {"fused": True} if "fused" in chosen else {"foreach": "foreach" in chosen}
        self.restart()

    def restart(self):
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=self.rate, momentum=0.9, **self.way)
        self.count = 0

    def step(self):
        if not self.batches:  # an epoch: the same permutation on all ranks, each minibatch one rank's part of it
            order = torch.randperm(len(self.labels), generator=self.order)
            whole = len(order) // (self.minibatch * self.ranks) * self.minibatch * self.ranks
            self.batches = list(order[:whole].split(self.minibatch))[self.rank::self.ranks]
        ids = self.batches.pop()
        x = self.pixels[ids].float().div_(255).contiguous(memory_format=self.layout)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model(x), self.labels[ids]).backward()
        self.optimizer.step()
        self.count += 1
        if self.flat is not None and self.count % PERIOD == 0:
            dist.all_reduce(self.flat)
            self.flat.div_(self.ranks)

    def seconds(self, steps):
        """Processor time of one process, or wall clock of the slowest rank."""
        if self.ranks == 1:
            begun = time.process_time()
            for _ in range(steps):
                self.step()
            return time.process_time() - begun
        dist.barrier()
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        taken = torch.tensor([time.perf_counter() - begun])
        dist.all_reduce(taken, op=dist.ReduceOp.MAX)
        return taken.item()

    def window(self, seconds):
        """Samples per second over about `seconds` and whole periods, after a warm-up."""
        self.seconds(PERIOD)
        steps, taken = PERIOD, self.seconds(PERIOD)
        if taken < seconds:
            steps = math.ceil(seconds / taken) * PERIOD
            taken = self.seconds(steps)
        return self.ranks * self.minibatch * steps / taken


def idx(folder, name, shape):
    with open(os.path.join(folder, name), "rb") as file:
        header = 4 + 4 * len(shape)
        return torch.frombuffer(bytearray(file.read()[header:]), dtype=torch.uint8).view(-1, *shape[1:])


def train(options):
    def load(part):
        return (idx(options.data, f"{part}-images-idx3-ubyte", (0, 28, 28)).unsqueeze(1),
                idx(options.data, f"{part}-labels-idx1-ubyte", (0,)).long())

    pixels, labels = load("t10k")
    trainer = Trainer(options, options.variants[0], *load("train"), options.rate, options.seed, options.init)
    x = pixels.float().div_(255).contiguous(memory_format=trainer.layout)
    start = [p.detach().clone() for p in trainer.net.parameters()]
    trainer.seconds(PERIOD)  # warm-up; then from the start again
    with torch.no_grad():
        for p, value in zip(trainer.net.parameters(), start):
            p.copy_(value)
    trainer.restart()
    trainer.batches = []
    trainer.order.manual_seed(options.seed)
    steps, samples, taken, curve = 0, 0, 0.0, []
    while samples < options.samples:
        samples += options.every
        block = round(samples / (options.minibatch * options.ranks)) - steps
        steps += block
        taken += trainer.seconds(block)
        reached = torch.zeros(1)
        if options.rank == 0:
            with torch.no_grad():
                right = sum(int((trainer.net(images).argmax(1) == truth).sum())
                            for images, truth in zip(x.split(1000), labels.split(1000)))
            curve.append((samples, taken, right / len(labels)))
            reached[0] = right / len(labels) >= options.target
        dist.broadcast(reached, 0)
        if reached:
            return {"seconds": taken, "curve": curve}
    return {"seconds": None, "curve": curve}


def measure(options):
    torch.manual_seed(2)
    pixels = torch.randint(0, 256, (4096, *SHAPES.get(options.model, (1, 28, 28))), dtype=torch.uint8)
    labels = torch.randint(0, 10, (4096,))
    rates, left_out = {}, {}
    for variant in options.variants or variants(options):
        try:
            rates[variant] = Trainer(options, variant, pixels, labels).window(options.seconds)
        except Exception as error:
            if "compiled" not in variant:
                raise
            left_out[variant] = reason(error)
    return {"rates": rates, "left_out": left_out}


def reason(error):
    """The line of torch.compile's long message that says why: the compiler's, or what its back end raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    if lines[0].endswith("raised:"):
        del lines[0]
    return next((line for line in lines if " error: " in line), lines[0])


def compiles(options):
    if not hasattr(torch, "compile"):
        return {"compile": False, "compiler": "only PyTorch 2 has it"}
    trainer = Trainer(options, "contiguous, foreach, compiled", torch.zeros(64, 1, 28, 28), torch.zeros(64).long())
    try:
        trainer.step()
    except Exception as error:
        return {"compile": False, "compiler": f"{reason(error)}; it needs {TOOLS}"}
    from torch._inductor.cpp_builder import get_cpp_compiler
    return {"compile": True, "compiler": os.popen(f"{get_cpp_compiler()} --version").readline().strip()}


def products(options, batch=128, width=1024):
    """Whole numbers, whose sums float32 holds exactly, so that every kernel must agree to the bit."""
    x, g = (torch.randint(-8, 9, (batch, width), dtype=torch.int32) for _ in range(2))
    w = torch.randint(-8, 9, (width, width), dtype=torch.int32)
    pairs = [(x, w.t()), (g, w), (g.t(), x)]
    right = all(torch.equal((a.float() @ b.float()).int(), a @ b) for a, b in pairs)
    x, g, w = x.float(), g.float(), w.float()
    ended, best = time.process_time() + options.seconds, math.inf
    while time.process_time() < ended:
        begun = time.process_time()
        x @ w.t(), g @ w, g.t() @ x
        best = min(best, time.process_time() - begun)
    return {"right": right, "rate": 6 * batch * width * width / best}


def about():
    """Versions and the libraries in use."""
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps}
    blas = sorted(p for p in paths if "blas" in os.path.basename(p) or "mkl_core" in p)
    found = {"torch": torch.__version__, "python": platform.python_version(), "blas": blas}
    found["onednn"] = (re.findall(r"MKL-DNN v([\d.]+)", torch.__config__.show()) or [None])[0]
    for path in blas:
        with contextlib.suppress(AttributeError):
            library = ctypes.CDLL(path)
            library.openblas_get_config.restype = library.openblas_get_corename.restype = ctypes.c_char_p
            found["openblas"] = library.openblas_get_config().decode().split()[1]
            found["kernel"] = library.openblas_get_corename().decode()
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("one", "sync", "averaging", "train", "products", "compile"))
    parser.add_argument("--model", choices=MODELS, default="lenet")
    parser.add_argument("--minibatch", type=int, default=32, help="samples per step and rank")
    parser.add_argument("--variants", type=json.loads, help="JSON list; default: all")
    parser.add_argument("--locals", type=json.loads, help="JSON list: variants of one rank, from which two start")
    parser.add_argument("--compile", type=int, choices=(0, 1), default=0, help="1: torch.compile as well")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one window")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--store", help="file where two ranks meet")
    parser.add_argument("--data", help="train: folder of MNIST's IDX files")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--init", choices=("default", "glorot"), default="default")
    parser.add_argument("--samples", type=int, default=120000)
    parser.add_argument("--every", type=int, default=2000)
    parser.add_argument("--target", type=float, default=0.98)
    options = parser.parse_args()
    options.ranks = 2 if options.kind in ("sync", "averaging", "train") else 1
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.ranks > 1:
        # One rank may compile longer than the other.
        dist.init_process_group("gloo", init_method=f"file://{options.store}", rank=options.rank,
                                world_size=options.ranks, timeout=datetime.timedelta(minutes=5))
    answer = {"train": train, "products": products, "compile": compiles}.get(options.kind, measure)(options)
    if options.rank == 0:
        print(json.dumps({**answer, "about": about()}))


if __name__ == "__main__":
    main()
