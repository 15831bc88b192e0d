#!/usr/bin/env bash
# Measures `hvdclip bench train` on the emulated nodes of tests/slurmlab.sh, one rank a node, over links of several rates.
#
#   jobs/bench_links.sh FOLDER [RATES] [NODES] [options of hvdclip bench train]
#
# RATES are "off 10gbit 1gbit 200mbit" and NODES "2 4" unless given; FOLDER gets train-NODES-RATE.json for each pair.
# Root only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || { echo "usage: $0 FOLDER [RATES] [NODES] [options of hvdclip bench train]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") rates=${2:-off 10gbit 1gbit 200mbit} numbers=${3:-2 4}
shift $(($# < 3 ? $# : 3))

# shellcheck source=jobs/lab.sh
source jobs/lab.sh

for nodes in $numbers; do
  lab up "$nodes" >&2
  for rate in $rates; do
    lab rate "$rate"
    lab mpirun "$nodes" hvdclip bench train --json "$folder/train-$nodes-$rate.json" "$@"
  done
  lab down
done
