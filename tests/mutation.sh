#!/usr/bin/env bash
# Puts the bugs of tests/mutations.toml into the sources, one at a time, and lists those that no test notices.
# usage: mutation.sh [-j JOBS] [--list] [PART ...]     PART: of a bug's file or text; default: all. Builds in build-mutation/
set -euo pipefail
cd "$(dirname "$0")/.."
exec /usr/bin/python3 tests/mutation.py "$@"
