#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""BMUF: three conventions on the same inputs. float64, one process, all workers simulated. Run: python3 bmuf.py > bmuf.txt

fairseq  facebookresearch/fairseq fairseq/optim/bmuf.py as it stands from about v0.9.0 to the last release (read in the
         copies facebookresearch/mega@09f1a872 and Shijie-NLP/fairseq@0e8ec6cd: formulas identical). Lines followed:
           grads = global_param - param;  sync_para /= world_size; all_reduce(SUM)
           smoothed_grad = block_momentum * smoothed_grad + block_lr * grad
           param = global_param - smoothed_grad;  if use_nbm: param = param - block_momentum * smoothed_grad
           global_param = param                (so the look-ahead is kept in the next block's start point)
         block_momentum == 0: the parameters themselves are averaged; block_lr is not used. Its warm-up is left out.
         The file's first version with block momentum (ad4a7fdf, 2019) had the gain (1 - block_momentum) * block_lr.
cntk     Microsoft CNTK Source/SGDLib/BlockMomentumSGD.h and V2BlockMomentumSGD.h (master), double instead of float:
           blockGrad = prevWeight - currentWeight; AllReduce (SUM over workers, not mean)
           sg = blockMomentum * sg + (1 - blockMomentum) * blockLearningRate * blockGrad
           current = prev - sg;  if useNesterovMomentum: current -= blockMomentum * sg;  prev = current
           if resetSGDMomentumAfterAggregation: the local optimizer's momentum = 0
         (Its blockMomentum is made of a time constant: exp(-period / constant).)
paper    Chen & Huo, ICASSP 2016 (equations from memory; a public TensorFlow BMUFOptimizer, always NBM, has the same lines:
         G_t = var_avg - prev_weight_g; delta = bm delta + lr G_t; var_avg = prev_weight + delta; g = var_avg + bm delta):
           G(n) = mean_i W_i(n) - Wg(n-1);  D(n) = eta D(n-1) + zeta G(n);  W(n) = W(n-1) + D(n)
           CBM: Wg(n) = W(n);  NBM: Wg(n) = W(n) + eta D(n)    (Wg(n) is broadcast; the look-ahead is not kept in W)
         Which of W or Wg is the final model is not certain from memory; W is meant to be.
Local optimizer (all): v = mu v + g, w -= lr v (torch.optim.SGD's momentum, first v = g); gradients are a fixed table.
Lines: grad STEP WORKER; global (paper) and start BLOCK | after the block: the model, and where every worker goes on.
"""
D, STEPS, LR, TAU = 6, 12, 0.25, 3
INIT = [((5 * d + 3) % 7 - 3) / 4 for d in range(D)]
G = lambda i, t: [((7 * i + 5 * t + 11 * d + 3 * i * t + t * d) % 23 - 11) / 16 for d in range(D)]
def out(name, idx, v): print(name, *idx, '|', *['%.9g' % x for x in v])
def axpy(a, x, y): return [a * p + q for p, q in zip(x, y)]

def run(kind, N, eta, zeta, nbm, mu=0.0, reset=False):
    print('case', kind, f'workers={N} eta={eta:.17g} zeta={zeta:.17g} nbm={int(nbm)} tau={TAU} lr={LR} mu={mu} reset={int(reset)}')
    w = [INIT[:] for _ in range(N)]; v = [None] * N
    prev, sm, W, start = INIT[:], [0.0] * D, INIT[:], INIT[:]
    for t in range(1, STEPS + 1):
        for i in range(N):
            g = G(i, t)
            v[i] = g if v[i] is None or mu == 0 else axpy(mu, v[i], g)
            w[i] = axpy(-LR, v[i], w[i])
        if t % TAU: continue
        block = t // TAU
        mean = [0.0] * D
        if kind == 'paper':
            for i in range(N): mean = axpy(1 / N, w[i], mean)
            sm = [eta * s + zeta * (m - p) for s, m, p in zip(sm, mean, start)]
            W = axpy(1, W, sm)
            start = axpy(eta, sm, W) if nbm else W[:]
            out('global', (block,), W)
        elif kind == 'fairseq':
            if eta == 0:
                for i in range(N): mean = [m + x / N for m, x in zip(mean, w[i])]
                start = mean
            else:
                for i in range(N): mean = [m + (p - x) / N for m, p, x in zip(mean, prev, w[i])]
                sm = [eta * s + zeta * g for s, g in zip(sm, mean)]
                start = axpy(-1, sm, prev)
                if nbm: start = axpy(-eta, sm, start)
                prev = start
        else:
            for i in range(N): mean = [m + (p - x) for m, p, x in zip(mean, prev, w[i])]   # a sum
            gain = (1 - eta) * zeta
            sm = [gain * g + eta * s for g, s in zip(mean, sm)]
            start = axpy(-1, sm, prev)
            if nbm: start = axpy(-eta, sm, start)
            prev = start
            if reset: v = [None] * N                       # 0 and none are the same here: v = mu*0 + g
        out('start', (block,), start)
        w = [start[:] for _ in range(N)]

out('init', (), INIT)
for i in range(4):
    for t in range(1, STEPS + 1): out('grad', (t, i), G(i, t))
for N in (2, 3, 4):
    for eta, zeta in ((1 - 1 / N, 1.0), (0.875, 0.5)):
        for nbm in (False, True):
            for kind in ('paper', 'fairseq', 'cntk'): run(kind, N, eta, zeta, nbm)
    for kind, zeta in (('paper', 1.0), ('fairseq', 1.0), ('cntk', 1 / N)): run(kind, N, 0.0, zeta, False)   # plain averaging
    run('fairseq', N, 0.75, 1.0, True, mu=0.5)             # local momentum kept across syncs
    for reset in (False, True): run('cntk', N, 0.75, 1.0, True, mu=0.5, reset=reset)
