#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the two commands of the README on a bare Debian: debootstrap's smallest system, a clone of the last commit, nothing else.
# Not one of the tests: needs root, the network, 4 GB and about 30 minutes for each suite.
# usage: tests/fresh_machine.sh [SUITE ...]     default: bookworm trixie (Debian 12 and 13), one after the other
# FOLDER: where the systems are made and stay (FOLDER/SUITE); default: a temporary folder that is removed afterwards
# MIRROR: where packages come from; default: the first that apt has here for Debian
# COMMANDS: what is run there, a line each; default: the README's two
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "fresh_machine.sh needs root: sudo bash tests/fresh_machine.sh" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "Install debootstrap first: apt install debootstrap" >&2; exit 1; }
if [ -n "${FOLDER:-}" ]; then
  mkdir -p "$FOLDER"
else
  FOLDER=$(mktemp -d)
  trap 'rm -rf --one-file-system "$FOLDER"' EXIT
fi

# The mirror that apt uses for Debian itself, from its one-line and its deb822 sources.
debian_mirror() {
  apt-get indextargets --format '$(SITE) $(ORIGIN)' 2>/dev/null | awk '$2 == "Debian" { print $1; exit }'
}
mirror=${MIRROR:-$(debian_mirror)}
[ -n "$mirror" ] || { echo "apt knows no mirror of Debian here: apt-get update first, or MIRROR=ADDRESS bash tests/fresh_machine.sh" >&2; exit 1; }

# Own mount and process namespaces: what is mounted and started ends with the command.
in_fresh() {
  unshare --mount --pid --fork --kill-child bash -c '
    mount --bind "$0" "$0"
    mount -t proc proc "$0/proc"
    mount --rbind /sys "$0/sys"
    mount --rbind /dev "$0/dev"
    mount -t tmpfs tmpfs "$0/dev/shm"
    mount -t tmpfs tmpfs "$0/tmp"
    exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb chroot "$0" bash -c "cd /root/dsgd && $1"' "$1" "$2"
}

commands=("bash harness/quickstart.sh" "bash tests/run.sh")
[ -z "${COMMANDS:-}" ] || mapfile -t commands <<<"$COMMANDS"
[ $# -gt 0 ] || set -- bookworm trixie
failed=()
for suite in "$@"; do
  root=$FOLDER/$suite
  echo "== $suite: a bare system from $mirror"
  debootstrap --variant=minbase "$suite" "$root" "$mirror" >/dev/null
  cp /etc/resolv.conf "$root/etc/"
  # As an installer writes it: without, every start of Open MPI waits for a name server that knows nothing of this host.
  printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$(hostname)" >"$root/etc/hosts"
  git clone -q . "$root/root/dsgd"
  commit=$(git -C "$root/root/dsgd" rev-parse --short HEAD)
  for command in "${commands[@]}"; do
    begun=$SECONDS
    end=green
    in_fresh "$root" "$command" || { end=failed; failed+=("$suite: $command"); }
    echo "== $suite: $command: $end after $(((SECONDS - begun) / 60)) min $(((SECONDS - begun) % 60)) s, at $commit"
  done
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed on %s\n' "${failed[@]}" >&2; exit 1; }
