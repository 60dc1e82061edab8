#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Server rules that take pushes (worker, version held, gradient). float64. Run: python3 push_servers.py > push_servers.txt

Every case has the same pushes per c (gradients a server update needs): 'push K WORKER HELD TAU' with 'grad K', HELD the version
(number of server updates) of the model that the gradient is of, TAU = server's version - HELD at the push; then
'server K | vector' after it (unchanged while the server still collects).
A worker takes the newest model when the update that its push went into is done (fred: blocked workers are released then).

asgd            plain: w -= lr g.
sasgd-fred      DoctorTeeth/fred code/servers.py@88100135, SoftSyncServer: collect c = int(clients/n) gradients;
                w -= lr * g / (c * (tau + 1)) each; tau taken when the gradient ARRIVES; version += 1 an update.
sasgd-paper     Zhang, Gupta, Lian, Liu 2015 (n-softsync): w -= (1/c) sum alpha0/tau g, alpha0 where tau = 0. From memory; a
                public ParameterServerSAASGD has the same: scale = alpha0 / tau if tau != 0 else alpha0.
fasgd-fred      same file, FASGDServer: at each arrival mag = 0.9 mag + 0.1 |g| (mag starts at 0); at the update, for each
                gathered gradient, w -= lr * g / (c (tau+1)) / (mag + 0.001), mag the newest for all c of them.
fasgd-tex       the FASGD paper's source (same repository, paper/fasgd.tex and paper/paper/fasgd.tex@88100135), literally:
                n = gamma n + (1-gamma) g^2; b = gamma b + (1-gamma) g; v = beta v + (1-beta) / sqrt(n - b^2 + eps);
                w -= (1/c) sum alpha / (v tau) g.   n, b, v start at 0 (assumed; the paper does not say). tau = 0 would divide
                by zero: two readings, divisor=tau+1 (the program's) and divisor=max(tau,1).
fasgd-std       the reading that the paper's WORDS ask for ('dividing the learning rate by the standard deviation', 'v ... the
                moving averages of their standard deviations'): v = beta v + (1-beta) sqrt(n - b^2 + eps), w -= alpha/(v tau) g.
                Ours, not released.
                For both: v is as of the push that makes the update, for all c gradients; no bias correction.
dcasgd-c        Zheng et al. 2017, and the Multiverso updaters (dcasgd_updater.h's DC-ASGD-c lines; a hpps copy in public):
                g' = g + lambda g g (w - w_bak(worker)); w -= lr g'; then w_bak(worker) = w (the NEW w).
dcasgd-a        Multiverso dcasgda_updater.h: ms(worker) = m ms(worker) + (1-m) g^2 (one ms PER WORKER, starting at 0);
                g' = g + lambda0 / sqrt(ms + 1e-7) g g (w - w_bak(worker)).  (1e-10 in the later dcasgd_updater.h.)
                The shadow copies start at 0 there (a worker's first push is then compensated from 0!); here at the first model,
                as the paper means. ms=server: the paper's MeanSquare(t), one for all workers (paper from memory).
"""
from math import sqrt
D = 6
INIT = [((5 * d + 3) % 7 - 3) / 4 for d in range(D)]
def grad(k): return [((11 * d + 7 * k + 3 * k * d + 2 * k * k) % 23 - 11) / 8 for d in range(D)]
ORDER1 = [0, 1, 0, 2, 0, 1, 3, 0, 0, 2, 1, 3]                       # c = 1
ORDER2 = [0, 1, 0, 2, 1, 0, 2, 3, 1, 0, 3, 2, 0, 1, 0, 3]           # c = 2: no worker twice in one gathering
def out(name, *a): print(name, *a[:-1], '|', *['%.9g' % x for x in a[-1]])
def run(kind, order, c, text, start, step):
    print('case', kind, 'workers=4', f'c={c}', text)
    w, version, held, wait, st = INIT[:], 0, {i: 0 for i in range(4)}, [], start()
    st['bak'] = {i: INIT[:] for i in range(4)}
    for k, i in enumerate(order):
        g = grad(k); tau = version - held[i]
        print('push', k, i, held[i], tau)
        assert i not in [x[0] for x in wait]
        if 'arrive' in st: st['arrive'](st, g)
        wait.append((i, tau, g))
        if len(wait) == c:
            for j, t, x in wait: w = step(st, w, j, t, x, c)
            version += 1
            for j, _, _ in wait: held[j] = version; st['bak'][j] = w[:]
            wait = []
        out('server', k, w)
out('init', INIT)
for k in range(len(ORDER2)): out('grad', k, grad(k))
z = lambda: [0.0] * D
lr = 0.25
run('asgd', ORDER1, 1, f'lr={lr}', dict, lambda s, w, i, t, g, c: [a - lr * x for a, x in zip(w, g)])
for c, order in ((1, ORDER1), (2, ORDER2)):
    run('sasgd-fred', order, c, f'lr={lr}', dict, lambda s, w, i, t, g, c: [a - lr * x * (1 / (c * (t + 1.0))) for a, x in zip(w, g)])
    run('sasgd-paper', order, c, f'lr={lr}', dict, lambda s, w, i, t, g, c: [a - lr / max(t, 1) * x / c for a, x in zip(w, g)])
    def mag(s, g): s['mag'] = [m * 0.9 + abs(x) * 0.1 for m, x in zip(s['mag'], g)]
    if c == 1: run('fasgd-fred', order, c, 'lr=0.0625 decay=0.9 epsilon=0.001', lambda: dict(mag=z(), arrive=mag),
        lambda s, w, i, t, g, c: [a - 0.0625 * x * (1 / (c * (t + 1.0))) * (1 / (m + 0.001)) for a, x, m in zip(w, g, s['mag'])])
    for kind, f, alpha in (('fasgd-tex', lambda x: 1 / sqrt(x), 0.03125), ('fasgd-std', sqrt, 0.03125)):
        for beta, gamma, eps in ((0.9, 0.9, 1e-3), (0.5, 0.75, 1e-4)) if c == 1 else ():
            def arrive(s, g):
                s['n'] = [gamma * n + (1 - gamma) * x * x for n, x in zip(s['n'], g)]
                s['b'] = [gamma * b + (1 - gamma) * x for b, x in zip(s['b'], g)]
                s['v'] = [beta * v + (1 - beta) * f(n - b * b + eps) for v, n, b in zip(s['v'], s['n'], s['b'])]
            for name, div in (('max(tau,1)', lambda t: max(t, 1)),):
                run(kind, order, c, f'alpha={alpha} beta={beta} gamma={gamma} eps={eps} divisor={name}', lambda: dict(n=z(), b=z(), v=z(), arrive=arrive),
                    lambda s, w, i, t, g, c: [a - alpha / (v * div(t)) * x / c for a, x, v in zip(w, g, s['v'])])
for lam in (0.04, 0.5):
    run('dcasgd-c', ORDER1, 1, f'lr={lr} lambda={lam}', dict,
        lambda s, w, i, t, g, c: [a - lr * (x + lam * x * x * (a - b)) for a, x, b in zip(w, g, s['bak'][i])])
for lam0, m, eps in ((2.0, 0.95, 1e-7), (0.5, 0.5, 1e-7)):
    for scope in ('server',):
        def step(s, w, i, t, g, c):
            ms = [m * q + (1 - m) * x * x for q, x in zip(s['ms'][i], g)]
            for j in (range(4) if scope == 'server' else (i,)): s['ms'][j] = ms
            return [a - lr * (x + lam0 / sqrt(q + eps) * x * x * (a - b)) for a, x, q, b in zip(w, g, ms, s['bak'][i])]
        run('dcasgd-a', ORDER1, 1, f'lr={lr} lambda0={lam0} m={m} eps={eps} ms={scope}', lambda: dict(ms={i: z() for i in range(4)}), step)
