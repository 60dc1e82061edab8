#!/usr/bin/env bash
# One thread of dsgd beside one thread of PyTorch: whole training steps, measured in turns.
# usage: peers.sh BUILD_DIR [PAIRS]      CORE=1 picks the core, PYTHON=python3 the interpreter that has torch
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=${1:?usage: peers.sh BUILD_DIR [PAIRS]}
pairs=${2:-5}
python=${PYTHON:-/usr/bin/python3}
benchmark=$build/tests/model_benchmark
[ -x "$benchmark" ] || { echo "peers.sh: $benchmark is missing; install libbenchmark-dev and build the target model_benchmark" >&2; exit 1; }
"$python" -c 'import torch' 2>/dev/null || { echo "peers.sh: $python has no torch; install python3-torch" >&2; exit 1; }
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
pin=()
if command -v taskset > /dev/null; then pin=(taskset -c "${CORE:-$(($(nproc) - 1))}"); fi

# PyTorch's dense layers are as fast as the system's BLAS.
blas=$(readlink -f "$(ldd "$("$python" -c 'import torch, glob; print(torch._C.__file__)')" | awk '/libtorch_cpu/ {print $3}' \
  | xargs ldd | awk '/libblas|libopenblas|libmkl/ {print $3; exit}')" || true)
echo "PyTorch uses ${blas:-an unknown BLAS}"
case $blas in */blas/*) echo "That is the slow reference BLAS: install libopenblas0-pthread to compare fairly." ;; esac

results=$(mktemp)
trap 'rm -f "$results"' EXIT
for pair in $(seq "$pairs"); do
  echo "pair $pair of $pairs" >&2
  "${pin[@]}" "$python" "$here/peer_torch.py" | sed 's/^/torch /' >> "$results"
  "${pin[@]}" "$benchmark" --benchmark_filter='^step/(lenet|mlp|dnn)/(32|128)/onednn$' --benchmark_min_time=0.5 \
    --benchmark_format=json 2> /dev/null | "$python" -c '
import json, sys
for b in json.load(sys.stdin)["benchmarks"]:
    if b.get("error_occurred"):
        sys.exit(b["name"] + ": " + b["error_message"])
    _, model, minibatch, _ = b["name"].split("/")
    print("dsgd", model, minibatch, b["samples/s"])' >> "$results"
done

"$python" - "$results" << 'END'
import collections
import statistics
import sys

rates = collections.defaultdict(list)
variants = {}
for line in open(sys.argv[1]):
    who, model, minibatch, rate, *variant = line.split(maxsplit=4)
    rates[who, model, int(minibatch)].append(float(rate))
    if variant:
        variants[model, int(minibatch)] = variant[0].strip()
print("samples per second of processor time, one thread: median (lowest to highest)")
print(f"{'model':6} {'minibatch':>9}  {'dsgd':>26}  {'PyTorch':>26}  {'ratio':>5}  {'of pairs':>12}  PyTorch's best")
for (who, model, minibatch), ours in rates.items():
    if who != "dsgd":
        continue
    theirs = rates["torch", model, minibatch]
    ratios = [a / b for a, b in zip(ours, theirs)]
    show = lambda v: f"{statistics.median(v):9.0f} ({min(v):6.0f} to {max(v):6.0f})"
    print(f"{model:6} {minibatch:9}  {show(ours):>26}  {show(theirs):>26}  {statistics.median(ratios):5.2f}"
          f"  {min(ratios):4.2f} to {max(ratios):4.2f}  {variants[model, minibatch]}")
END
