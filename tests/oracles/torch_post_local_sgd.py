#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Post-local SGD in a real DDP run (gloo, 2 and 3 processes, float64): torch 1.13 (Debian python3-torch 1.13.1+dfsg-4),
torch.distributed.optim.PostLocalSGDOptimizer + PeriodicModelAverager(period, warmup_steps) +
ddp_comm_hooks.post_localSGD_hook(start_localSGD_iter = start, post_local_gradient_allreduce=False), all unchanged.
Run: nice /usr/bin/python3 torch_post_local_sgd.py > torch_post_local_sgd.txt
Loss 0.5 sum curve (x - target(rank, step))^2, so the local gradient is curve * (x - target).
Program's convention, steps from 0: step < start: gradients are averaged before the (momentum) SGD step; afterwards each rank
steps with its own gradient. Models are averaged after the step if step >= warmup_steps and (step - warmup_steps) % period == 0:
with warmup_steps = start, as in torch's example, the FIRST local step is already followed by an average; with warmup_steps =
start + period - 1 the first average follows `period` local steps. The SGD momentum buffers are never averaged. 'hook=0' has no
comm hook and no DDP: gradients are local from step 0, only the averager acts.
Lines: grad STEP RANK | local gradient before any averaging; model STEP RANK | after the step and its average, if any;
momentum STEP RANK | SGD's buffer after the last step.
"""
import tempfile, warnings
import torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
D, STEPS = 6, 12
T = lambda v: torch.tensor(v, dtype=torch.float64)
INIT = T([((5 * d + 3) % 7 - 3) / 4 for d in range(D)])
CURVE = T([(d % 3 + 1) / 4 for d in range(D)])
def target(i, t): return T([((7 * i + 5 * t + 11 * d + 3 * i * t + t * d) % 23 - 11) / 8 for d in range(D)])
CASES = [dict(period=3, start=2, warmup_steps=4, lr=0.25, momentum=0.0, nesterov=False, weight_decay=0.0, hook=1),
         dict(period=2, start=0, warmup_steps=1, lr=0.25, momentum=0.5, nesterov=False, weight_decay=0.0, hook=0),
         dict(period=4, start=3, warmup_steps=6, lr=0.25, momentum=0.5, nesterov=True, weight_decay=0.0625, hook=1),
         dict(period=3, start=4, warmup_steps=6, lr=0.25, momentum=0.5, nesterov=False, weight_decay=0.0, hook=1)]
class Net(torch.nn.Module):
    def __init__(self): super().__init__(); self.x = torch.nn.Parameter(INIT.clone())
    def forward(self, c): return 0.5 * (CURVE * (self.x - c) ** 2).sum()
def fmt(x): return ' '.join('%.9g' % v for v in x.reshape(-1).tolist())
def work(rank, world, path, q):
    torch.set_num_threads(1); warnings.simplefilter('ignore')
    dist.init_process_group('gloo', init_method='file://' + path, rank=rank, world_size=world)
    lines = []
    for k, c in enumerate(CASES):
        net = Net(); model = net
        if c['hook']:
            model = torch.nn.parallel.DistributedDataParallel(net)
            state = PostLocalSGDState(None, None, c['start'], post_local_gradient_allreduce=False)
            def hook(st, bucket):
                lines.append((k, t, 0, rank, f'grad {t} {rank} | ' + fmt(bucket.buffer())))
                return post_localSGD_hook(st, bucket)
            model.register_comm_hook(state, hook)
        opt = PostLocalSGDOptimizer(torch.optim.SGD(model.parameters(), lr=c['lr'], momentum=c['momentum'], nesterov=c['nesterov'], weight_decay=c['weight_decay']),
                                    PeriodicModelAverager(period=c['period'], warmup_steps=c['warmup_steps']))
        for t in range(STEPS):
            opt.zero_grad(); model(target(rank, t)).backward()
            if not c['hook']: lines.append((k, t, 0, rank, f'grad {t} {rank} | ' + fmt(net.x.grad)))
            opt.step()
            lines.append((k, t, 1, rank, f'model {t} {rank} | ' + fmt(net.x.data)))
            if c['momentum'] and t == STEPS - 1: lines.append((k, t, 2, rank, f'momentum {t} {rank} | ' + fmt(opt.state[net.x]['momentum_buffer'])))
    q.put(lines); dist.barrier()
if __name__ == '__main__':
    print('init |', fmt(INIT))
    ctx = mp.get_context('spawn')
    for world in (2, 3):
        q = ctx.SimpleQueue()
        with tempfile.TemporaryDirectory() as d:
            p = mp.spawn(work, (world, d + '/r', q), nprocs=world, join=False)
            got = sorted(x for _ in range(world) for x in q.get())
            while not p.join(): pass
        last = -1
        for k, t, o, r, s in got:
            if k != last: print('case post-local-sgd', f'workers={world}', *[f'{a}={int(b) if isinstance(b, bool) else b}' for a, b in CASES[k].items()]); last = k
            print(s)
