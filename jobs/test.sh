#!/usr/bin/env bash
# Sets up, then runs the whole test suite; arguments go to pytest: jobs/test.sh -k setup
# First the fast tests, on several cores. Then those that start ranks, one at a time; beside them those on the emulated
# cluster, which wait for time limits and lost nodes most of the time, and are shown when both have ended. Last the slow
# ones of one process, on several cores.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
jobs/setup.sh || exit
# shellcheck source=jobs/env.sh
source jobs/env.sh

status=0 empty=0
note() {
  # 5: the arguments select none of these tests, which is a mistake only if they select none at all
  case $1 in
    0) ;;
    5) ((++empty)) ;;
    *) status=$1 ;;
  esac
}

export OMP_NUM_THREADS=1
python -m pytest -n auto --maxprocesses 4 -m "not ranks and not slow and not slurm" "$@"
note $?
log=$(mktemp)
python -m pytest -m slurm "$@" >"$log" 2>&1 &
slurm=$!
trap 'kill "$slurm" 2>/dev/null; rm -f "$log"' EXIT
python -m pytest -m "ranks and not slurm" "$@"
note $?
wait "$slurm"
note $?
cat "$log"
python -m pytest -n auto --maxprocesses 4 -m "slow and not ranks and not slurm" "$@"
note $?
((empty < 4)) || status=5
exit "$status"
