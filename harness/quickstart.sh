#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From nothing to a table and plots: installs what is missing, builds, fetches the data, compares the strategies on LeNet and
# Fashion-MNIST, draws the plots. Options go to `dsgd sweep quickstart`, for example: --set samples=60000
set -euo pipefail
cd "$(dirname "$0")/.."
source harness/packages.sh
started=$SECONDS

need_packages "${build_packages[@]}" "${data_packages[@]}" "${plot_packages[@]}"
cmake --preset release -DDSGD_TESTS=OFF >/dev/null
cmake --build build --target dsgd
build/dsgd data check fashion-mnist || build/dsgd data fetch fashion-mnist
status=0
build/dsgd sweep quickstart -o out/quickstart "$@" || status=$?
if [ $status -le 1 ]; then
  /usr/bin/python3 plots/all.py out/quickstart || status=$?
fi
echo "quickstart: $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
exit $status
