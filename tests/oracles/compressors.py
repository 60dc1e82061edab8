#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Gradient compressors. float64 (the programs: float32), 2 or 3 workers in one process. Run: python3 compressors.py > compressors.txt
Gradients: a matrix of 6 rows and 4 columns a worker, stored COLUMN-MAJOR in the lines (column 0 first), fixed table; none is 0.

onebit-cntk    Microsoft CNTK, 1-bit SGD (Seide et al. 2014): AllReduceDistGradAggregator.h, ColumnQuantizer.h, ValueQuantizer.h,
               with zeroThresholdFor1Bit. Per column of value = gradient + residual: threshold 0 (>= 0 is bit 1), mean0, mean1 =
               means of the two sides (0 if empty); newmean = (mean0+mean1)/2, radius = 2 (mean1-newmean);
                 lower, upper = newmean -+ radius; step = (upper-lower)/2 (0 if < 1e-36); bit b stands for lower + (b + 0.5) step
                 residual = value - what the bit stands for
               Columns are shared out (GetStripeForNode: 4 columns over 2 nodes = 2,2). The owner of a column adds its own
               quantized gradient (selfquant=1; by default its UNQUANTIZED one) and the others', quantizes the SUM with a residual
               of its own, and that goes to all. The result is a SUM, not a mean.
ef-sign-mean   epfml/powersgd paper-code SignAndNormReducer@eb48559c: value = gradient + memory; out = mean_i |v_i|_1/n sign(v_i);
               memory = v - |v|_1/n sign(v). Learning rate outside.
majority       jiaweizhao/signSGD-with-Majority-Vote main/Signum_SGD.py@0cbd338a: buf = momentum buf + (1-momentum) g (buf from 0);
               sign per worker, sign of the sum; p -= lr (vote + weight_decay p)  (weight decay after the vote where bits are
               packed: 'compress'). No ties here: the program's all-reduce path takes sign(0) = 0.
topk-grace     sands-lab/grace grace_dl compressor/topk.py + residual memory@106e3dee: k = max(1, int(n ratio)) largest |v|;
               mean (a sum / workers).
Lines: grad STEP WORKER; result STEP (what every worker gets); model STEP where there is any.
"""
R, C, STEPS = 6, 4, 8
D = R * C
def grad(i, t): return [((7 * i + 5 * t + 11 * d + 3 * i * t + t * d + 2 * d * d + 5 * i * d) % 41 - 20) / 16 + ((7 * d + 5 * i + 3 * t + d * d) % 61) / 2048 + 1 / 4096 for d in range(D)]
def out(name, *a): print(name, *a[:-1], '|', *['%.9g' % x for x in a[-1]])
def sign(x): return (x > 0) - (x < 0)
def quant(v):                                                # one column -> what its bits stand for
    lo, hi = [x for x in v if x < 0], [x for x in v if not x < 0]
    m0, m1 = sum(lo) / max(1, len(lo)), sum(hi) / max(1, len(hi))
    mean = 0.5 * (m0 + m1); radius = 2 * (m1 - mean)
    lower, upper = mean - radius, mean + radius
    step = (upper - lower) / 2 if upper - lower >= 1e-36 else 0.0
    return [lower + ((1 if x >= 0 else 0) + 0.5) * step for x in v]
def columns(v): return sum((quant(v[j * R:(j + 1) * R]) for j in range(C)), [])
def add(a, b): return [x + y for x, y in zip(a, b)]
def sub(a, b): return [x - y for x, y in zip(a, b)]
def onebit(N):
    print('case onebit-cntk', f'workers={N} rows={R} cols={C} zeroThreshold=1 selfquant=1')
    res, total = [[0.0] * D for _ in range(N)], [0.0] * D
    for t in range(STEPS):
        s = [0.0] * D
        for i in range(N):
            v = add(grad(i, t), res[i]); q = columns(v); res[i] = sub(v, q); s = add(s, q)
        v = add(s, total); r = columns(v); total = sub(v, r)
        out('result', t, r)
def simple(name, f, N, text=''):
    print('case', name, f'workers={N}', text)
    res = [[0.0] * D for _ in range(N)]
    for t in range(STEPS):
        r = [0.0] * D
        for i in range(N):
            v = add(grad(i, t), res[i]); q = f(v)
            res[i] = sub(v, q); r = add(r, q)
        out('result', t, [x / N for x in r])
def scaled_sign(v): m = sum(map(abs, v)) / len(v); return [m * sign(x) for x in v]
def topk(ratio):
    def f(v):
        k = max(1, int(len(v) * ratio)); keep = sorted(range(len(v)), key=lambda d: (-abs(v[d]), d))[:k]
        return [x if d in keep else 0.0 for d, x in enumerate(v)]
    return f
def majority(n, mu, wd, lr=0.125):
    print('case majority', f'workers={n} lr={lr} momentum={mu} weight_decay={wd}')
    p, buf = [0.25 * (d % 5 - 2) for d in range(D)], [[0.0] * D for _ in range(n)]
    out('init', p)
    for t in range(STEPS):
        for i in range(n):
            buf[i] = [mu * b + (1 - mu) * x for b, x in zip(buf[i], grad(i, t))] if mu else grad(i, t)
        vote = [sign(sum(sign(b[d]) for b in buf)) for d in range(D)]
        assert all(vote)
        p = [x - lr * (v + wd * x) for x, v in zip(p, vote)]
        out('model', t, p)
for i in range(3):
    for t in range(STEPS): out('grad', t, i, grad(i, t))
onebit(2)
for n in (2, 3): simple('ef-sign-mean', scaled_sign, n); simple('topk-grace', topk(0.25), n, 'ratio=0.25')
majority(3, 0.0, 0.0); majority(3, 0.75, 0.0625)
