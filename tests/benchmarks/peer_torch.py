"""PyTorch's side of peers.py: one rank of one measurement; the answer is a line of JSON from rank 0.

A step takes a minibatch of bytes from memory, scales it, and does forward, loss, backward and SGD with momentum.
  one        one process; samples per second of processor time, so that other programs disturb less
  sync       DistributedDataParallel over gloo; samples per second of wall clock, all ranks together
  averaging  steps of one's own; every 5 of them one all-reduce of all parameters, which are one flat buffer
  train      sync on MNIST until a test accuracy is reached; seconds of training, evaluation excluded
"""
import argparse
import contextlib
import datetime
import itertools
import json
import math
import os
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when the libraries load
    os.environ[name] = "1"
os.environ["GLOO_SOCKET_IFNAME"] = "lo"

import torch
import torch.distributed as dist
from torch import nn

PERIOD = 5  # steps between two averagings
CORES = sorted(os.sched_getaffinity(0))
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


def variants(kind, model):
    """What PyTorch leaves to its user, every combination; the driver goes on with the best."""
    images = model in ("lenet", "cifar_quick", "resnet20")
    axes = [("channels-last", "contiguous") if images else ("contiguous",), ("foreach", "no foreach")]
    if kind != "one":
        axes.append(("bound", "not bound"))
    if kind in ("sync", "train"):
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
        if self.ranks > 1:
            bind({CORES[self.rank % len(CORES)]} if "bound" in chosen else CORES)
        self.net = self.model = MODELS[options.model]().to(memory_format=self.layout)
        if init == "glorot":
            for p in self.net.parameters():
                nn.init.xavier_normal_(p) if p.dim() > 1 else nn.init.zeros_(p)
        self.flat = flatten(self.net) if options.kind == "averaging" else None
        if options.kind in ("sync", "train"):
            one = "default buckets" not in chosen
            dist._DEFAULT_FIRST_BUCKET_BYTES = 1 << (30 if one else 20)
            self.model = nn.parallel.DistributedDataParallel(
                self.net, bucket_cap_mb=1024 if one else 25, gradient_as_bucket_view=one,
                static_graph="one bucket static" in chosen)
        self.loss = nn.CrossEntropyLoss()
        self.rate, self.foreach, self.count = rate, "foreach" in chosen, 0
        self.restart()

    def restart(self):
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=self.rate, momentum=0.9, foreach=self.foreach)
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("one", "sync", "averaging", "train"))
    parser.add_argument("--model", choices=MODELS, default="lenet")
    parser.add_argument("--minibatch", type=int, default=32, help="samples per step and rank")
    parser.add_argument("--variants", type=json.loads, help="JSON list; default: all")
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
    options.ranks = 1 if options.kind == "one" else 2
    options.variants = options.variants or variants(options.kind, options.model)
    torch.set_num_threads(1)
    if options.ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{options.store}", rank=options.rank,
                                world_size=options.ranks, timeout=datetime.timedelta(seconds=60))
    if options.kind == "train":
        answer = train(options)
    else:
        torch.manual_seed(2)
        pixels = torch.randint(0, 256, (4096, *SHAPES.get(options.model, (1, 28, 28))), dtype=torch.uint8)
        labels = torch.randint(0, 10, (4096,))
        answer = {"rates": {v: Trainer(options, v, pixels, labels).window(options.seconds) for v in options.variants}}
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps}
    answer["blas"] = sorted(p for p in paths if "blas" in os.path.basename(p) or "mkl_core" in p)
    answer["torch"] = torch.__version__
    if options.rank == 0:
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
