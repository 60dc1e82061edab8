#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""PowerSGD: the traces come from PyTorch's own hook in a real DDP run (gloo, 2 and 3 processes). float64.
Program: torch 1.13 (Debian python3-torch 1.13.1+dfsg-4), torch/distributed/algorithms/ddp_comm_hooks/powerSGD_hook.py,
unchanged; its _orthogonalize is only wrapped so that its input can be printed.
The loss is sum(parameter * table), so every local gradient is exactly the table's entry. DDP does not divide by the number
of workers when a hook is registered: the hook gets the local gradient.
Run: nice /usr/bin/python3 torch_powersgd.py > torch_powersgd.txt
Conventions of this program: the first start_powerSGD_iter = 2 steps are a plain mean (0-based steps 0 and 1, no error kept);
a matrix n x m is compressed if (n+m)*rank*min_compression_rate < n*m, all else is averaged; Q is orthonormalised (modified
Gram-Schmidt, epsilon 0, rank <= 2) before P = M Q, P is SUMMED over the workers then orthonormalised, Q = M^T P is averaged,
output P Q^T; error = (gradient + old error) - output, per worker. (For the averaged tensors the hook also keeps
local - mean as an 'error': these sum to zero over the workers, so only rounding shows.)
Lines, from step 2 on: grad STEP RANK = local gradient before the hook, mean STEP = gradient after the hook (the same on every
rank), error STEP RANK after the last step, all of them W1, W2, W3, b1, b2 in a row, row-major; q PARAM = Q at the beginning of
step 2, before it is orthonormalised.
"""
import tempfile
import torch, torch.distributed as dist, torch.multiprocessing as mp
import torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook as h
SHAPES = {'W1': (6, 5), 'b1': (6,), 'W2': (5, 4), 'b2': (5,), 'W3': (3, 3)}
STEPS = 8
def table(rank, step, name):
    k = list(SHAPES).index(name); n = torch.Size(SHAPES[name]).numel()
    v = [((3 * d * d + 7 * d + 11 * rank * (d + 1) + 5 * step * (d + 2) + 13 * k * d + 4 * step * step + 6 * rank) % 37 - 18) / 16 for d in range(n)]
    return torch.tensor(v, dtype=torch.float64).view(SHAPES[name])
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for n, s in SHAPES.items(): self.register_parameter(n, torch.nn.Parameter(torch.zeros(s, dtype=torch.float64)))
    def forward(self, coef): return sum((getattr(self, n) * c).sum() for n, c in coef.items())
def fmt(x): return ' '.join('%.9g' % v for v in x.reshape(-1).tolist())

def work(rank, world, cfg, path, q):
    torch.set_num_threads(1); torch.manual_seed(1)
    dist.init_process_group('gloo', init_method='file://' + path, rank=rank, world_size=world)
    lines, log = [], []
    plain = h._orthogonalize.__wrapped__ if hasattr(h._orthogonalize, '__wrapped__') else h._orthogonalize
    def recorded(m, epsilon=0):
        before = m.clone(); plain(m, epsilon); log.append((before, m.clone()))
    h._orthogonalize = recorded
    net = Net(); ddp = torch.nn.parallel.DistributedDataParallel(net)
    state = h.PowerSGDState(None, start_powerSGD_iter=2, orthogonalization_epsilon=0, random_seed=0, **cfg)
    names = {id(p): n for n, p in net.named_parameters()}
    order = []
    def hook(st, bucket):
        assert bucket.index() == 0 and bucket.is_last()
        order[:] = [names[id(p)] for p in bucket.parameters()]
        if step >= 2: lines.append((0, f'grad {step} {rank} | ' + fmt(torch.cat([g.flatten() for _, g in sorted(zip(order, bucket.gradients()))]))))
        return h.powerSGD_hook(st, bucket)
    ddp.register_comm_hook(state, hook)
    for step in range(STEPS):
        log.clear(); net.zero_grad()
        ddp({n: table(rank, step, n) for n in SHAPES}).backward()
        if rank == 0 and step >= 2: lines.append((2, f'mean {step} | ' + fmt(torch.cat([p.grad.flatten() for _, p in sorted(net.named_parameters())]))))
        # The hook goes through the tensors grouped by shape, in the bucket's order.
        comp = [n for n in order if len(SHAPES[n]) == 2 and
                h._should_compress(*SHAPES[n], min(*SHAPES[n], cfg['matrix_approximation_rank']), cfg['min_compression_rate'])[0]]
        if step >= 2:
            if rank == 0 and step == 2:
                assert len(log) == 2 * len(comp)
                for n, (a, _) in zip(comp, log): lines.append((1, f'q {n} | ' + fmt(a)))
            if step == STEPS - 1:
                i, error = 0, {}
                for n in order:
                    m = torch.Size(SHAPES[n]).numel()
                    error[n] = state.error_dict[0][i:i + m]; i += m
                lines.append((3, f'error {step} {rank} | ' + fmt(torch.cat([error[n] for n in sorted(error)]))))
        lines.append((9, ''))
        dist.barrier()
    q.put((rank, lines)); dist.barrier()

def run(world, **cfg):
    print('case torch', f'workers={world}', *[f'{k}={int(v) if isinstance(v, bool) else v}' for k, v in cfg.items()], 'start_powerSGD_iter=2 seed=0')
    ctx = mp.get_context('spawn'); q = ctx.SimpleQueue()
    with tempfile.TemporaryDirectory() as d:
        p = mp.spawn(work, (world, cfg, d + '/rendezvous', q), nprocs=world, join=False)
        got = dict(q.get() for _ in range(world))
        while not p.join(): pass
    split = {r: [[]] for r in got}
    for r, ls in got.items():
        for k, s in ls:
            if k == 9: split[r].append([])
            else: split[r][-1].append((k, s))
    for t in range(STEPS):
        for _, s in sorted(((k, s) for r in sorted(got) for k, s in split[r][t]), key=lambda x: x[0]): print(s)

if __name__ == '__main__':
    print('# Q: row-major, m x rank')
    for world in (2, 3):
        for rank in (1, 2):
            run(world, matrix_approximation_rank=rank, min_compression_rate=1, use_error_feedback=True, warm_start=True)
