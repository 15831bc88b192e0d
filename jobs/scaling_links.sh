#!/usr/bin/env bash
# Runs the scaling study of slurm/scaling.sbatch as SLURM jobs on one to four emulated nodes, over links of several rates.
#
#   jobs/scaling_links.sh FOLDER [RATES] [CONFIG] [options of hvdclip bench scaling]
#
# RATES are "1gbit 200mbit" and CONFIG configs/quickstart.yaml unless given; the study is of 1 to 4 nodes and I of 1, 4 and
# 16 unless the options say otherwise. FOLDER gets a folder for each rate. Root only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || { echo "usage: $0 FOLDER [RATES] [CONFIG] [options of hvdclip bench scaling]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") rates=${2:-1gbit 200mbit} config=${3:-configs/quickstart.yaml}
shift $(($# < 3 ? $# : 3))

# shellcheck source=jobs/lab.sh
source jobs/lab.sh

lab up 4 >&2
for rate in $rates; do
  lab rate "$rate"
  rm -rf "${folder:?}/$rate"
  lab run bash slurm/scaling.sbatch "$folder/$rate" "1 2 3 4" "$config" --intervals 1,4,16 "$@"
  until [[ -z $(lab run squeue --noheader) ]]; do sleep 2; done
  cat "$folder/$rate"/*-nodes.out
  [[ -f $folder/$rate/report/report.html ]] || { echo "$0: the study over $rate has failed" >&2; exit 1; }
done
