#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Whether everything is defined once: links dsgd and dsgd-sim with link-time optimisation, which compares types between files
# (-Wodr), and compiles every header into one file, which compares inline functions (the target all_headers).
# usage: tests/odr.sh     builds in build-odr/
set -euo pipefail
cd "$(dirname "$0")/.."
cmake -S . -B build-odr -G Ninja -DCMAKE_BUILD_TYPE=Release -DDSGD_CUDA=OFF \
  -DCMAKE_CXX_FLAGS="-flto=auto -fno-fat-lto-objects -Wodr -Werror=odr -Wlto-type-mismatch -Werror=lto-type-mismatch" \
  -DCMAKE_AR="$(command -v gcc-ar)" -DCMAKE_RANLIB="$(command -v gcc-ranlib)" >/dev/null
cmake --build build-odr --target dsgd all_headers
