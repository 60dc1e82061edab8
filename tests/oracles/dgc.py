#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Deep Gradient Compression as released: synxlin/deep-gradient-compression@b929ca7a. float64 (the program: the model's type,
Horovod), one process, 3 workers simulated. Run: python3 dgc.py > dgc.txt
Files followed: dgc/compression.py (DGCCompressor), dgc/optim/sgd.py (DGCSGD), dgc/clip_grad.py (clip_grad_norm_); dgc/memory.py
is quoted in README.md of that commit and read in full in a public copy (DGCSGDMemory):
  compress (compress_ratio < 1): grad = gradient_clipping(grad) if set;
     nesterov: mmt = (mmt + grad) * momentum; vec += mmt + grad      else: mmt = momentum * mmt + grad; vec += mmt
     send the num_selects = ceil(numel * ratio) largest |vec| (threshold = the num_selects-th largest; index order on ties);
     momentum_masking: mmt[sent] = 0; always vec[sent] = 0
     output = sum of what was sent / world_size
  compress_ratio = 1: the plain mean of the UNCLIPPED gradients, then on the mean, on every worker alike: clip (if set),
     nesterov: mmt = (mmt + grad) * momentum; output mmt + grad      else: mmt = momentum * mmt + grad; output mmt
  DGCSGD: the output has the momentum in it already; weight decay has a momentum buffer of its own:
     d = weight_decay * p; buf = momentum * buf + d (first: buf = d); d = d + momentum * buf if nesterov else buf;
     p -= lr * (d + output);  momentum = 0: d = weight_decay * p
  clip_grad_norm_: coef = max_norm / (norm + 1e-6), applied if < 1. The paper's local threshold: max_norm = thr / sqrt(N).
The vector has 12 numbers, so no sampling of the threshold (numel == num_samples needs sample_ratio = 1, assumed).
Gradients are a fixed table.
Lines: grad STEP WORKER; sent STEP WORKER | indices; model STEP (after step STEP).
"""
from math import ceil, sqrt
D, N, STEPS = 12, 3, 8
INIT = [((5 * d + 3) % 7 - 3) / 4 for d in range(D)]
def grad(i, t): return [((7 * i + 5 * t + 11 * d + 3 * i * t + t * d + 2 * d * d + 5 * i * d) % 41 - 20) / 16 + (d - 5) / 512 for d in range(D)]
def out(name, *a): print(name, *a[:-1], '|', *['%.9g' % x for x in a[-1]])
def clip(g, max_norm):
    coef = max_norm / (sqrt(sum(x * x for x in g)) + 1e-6)
    return [x * coef for x in g] if coef < 1 else g
def momentum_step(mmt, g, mu, nesterov):
    if nesterov: mmt = [(m + x) * mu for m, x in zip(mmt, g)]; return mmt, [m + x for m, x in zip(mmt, g)]
    mmt = [mu * m + x for m, x in zip(mmt, g)]
    return mmt, mmt
def run(ratio, mu, nesterov, masking, thr, wd, lr=0.125):
    max_norm = thr / sqrt(N) if thr else 0
    print('case dgc', f'workers={N} ratio={ratio} momentum={mu} nesterov={nesterov} masking={masking} clip_thr={thr} max_norm={max_norm:.17g} weight_decay={wd} lr={lr}')
    p, buf = INIT[:], None
    mmt, vec = [[0.0] * D for _ in range(N)], [[0.0] * D for _ in range(N)]
    k = ceil(D * ratio)
    for t in range(STEPS):
        g = [grad(i, t) for i in range(N)]
        o = [0.0] * D
        if ratio < 1:
            for i in range(N):
                if thr: g[i] = clip(g[i], max_norm)
                mmt[i], add = momentum_step(mmt[i], g[i], mu, nesterov)
                vec[i] = [v + a for v, a in zip(vec[i], add)]
                limit = sorted(map(abs, vec[i]))[-k]
                sent = [d for d in range(D) if abs(vec[i][d]) >= limit][:k]
                for d in sent:
                    o[d] += vec[i][d]
                    vec[i][d] = 0.0
                    if masking: mmt[i][d] = 0.0
                print('sent', t, i, '|', *sent)
            o = [x * (1 / N) for x in o]
        else:
            for i in range(N): o = [a + b for a, b in zip(o, g[i])]
            o = [x / N for x in o]
            if thr: o = clip(o, max_norm)
            mmt[0], o = momentum_step(mmt[0], o, mu, nesterov)
        d = [0.0] * D
        if wd:
            d = [wd * x for x in p]
            if mu:
                buf = d if buf is None else [mu * b + x for b, x in zip(buf, d)]
                d = [x + mu * b for x, b in zip(d, buf)] if nesterov else buf
        p = [x - lr * (a + b) for x, a, b in zip(p, d, o)]
        out('model', t, p)
out('init', INIT)
for i in range(N):
    for t in range(STEPS): out('grad', t, i, grad(i, t))
run(1.0, 0.9, 0, 0, 0, 0.0)
run(1.0, 0.9, 1, 0, 0, 0.0625)
run(0.25, 0.9, 0, 1, 0, 0.0)
run(0.25, 0.9, 0, 0, 0, 0.0)
run(0.25, 0.9, 1, 1, 0, 0.0625)
run(0.25, 0.9, 1, 1, 2.0, 0.0625)
run(0.25, 0.9, 0, 0, 2.0, 0.0625)
run(0.25, 0.0, 0, 1, 0, 0.0625)
