#!/usr/bin/env bash
# Runs the two commands of the README on a bare Debian: debootstrap's smallest system, a clone of the last commit, nothing else.
# Not one of the tests: needs root, the network, 3 GB and about 20 minutes.
# usage: tests/fresh_machine.sh [FOLDER] [SUITE]     default: a temporary folder that is removed afterwards, bookworm
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "fresh_machine.sh needs root: sudo bash tests/fresh_machine.sh" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "Install debootstrap first: apt install debootstrap" >&2; exit 1; }
if [ $# -gt 0 ]; then
  root=$1
else
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
fi
debootstrap --variant=minbase "${2:-bookworm}" "$root" >/dev/null
cp /etc/resolv.conf "$root/etc/"
git clone -q . "$root/root/dsgd"

# Own mount and process namespaces: what is mounted and started ends with the command.
in_fresh() {
  unshare --mount --pid --fork --kill-child bash -c '
    mount --bind "$0" "$0"
    mount -t proc proc "$0/proc"
    mount --rbind /sys "$0/sys"
    mount --rbind /dev "$0/dev"
    mount -t tmpfs tmpfs "$0/dev/shm"
    mount -t tmpfs tmpfs "$0/tmp"
    exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb chroot "$0" bash -c "cd /root/dsgd && $1"' "$root" "$1"
}
in_fresh "bash harness/quickstart.sh"
in_fresh "bash tests/run.sh"
