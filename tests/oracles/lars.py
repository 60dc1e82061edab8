#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""LARS on one layer. float64. Run: python3 lars.py > lars.txt  (numpy-free)

torchlars  kakaobrain/torchlars lars.py, adaptive_lr.cc: a = |p| / (|g| + wd |p| + eps) * trust, 1 if a norm is 0;
             g += wd * p (always); g *= a;  then SGD. (NVIDIA/apex LARC.py@0bfb8300 without clip is the same but where a norm
             is 0: there g is left without weight decay.)
paper      You, Gitman, Ginsburg 2017 (from memory): a = trust |w| / (|g| + wd |w|); v = m v + lr a (g + wd w); w -= v
             (lr inside the momentum; it differs from the others only when lr changes: case lr-drop, lr halved after step 4)
SGD as torch: buf = momentum buf + d (first: buf = d).
case 'zero': the first gradient is 0 (norm 0); case 'zero-model': the model starts at 0.
"""
from math import sqrt
D, STEPS = 8, 10
INIT = [((5 * d + 3) % 7 - 3) / 4 for d in range(D)]
def grad(t): return [((5 * t + 11 * d + t * d + 3 * d * d) % 23 - 11) / 16 for d in range(D)]
def norm(x): return sqrt(sum(a * a for a in x))
def out(name, *a): print(name, *a[:-1], '|', *['%.9g' % x for x in a[-1]])
def run(kind, lr, mu, wd, trust, eps=1e-8, note=''):
    print('case', kind, f'lr={lr} momentum={mu} weight_decay={wd} trust={trust} eps={eps}', note)
    p, buf = ([0.0] * D if note == 'zero-model' else INIT[:]), None
    for t in range(STEPS):
        g = [0.0] * D if note == 'zero' and t == 0 else grad(t)
        if note == 'lr-drop' and t == 5: lr /= 2
        pn, gn = norm(p), norm(g)
        if kind == 'paper':
            a = trust * pn / (gn + wd * pn)
            d = [lr * a * (x + wd * y) for x, y in zip(g, p)]
            buf = d if buf is None else [mu * b + x for b, x in zip(buf, d)]
            p = [x - b for x, b in zip(p, buf)]
        else:
            a, ok = 1.0, pn != 0 and gn != 0
            if ok: a = trust * pn / (gn + pn * wd + eps)
            g = [(x + wd * y) * a for x, y in zip(g, p)]
            if mu:
                buf = g if buf is None else [mu * b + x for b, x in zip(buf, g)]
                g = buf
            p = [x - lr * y for x, y in zip(p, g)]
        out('model', t, p)
out('init', INIT)
for t in range(STEPS): out('grad', t, grad(t))
run('torchlars', 0.25, 0.9, 0.0625, 0.001); run('torchlars', 0.25, 0.9, 0.0625, 0.02, note='zero')
run('torchlars', 0.25, 0.9, 0.0625, 0.02, note='zero-model')
run('paper', 0.25, 0.9, 0.0625, 0.02, eps=0); run('paper', 0.25, 0.9, 0.0625, 0.02, eps=0, note='lr-drop')
