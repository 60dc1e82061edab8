#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Optimizer rules as PyTorch computes them: torch.optim of torch 1.13 (Debian python3-torch 1.13.1+dfsg-4), float64, run as is
(foreach=False). Run: nice /usr/bin/python3 torch_optim.py > torch_optim.txt
One vector of 8 numbers, 10 steps, gradients a fixed table (the last number's gradient is 0 for the first 3 steps).
Conventions of torch: SGD: d = g + weight_decay p; buf = momentum buf + (1 - dampening) d, first buf = d (no dampening);
nesterov: d = d + momentum buf, else d = buf; p -= lr d. Adam: weight decay added to g; bias-corrected,
denominator sqrt(v)/sqrt(1-b2^t) + eps. AdamW: p *= 1 - lr wd first. Adagrad: clr = lr / (1 + (t-1) lr_decay), sum starts at
initial_accumulator_value, p -= clr g / (sqrt(sum) + eps), weight decay added to g.
The lr of the case 'lr-drop' is halved after step 4 (torch keeps lr outside the momentum buffer).
Lines: grad STEP | ...; model STEP | after step STEP.
"""
import torch
D, STEPS = 8, 10
T = lambda v: torch.tensor(v, dtype=torch.float64)
INIT = [((5 * d + 3) % 7 - 3) / 4 for d in range(D)]
def grad(t): return [0.0 if d == D - 1 and t < 3 else ((5 * t + 11 * d + t * d + 3 * d * d) % 23 - 11) / 16 for d in range(D)]
def out(name, *a): print(name, *a[:-1], '|', *['%.9g' % x for x in a[-1]])
def run(name, lr_drop=False, **kw):
    print('case', name, *[f'{a}={b}'.replace(' ', '') for a, b in kw.items()], 'lr-drop' if lr_drop else '')
    p = torch.nn.Parameter(T(INIT)); o = getattr(torch.optim, name)([p], foreach=False, **kw)
    for t in range(STEPS):
        if lr_drop and t == 5: o.param_groups[0]['lr'] /= 2
        p.grad = T(grad(t)); o.step(); out('model', t, p.tolist())
out('init', INIT)
for t in range(STEPS): out('grad', t, grad(t))
run('SGD', lr=0.25)
run('SGD', lr=0.25, weight_decay=0.0625)
run('SGD', lr=0.25, momentum=0.9)
run('SGD', lr=0.25, momentum=0.9, lr_drop=True)
run('SGD', lr=0.25, momentum=0.9, weight_decay=0.0625)
run('SGD', lr=0.25, momentum=0.9, weight_decay=0.0625, nesterov=True)
run('Adam', lr=0.0625); run('Adam', lr=0.0625, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.0625)
run('AdamW', lr=0.0625, weight_decay=0.01); run('AdamW', lr=0.0625, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.25)
run('Adagrad', lr=0.25); run('Adagrad', lr=0.25, initial_accumulator_value=0.5, weight_decay=0.0625, eps=1e-3)
