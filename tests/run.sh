#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds everything with warnings as errors, runs every test. Fails on a failed test and on a skipped one
# that is not listed in tests/skips.txt. Logs: build-tests/logs.
# usage: tests/run.sh [OPTION ...]     options of tests/run.py; --quick: the tests that take seconds
set -euo pipefail
cd "$(dirname "$0")/.."
source harness/packages.sh
need_packages "${build_packages[@]}" "${data_packages[@]}" "${plot_packages[@]}" "${test_packages[@]}"

build=build-tests
cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDSGD_WERROR=ON >/dev/null
cmake --build $build
exec /usr/bin/python3 tests/run.py $build "$@"
