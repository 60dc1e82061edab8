# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of gpu.py: training steps on one GPU. Reads a line of JSON for each question, answers with one.

  {"cell": [model, minibatch, precision], "variants": [...], "seconds": 0.3}   samples per second of each variant, or why not

A step takes a minibatch of bytes that lie on the card already, scales it, and does forward, loss, backward and SGD with momentum.
Precisions: fp32 (TF32 off), tf32, bf16 (autocast; float32 weights). Variants: eager; graph: the same step as a CUDA graph;
compile: torch.compile with max-autotune, which makes graphs of forward and backward by itself; compile and graph: without those,
the whole step as one. Each with images channels-last or not.
"""
import argparse
import contextlib
import json
import os
import sys
import time

from peer_torch import MODELS, SHAPES  # sets one thread first
import torch

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
SAMPLES = 4096


def variants(model, device):
    layouts = LAYOUTS if model in ("lenet", "cifar_quick", "resnet20") else ("contiguous",)
    kinds = ("eager", "graph", "compile", "compile and graph") if device == "cuda" else ("eager",)
    return [f"{kind}, {layout}" for kind in kinds for layout in layouts]


def sgd(parameters, device):
    settings = {"lr": 0.01, "momentum": 0.9}
    if device == "cuda":
        with contextlib.suppress(TypeError, RuntimeError):  # PyTorch before 2.3
            return torch.optim.SGD(parameters, fused=True, **settings)
    return torch.optim.SGD(parameters, **settings)


class Trainer:
    def __init__(self, device, model, minibatch, precision, variant):
        kind, layout = variant.split(", ")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(1)
        self.device, self.minibatch, self.layout = device, minibatch, LAYOUTS[layout]
        self.pixels = torch.randint(0, 256, (SAMPLES, *SHAPES.get(model, (1, 28, 28))), dtype=torch.uint8, device=device)
        self.labels = torch.randint(0, 10, (SAMPLES,), device=device)
        self.order = torch.cat([torch.randperm(SAMPLES) for _ in range(4)]).to(device).split(minibatch)[:4 * SAMPLES // minibatch]
        self.net = MODELS[model]().to(device=device, memory_format=self.layout)
        self.optimizer = sgd(list(self.net.parameters()), device)
        self.cast = (contextlib.nullcontext if precision != "bf16" else
                     lambda: torch.autocast(device_type=device, dtype=torch.bfloat16, cache_enabled=not kind.endswith("graph")))
        self.criterion, self.count = torch.nn.CrossEntropyLoss(), 0
        self.losses = self.forward
        if kind.startswith("compile"):
            torch.compiler.reset()  # a function that was compiled for a few others stays eager
            self.losses = torch.compile(self.forward, dynamic=False,
                                        mode="max-autotune" if kind == "compile" else "max-autotune-no-cudagraphs")
        self.ids = self.order[0].clone()
        self.graph = None
        if kind.endswith("graph"):
            self.capture()

    def forward(self, ids):
        x = self.pixels[ids].float().div_(255).contiguous(memory_format=self.layout)
        return self.criterion(self.net(x), self.labels[ids])

    def work(self, ids):
        with self.cast():  # outside of what is compiled, which it must not cut into pieces
            loss = self.losses(ids)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(5):
                self.work(self.ids)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.work(self.ids)
        self.graph = graph

    def step(self):
        ids = self.order[self.count % len(self.order)]
        self.count += 1
        if self.graph is None:
            return self.work(ids)
        self.ids.copy_(ids)
        self.graph.replay()

    def seconds(self, steps):
        synchronise(self.device)
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        synchronise(self.device)
        return time.perf_counter() - begun

    def rate(self, seconds):
        """Samples per second over about so many seconds."""
        self.seconds(10)
        steps = max(10, int(seconds / (self.seconds(10) / 10)))
        return self.minibatch * steps / self.seconds(steps)


def synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the program, not to compare with")
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("peer_gpu: this PyTorch sees no GPU")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # compilers print what they do

    def answer_with(found):
        print(json.dumps(found), file=answers, flush=True)

    about = {"torch": torch.__version__, "cuda": torch.version.cuda,
             "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
             "variants": {model: variants(model, device) for model in MODELS},
             "card": torch.cuda.get_device_name() if device == "cuda" else "none"}
    answer_with(about)
    trainers = {}  # kept from pair to pair: graphs and compiled code are made once
    for line in sys.stdin:
        question, answer = json.loads(line), {}
        cell = question["cell"]
        for variant in question["variants"]:
            key = (*cell, variant)
            try:
                if key not in trainers:
                    trainers[key] = Trainer(device, *key)
                # Precision is a switch of the whole process.
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cell[2] == "tf32"
                answer[variant] = trainers[key].rate(question["seconds"])
            except Exception as failure:  # an operation that a variant has not; the others go on
                answer[variant] = f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}"
        answer_with(answer)


if __name__ == "__main__":
    main()
