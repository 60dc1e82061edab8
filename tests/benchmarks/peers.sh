#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dsgd beside PyTorch in one run: checks what is needed, then starts peers.py.
# usage: peers.sh BUILD_DIR [--time-to-accuracy] [OPTION ...]; --help lists them. PYTHON: an interpreter that has torch
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-/usr/bin/python3}
build=${1:?usage: peers.sh BUILD_DIR [OPTION ...], or peers.sh --help}
stop() { echo "peers.sh: $1" >&2; exit 1; }
"$python" -c 'import h5py' 2>/dev/null || stop "$python has no h5py; install python3-h5py"
if [[ $build != -* ]]; then
  [ -x "$build/dsgd" ] || stop "$build/dsgd is missing; build the target dsgd, and give the build folder first"
  [ -x "$build/tests/model_benchmark" ] || stop "$build/tests/model_benchmark is missing; it needs libbenchmark-dev"
  "$python" -c 'import torch' 2>/dev/null || stop "$python has no torch; install python3-torch libopenblas0-pthread"
fi
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1  # read when the libraries load
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE  # peers.py chooses the kernel by trial
exec "$python" "$here/peers.py" "$@"
