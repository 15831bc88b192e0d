# shellcheck shell=bash
# Sourced by the scripts that start ranks: puts the tools of .venv (of HVDCLIP_VENV, if it is set) on PATH, and allows
# root to start ranks. If jobs/setup.sh --system-torch found torch in modules, load these modules here too.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${HVDCLIP_VENV:-.venv}
[[ $venv == /* ]] || venv=$root/$venv
export PATH="$venv/bin:$PATH"
# horovodrun_plainly N COMMAND...: rank 0 prints as if it were alone; otherwise Open MPI marks each of its lines. On a
# terminal the output passes unchanged, because hvdclip's display needs the terminal itself.
horovodrun_plainly() {
  [[ ! -t 1 ]] || { horovodrun -np "$@"; return; }
  horovodrun -np "$@" 2> >(sed -u 's/^\[1,0\]<stderr>: \?//' >&2) | sed -u 's/^\[1,0\]<stdout>: \?//'
}
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
