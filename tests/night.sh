#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What is too slow for every commit, or needs another system; run it at night. Needs what tests/run.sh needs, root for bare systems.
# usage: tests/night.sh [STEP ...]     default: all steps, in this order
#        tests/night.sh --last         when each step last passed, and on which commit
# Steps go on after one that failed. Logs and what passed: $DSGD_NIGHT, default ~/.cache/dsgd/night.
set -uo pipefail
cd "$(dirname "$0")/.."
night=${DSGD_NIGHT:-${XDG_CACHE_HOME:-$HOME/.cache}/dsgd/night}

declare -A about=(
  [without-libraries]="a build without oneDNN and SimGrid, and its tests"
  [clang]="everything built by clang++, and its tests"
  [odr]="one definition of everything, by the linker"
  [asan]="all tests with the address and undefined-behaviour sanitizers"
  [tsan]="the tests with threads with the thread sanitizer"
  [mutations]="every bug of tests/mutation/mutations.toml is noticed"
  [suites]="the README's two commands on bare Debian 12 and 13"
)
steps=(without-libraries clang odr asan tsan mutations suites)

build_in() {  # FOLDER CMAKE_OPTION...
  local build=$1
  shift
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDSGD_WERROR=ON "$@" && cmake --build "$build"
}
test_in() { /usr/bin/python3 tests/run.py "$@"; }  # FOLDER OPTION...
step() {
  case $1 in
    without-libraries) build_in build-without -DDSGD_ONEDNN=OFF -DDSGD_SIMGRID=OFF -DDSGD_CUDA=OFF &&
      test_in build-without --excuse="built without SimGrid" --excuse="bfloat16 products are oneDNN's" ;;
    clang) build_in build-clang -DCMAKE_CXX_COMPILER=clang++ -DDSGD_CUDA=OFF && test_in build-clang ;;
    odr) bash tests/odr.sh ;;
    asan) cmake --preset asan+ubsan && cmake --build --preset asan+ubsan && test_in build-asan ;;
    tsan) cmake --preset tsan && cmake --build --preset tsan && test_in build-tsan ;;
    mutations) bash tests/mutation.sh --all ;;
    suites) bash tests/fresh_machine.sh ;;
  esac
}
say_last() {
  local name
  for name in "${steps[@]}"; do
    printf '%-18s %-62s %s\n' "$name" "${about[$name]}" "$(cat "$night/$name.passed" 2>/dev/null || echo "never passed here")"
  done
}

if [ "${1:-}" = --last ]; then
  say_last
  exit
fi
for name in "$@"; do
  [ -n "${about[$name]:-}" ] || { echo "night.sh: no step \"$name\" (allowed: ${steps[*]})" >&2; exit 2; }
done
[ $# -gt 0 ] || set -- "${steps[@]}"
mkdir -p "$night"
status=0
for name in "$@"; do
  begun=$SECONDS
  commit=$(git describe --always --dirty)
  if step "$name" >"$night/$name.log" 2>&1; then
    echo "$(date -u +%Y-%m-%dT%H:%MZ) at $commit, $(((SECONDS - begun) / 60)) min" >"$night/$name.passed"
    echo "passed  $name: ${about[$name]}, $(((SECONDS - begun) / 60)) min"
  else
    status=1
    echo "FAILED  $name: ${about[$name]}; the end of $night/$name.log:"
    tail -5 "$night/$name.log" | sed 's/^/        /'
  fi
done
say_last
exit $status
