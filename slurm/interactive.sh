#!/usr/bin/env bash
# Nodes for experiments: an allocation, and a shell in it (or one command) where `launch` starts ranks on all of them.
#   slurm/interactive.sh --nodes=2 --ntasks-per-node=1 --time=00:30:00
#   slurm/interactive.sh --nodes=2 --ntasks-per-node=1 -- launch hvdclip doctor
# Options before -- are salloc's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

options=()
while (($#)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done
shift $(($# > 0))
# in the allocation: the site's settings, the project's tools, then the command or a shell that has both
# shellcheck disable=SC2016
start='source slurm/job.sh; load_site; PATH=$(dirname "$hvdclip"):$PATH; export PATH; export -f launch become_ranks find_launcher die; export hvdclip'
if (($#)); then
  exec salloc "${options[@]}" bash -euc "$start; \"\$@\"" interactive "$@"
fi
exec salloc "${options[@]}" bash -euc "$start; exec bash"
