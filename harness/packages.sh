# SPDX-License-Identifier: Apache-2.0
# Sourced: need_packages PACKAGE... installs what is missing of Debian's packages; on another system it prints the list and stops.
need_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    if [ -n "${DSGD_PACKAGES_ARE_THERE:-}" ]; then return; fi
    echo "This is not a Debian system. Install what these Debian packages hold, then set DSGD_PACKAGES_ARE_THERE=1 and start again:" >&2
    printf '  %s\n' "$@" >&2
    exit 1
  fi
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local root=(env)
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "Missing packages, and neither root nor sudo to install them: apt-get install ${missing[*]}" >&2
      exit 1
    }
    root=(sudo env)
  fi
  echo "Installing ${missing[*]}"
  "${root[@]}" apt-get update -qq
  "${root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

build_packages=(git g++ cmake ninja-build libopenmpi-dev openmpi-bin libhdf5-dev libboost-dev libdnnl-dev libtomlplusplus-dev libcli11-dev
  libfmt-dev libsimgrid-dev zlib1g-dev libssl-dev curl ca-certificates)
data_packages=(dataset-fashion-mnist)
plot_packages=(python3 python3-h5py python3-matplotlib python3-scipy)
test_packages=(libgtest-dev libbenchmark-dev openssl python3-numpy clang-format)
