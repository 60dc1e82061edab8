#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""EASGD, EAMSGD and Downpour as in the released Torch program sixin-zh/mpiT. float64 (the program: float32, many processes).
Run: python3 easgd_downpour.py > easgd_downpour.txt

One 'event' is one call of the worker's optimizer, atomic here (the program's server applies messages as they come).
Gradient at a point x: g = CURVE * (x - target(worker, its step)), given as 'at' and 'grad', so a replay can push the recorded
gradient and check the point it was asked at.

eamsgd   BiCNN/optim-eamsgd.lua@fa21d20e (mom = 0: easgd). Lines followed, a worker's step number pversion from 0:
           if pversion % su == 0: receive the centre w*; sug = mva * (w - w*); server: w* += sug
           local update: if mom > 0: vt *= mom; w += vt;  g = gradient at w; g += l2wd * w; w -= clr g; vt -= clr g
           clr = lr / (1 + pversion * lrd)^lrp if lrd != 0 and lrp > 0;  pversion += 1
           if it communicated: w -= sug        (the difference is that from BEFORE the local update)
         So the first step of each worker already exchanges. Workers and centre start equal.
easgd-sync  Zhang, Choromanska, LeCun 2015, eq. 5-6 (from memory): all workers at once,
           x_i' = x_i - eta g_i(x_i) - alpha (x_i - c);  c' = c + alpha sum_i (x_i - c)   (beta = N alpha).
           (the same as the paper's Algorithms 1 and 2: x = x_i; x_i -= alpha (x - c), c += alpha (x - c) if tau divides t;
           v = delta v - eta g(x + delta v); x_i += v)
downpour-dean   Dean et al. 2012 (from memory), blocking: if t % fetch == 0: x = server; g at x; acc += g; x -= lr g;
         if t % push == 0: server -= lr acc; acc = 0  (push at t = 0 too; plain SGD at the server, Adagrad in the original).
Lines: event K WORKER PVERSION EXCHANGED(0/1); at / grad (before l2wd) / worker (w after) / v / server (after), each 'NAME K | ...'.
"""
D, N = 6, 3
INIT = [((5 * d + 3) % 7 - 3) / 4 for d in range(D)]
CURVE = [(d % 3 + 1) / 4 for d in range(D)]
def target(i, t): return [((7 * i + 5 * t + 11 * d + 3 * i * t + t * d) % 23 - 11) / 8 for d in range(D)]
def gradient(x, i, t): return [c * (a - b) for c, a, b in zip(CURVE, x, target(i, t))]
ORDER = [0, 1, 2, 0, 0, 1, 0, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 2]
def out(name, *a): print(name, *a[:-1], '|', *['%.9g' % x for x in a[-1]])
def axpy(a, x, y): return [a * p + q for p, q in zip(x, y)]
def eamsgd(lr, mom, mva, su, l2wd=0.0, lrd=0.0, lrp=0.0):
    print('case eamsgd', f'workers={N} lr={lr} mom={mom} mva={mva} su={su} l2wd={l2wd} lrd={lrd} lrp={lrp}')
    c, w, v, pv = INIT[:], [INIT[:] for _ in range(N)], [[0.0] * D for _ in range(N)], [0] * N
    for k, i in enumerate(ORDER):
        ex = pv[i] % su == 0
        print('event', k, i, pv[i], int(ex))
        if ex:
            sug = [mva * (a - b) for a, b in zip(w[i], c)]
            c = axpy(1, sug, c)
        if mom > 0: v[i] = [mom * x for x in v[i]]; w[i] = axpy(1, v[i], w[i])
        g = gradient(w[i], i, pv[i]); out('at', k, w[i]); out('grad', k, g)
        if l2wd: g = axpy(l2wd, w[i], g)
        clr = lr / (1 + pv[i] * lrd) ** lrp if lrd and lrp > 0 else lr
        w[i] = axpy(-clr, g, w[i])
        if mom > 0: v[i] = axpy(-clr, g, v[i]); out('v', k, v[i])
        if ex: w[i] = axpy(-1, sug, w[i])
        pv[i] += 1
        out('worker', k, w[i]); out('server', k, c)
def dean(lr, fetch, push):
    print('case downpour-dean', f'workers={N} lr={lr} fetch={fetch} push={push}')
    c, x, acc, pv = INIT[:], [INIT[:] for _ in range(N)], [[0.0] * D for _ in range(N)], [0] * N
    for k, i in enumerate(ORDER):
        print('event', k, i, pv[i], int(pv[i] % push == 0))
        if pv[i] % fetch == 0: x[i] = c[:]
        g = gradient(x[i], i, pv[i]); out('at', k, x[i]); out('grad', k, g)
        acc[i] = axpy(1, g, acc[i]); x[i] = axpy(-lr, g, x[i])
        if pv[i] % push == 0: c = axpy(-lr, acc[i], c); acc[i] = [0.0] * D
        pv[i] += 1
        out('worker', k, x[i]); out('server', k, c)
def sync(eta, alpha, tau):
    print('case easgd-sync', f'workers={N} eta={eta} alpha={alpha} tau={tau}')
    c, x = INIT[:], [INIT[:] for _ in range(N)]
    for t in range(8):
        ex = t % tau == 0
        diff = [[a - b for a, b in zip(x[i], c)] for i in range(N)]
        for i in range(N):
            g = gradient(x[i], i, t); out('at', t, i, x[i]); out('grad', t, i, g)
            x[i] = axpy(-eta, g, x[i])
            if ex: x[i] = axpy(-alpha, diff[i], x[i])
        if ex:
            for i in range(N): c = axpy(alpha, diff[i], c)
        for i in range(N): out('worker', t, i, x[i])
        out('server', t, c)
out('init', INIT)
eamsgd(0.25, 0.0, 0.3, 1); eamsgd(0.25, 0.0, 0.3, 2); eamsgd(0.25, 0.5, 0.3, 2); eamsgd(0.125, 0.9, 0.3, 3, l2wd=0.0625)
sync(0.25, 0.2, 1); sync(0.25, 0.2, 2)
dean(0.25, 1, 1); dean(0.25, 2, 2); dean(0.25, 3, 2)
