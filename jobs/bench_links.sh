#!/usr/bin/env bash
# Measures `hvdclip bench train` on the emulated nodes of tests/slurmlab.sh over links of several rates.
#
#   [RANKS_PER_NODE=1] jobs/bench_links.sh FOLDER [RATES] [NODES] [options of hvdclip bench train]
#
# RATES are "off 10gbit 1gbit 200mbit" and NODES "2 4" unless given; FOLDER gets train-NODES-RATE.json for each pair, or
# train-NODESxRANKS-RATE.json. Averages inside nodes need several ranks per node and celgc_16_node_4 in --peers, because
# only then is Horovod started with process sets. Root only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || { echo "usage: $0 FOLDER [RATES] [NODES] [options of hvdclip bench train]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") rates=${2:-off 10gbit 1gbit 200mbit} numbers=${3:-2 4} ranks=${RANKS_PER_NODE:-1}
shift $(($# < 3 ? $# : 3))

# shellcheck source=jobs/lab.sh
source jobs/lab.sh

for nodes in $numbers; do
  lab up "$nodes" >&2
  for rate in $rates; do
    lab rate "$rate"
    layout=$nodes
    ((ranks == 1)) || layout=${nodes}x$ranks
    lab mpirun $((nodes * ranks)) hvdclip bench train --json "$folder/train-$layout-$rate.json" "$@"
  done
  lab down
done
