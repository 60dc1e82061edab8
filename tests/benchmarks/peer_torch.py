"""One thread of PyTorch: samples per second of a whole training step, for the models that dsgd is compared with.

A step takes a minibatch of bytes from memory, scales it, and does forward, loss, backward and SGD with momentum.
Prints one line per model and minibatch: "model minibatch samples/s variant", the best of PyTorch's variants. Time is
the processor's, so that other programs on the machine disturb less.

usage: peer_torch.py [--seconds S] [--models lenet,mlp,dnn] [--minibatches 32,128]
"""
import argparse
import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when the libraries load
    os.environ[name] = "1"

import itertools
import time

import torch
from torch import nn

torch.set_num_threads(1)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(200, 200), nn.ReLU(inplace=True), nn.Linear(200, 10))


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 1024), nn.ReLU(inplace=True),
        nn.Linear(1024, 1024), nn.ReLU(inplace=True), nn.Linear(1024, 10))


def dnn():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 500), nn.Sigmoid(), nn.Linear(500, 500), nn.Sigmoid(),
        nn.Linear(500, 2000), nn.Sigmoid(), nn.Linear(2000, 10))


MODELS = {"lenet": lenet, "mlp": mlp, "dnn": dnn}


class Trainer:
    def __init__(self, name, minibatch, layout, foreach):
        torch.manual_seed(1)
        self.layout = layout
        self.model = MODELS[name]().to(memory_format=layout)
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, foreach=foreach)
        self.pixels = torch.randint(0, 256, (4096, 1, 28, 28), dtype=torch.uint8)
        self.labels = torch.randint(0, 10, (4096,))
        self.batches = torch.randperm(4096).split(minibatch)
        self.samples = minibatch

    def step(self, i):
        ids = self.batches[i % len(self.batches)]
        x = self.pixels[ids].float().div_(255).contiguous(memory_format=self.layout)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model(x), self.labels[ids]).backward()
        self.optimizer.step()

    def rate(self, seconds):
        """Samples per second of processor time, over at least `seconds`."""
        steps, start = 0, time.process_time()
        while True:
            for _ in range(5):
                self.step(steps)
                steps += 1
            elapsed = time.process_time() - start
            if elapsed >= seconds:
                return steps * self.samples / elapsed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--models", default="lenet,mlp,dnn")
    parser.add_argument("--minibatches", default="32,128")
    options = parser.parse_args()
    for name in options.models.split(","):
        layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
        if name != "lenet":
            del layouts["channels_last"]  # no images inside
        for minibatch in map(int, options.minibatches.split(",")):
            best = (0, "")
            for layout, foreach in itertools.product(layouts, (False, True)):
                trainer = Trainer(name, minibatch, layouts[layout], foreach)
                trainer.rate(0.1)  # warm-up
                best = max(best, (trainer.rate(options.seconds), layout + (", foreach" if foreach else "")))
            print(name, minibatch, round(best[0], 1), best[1], flush=True)


if __name__ == "__main__":
    main()
