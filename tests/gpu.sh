#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs a GPU, in one go and under 8 minutes: tests, benchmarks beside PyTorch, a table last.
# usage: bash tests/gpu.sh [OUT] [--sanitize]    results (JSON, HDF5, logs) to OUT, default gpu-results
#        bash tests/gpu.sh bundle                packs the programs with all libraries that a machine with a GPU may lack: gpu-bundle/
#        bash tests/gpu.sh exec COMMAND ...      runs a command with the programs that would be used ($DSGD_BUILD: where they are)
# Neither network nor packages are needed there: it takes build-tests/ where that runs, else the bundle, else it builds.
# DSGD_BUILD: another folder than build-tests. DSGD_BUNDLE: another one than gpu-bundle.
# --sanitize: compute-sanitizer (memcheck, racecheck) over a tiny run instead of the benchmarks.
# PYTHON: an interpreter with h5py and, for the comparison, torch; default python3.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=${DSGD_BUILD:-build-tests}
bundle=${DSGD_BUNDLE:-gpu-bundle}
archive=$bundle/dsgd.tar.gz
python=${PYTHON:-python3}
stop() { echo "gpu.sh: $1" >&2; exit 1; }

# Every file that the loader would take for these, without the C library (the system's own must be at least as new), the GPU's and CUDA's.
libraries() {
  ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -Ev '/(ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libutil|libcuda|libcudart|libcublas|libcublasLt|libcudnn[a-z_]*|libnccl|libnvrtc|libnvidia-[a-z]*)[-.]' || true
}

make_bundle() {
  local build=$programs file name plugins
  [ -x "$build/dsgd" ] || stop "$build/dsgd is missing: build first (bash tests/run.sh does), or name the build folder"
  if "$build/dsgd" list devices | grep -q 'cudnn.*built without'; then
    stop "$build/dsgd was built without CUDA, so that it can use no GPU: install the CUDA toolkit and cuDNN 9, and configure again"
  fi
  command -v orted >/dev/null || stop "this Open MPI's launcher is of many parts (PRRTE), which cannot be packed yet: make the bundle with Open MPI 4.1 (Debian 12)"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work"/{tests,bin,programs/tests,programs/bin,lib/openmpi,lib/spare,share}
  for file in "$build"/{dsgd,dsgd-sim}; do
    if [ -x "$file" ]; then cp "$file" "$work/programs/"; fi
  done
  for file in "$build"/tests/*_{test,benchmark}; do
    name=$(find tests -name "$(basename "$file").cpp")
    if [ -n "$name" ] && grep -qE 'cudnn|cuda' "$name"; then cp "$file" "$work/programs/tests/"; fi
  done
  for name in mpirun orted; do cp -L "$(command -v $name)" "$work/programs/bin/$name"; done
  # What carries their names starts them with these libraries, which nothing else shall meet: Python least of all.
  (cd "$work/programs" && find . -type f) | while read -r name; do
    printf '#!/bin/sh\nLD_LIBRARY_PATH=$DSGD_LIBRARIES${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$DSGD_PROGRAMS/%s" "$@"\n' "${name#./}" >"$work/$name"
    chmod +x "$work/$name"
  done
  # Open MPI looks for its plugins in a folder of their own. Those for clusters' networks and schedulers would bring more
  # libraries than all the rest.
  plugins=$(ompi_info --parsable --path pkglibdir | sed -n 's/^path:pkglibdir://p')
  find "$plugins" -name 'mca_*.so' -size -2000k | grep -Ev 'ucx|ofi|psm|cuda|portals|usnic|openib|hcoll|_tm|slurm|lustre|knem|gpfs' | xargs cp -Lt "$work/lib/openmpi"
  cp -rL /usr/share/openmpi "$work/share/"
  find "$work" -type f \( -perm -u+x -o -name '*.so' \) | while read -r file; do libraries "$file"; done | sort -u >"$work/found"
  # The system's own libstdc++, where it has one: its other libraries may want a newer one.
  grep -E '/lib(stdc\+\+|gcc_s)\.' "$work/found" | xargs cp -Lt "$work/lib/spare"
  grep -vE '/lib(stdc\+\+|gcc_s)\.' "$work/found" | xargs cp -Lt "$work/lib"
  rm "$work/found"
  mkdir -p "$bundle"
  tar -C "$work" -c . | gzip >"$archive"
  echo "$archive: $(du -m "$archive" | cut -f1) MiB, $(find "$work" -type f | wc -l) files, $("$build/dsgd" --version)"
  [ "$(stat -c %s "$archive")" -le $((64 << 20)) ] || stop "$archive is larger than 64 MiB"
}

# Runs programs of the bundle or of a build: sets `build` and the environment, and says what is wrong otherwise.
use() {
  build=$1
  if [ -d "$build/programs" ]; then
    export DSGD_PROGRAMS=$build/programs DSGD_LIBRARIES=$build/lib:$(cuda_libraries)
    ldconfig -p 2>/dev/null | grep -q 'libstdc++\.so\.6' || DSGD_LIBRARIES+=:$build/lib/spare
    export PATH=$build/bin:$PATH OPAL_PREFIX=$build OPAL_BINDIR=$build/bin OPAL_DATADIR=$build/share OPAL_PKGDATADIR=$build/share/openmpi \
      OPAL_LIBDIR=$build/lib OPAL_PKGLIBDIR=$build/lib/openmpi OMPI_MCA_mca_base_component_path=$build/lib/openmpi
  fi
  reason=$("$build/dsgd" --version 2>&1 >/dev/null)
}

# Folders with CUDA's libraries: the toolkit's, and those of Python's packages.
cuda_libraries() {
  local folder
  for folder in /usr/local/cuda/lib64 /usr/local/cuda/lib /usr/local/cuda/targets/x86_64-linux/lib \
    $("$python" -c 'import glob, sys; print(*(found for path in sys.path for found in glob.glob(path + "/nvidia/*/lib")))' 2>/dev/null); do
    if [ -d "$folder" ]; then printf '%s:' "$folder"; fi
  done
}

find_programs() {
  local reasons="" path=$PATH log=build-gpu.log
  if [ -x "$programs/dsgd" ]; then
    use "$(realpath "$programs")" && return
    reasons+="
  $programs: $reason"
  fi
  if [ -e "$archive" ]; then
    mkdir -p "$bundle/unpacked"
    tar -C "$bundle/unpacked" -xzf "$archive"
    use "$(realpath "$bundle/unpacked")" && return
    reasons+="
  $archive: $reason"
    PATH=$path
    unset "${!OPAL_@}" OMPI_MCA_mca_base_component_path
  else
    reasons+="
  $archive: is not there; on the machine where the program was built: bash tests/gpu.sh bundle"
  fi
  if command -v cmake >/dev/null && command -v nvcc >/dev/null; then
    if cmake -S . -B build-gpu -DCMAKE_BUILD_TYPE=Release >"$log" 2>&1 && cmake --build build-gpu -j "$(nproc)" >>"$log" 2>&1 &&
      use "$PWD/build-gpu"; then return; fi
    reasons+="
  building here: $(grep -m 1 -A 2 -i 'error' "$log" | tr '\n' ' '); whole log: $log"
  else
    reasons+="
  building here: cmake or nvcc is missing"
  fi
  stop "no programs that run here:$reasons"
}

export PATH=$PATH:/usr/local/cuda/bin  # nvcc, compute-sanitizer
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
out=gpu-results
sanitize=
case ${1:-} in
  bundle) make_bundle; exit ;;
  exec)
    shift
    find_programs
    export DSGD_BUILD=$build PATH=$build:$PATH
    exec "$@"
    ;;
  -h|--help) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit ;;
esac
for word in "$@"; do
  case $word in
    --sanitize) sanitize=1 ;;
    -*) stop "$word: unknown option (allowed: --sanitize; --help explains)" ;;
    *) out=$word ;;
  esac
done
mkdir -p "$out"
find_programs
usable=$("$build/dsgd" list devices | grep '^ *cudnn ' || true)
case $usable in
  *": ready") ;;
  *) stop "no GPU to use with $build/dsgd:${usable:-  it knows no device cudnn}
  \`$build/dsgd doctor\` says more." ;;
esac

limit=$((SECONDS + 470))
left() { echo $((limit - SECONDS > 1 ? limit - SECONDS : 1)); }
failed=0
timeout 60 "$build/dsgd" doctor | tee "$out/doctor.txt" || true  # an ordinary run needs data, what follows does not

if [ -n "$sanitize" ]; then
  command -v compute-sanitizer >/dev/null || stop "compute-sanitizer is missing; it comes with the CUDA toolkit"
  printf '%s\n' 'device = "cudnn"' 'dataset = "synthetic"' 'synthetic.train = 256' 'synthetic.test = 64' 'model = "lenet"' 'samples = 512' \
    'snapshots = 1' 'optimizer.rule = "momentum"' '[strategy.sync]' >"$out/tiny.toml"
  for tool in memcheck racecheck; do
    # The sanitizer is the launcher, and starts the one rank.
    timeout "$(left)" "$build/dsgd" run "$out/tiny.toml" -o "$out/$tool" --redo --launcher "compute-sanitizer --target-processes all --tool $tool --error-exitcode 9 --log-file $out/$tool.log" \
      >"$out/$tool.txt" 2>&1 || failed=1
    tail -n 1 "$out/$tool.log" 2>/dev/null || { echo "$tool: the run did not start:"; tail -n 5 "$out/$tool.txt"; failed=1; }
  done
  exit $failed
fi

timeout 240 "$python" tests/run.py "$build" --gpu 2>&1 | tee "$out/tests.txt" || failed=1
# What is under way when their time is over ends before the table is printed.
timeout "$(left)" "$python" tests/benchmarks/gpu.py "$build" --out "$out" --seconds $(($(left) - 15)) || failed=1
[ $failed -eq 0 ] || echo "gpu.sh: something failed; see above and $out" >&2
exit $failed
