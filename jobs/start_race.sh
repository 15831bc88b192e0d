#!/usr/bin/env bash
# Counts the launches by srun that Open MPI 5 loses: a fence of SLURM may let a rank out of MPI_Init before all others
# can receive, and its first message ends one of them with a segmentation fault. Tries each of SLURM's fences in turn, on
# four emulated nodes that also have other work.
#
#   jobs/start_race.sh FOLDER [LAUNCHES]
#
# LAUNCHES of each are 60 unless given; FOLDER gets the output of the lost ones. Root only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || { echo "usage: $0 FOLDER [LAUNCHES]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") launches=${2:-60}

# shellcheck source=jobs/lab.sh
source jobs/lab.sh

cat >"$folder/start.py" <<'END'
import random, time
time.sleep(0.3 * random.random())
from mpi4py import MPI
MPI.COMM_WORLD.Dup()
END

lab up 4 >&2
for _ in 1 2 3; do
  while :; do :; done &
done
trap 'kill $(jobs -p); end_lab' EXIT

declare -A lost
for ((launch = 1; launch <= launches; launch++)); do
  for fence in mixed tree ring; do
    said="$folder/$fence-$launch.txt"
    if lab run env "SLURM_PMIX_FENCE=$fence" srun --mpi=pmix --nodes=4 --ntasks=4 python "$folder/start.py" >"$said" 2>&1; then
      rm "$said"
    else
      lost[$fence]=$((${lost[$fence]:-0} + 1))
    fi
  done
done
for fence in mixed tree ring; do
  echo "SLURM_PMIX_FENCE=$fence: ${lost[$fence]:-0} of $launches launches lost"
done
