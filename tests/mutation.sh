#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Puts the bugs of tests/mutation/mutations.toml into the sources, one at a time, and lists those that no test notices.
# usage: mutation.sh [-j JOBS] [--list] [--all] [--sample N] [PART ...]     PART: of a bug's file or text; default: a sample. Builds in build-mutation/
set -euo pipefail
cd "$(dirname "$0")/.."
exec /usr/bin/python3 tests/mutation/mutation.py "$@"
