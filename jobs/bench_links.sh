#!/usr/bin/env bash
# Measures `hvdclip bench train` on the emulated nodes of tests/slurmlab.sh, one rank a node, over links of several rates.
#
#   jobs/bench_links.sh FOLDER [RATES] [NODES] [options of hvdclip bench train]
#
# RATES are "off 10gbit 1gbit 200mbit" and NODES "2 4" unless given; FOLDER gets train-NODES-RATE.json for each pair.
# Root only: the nodes are namespaces of the kernel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/env.sh
source jobs/env.sh

((EUID == 0)) || { echo "$0: emulated nodes need root" >&2; exit 2; }
(($#)) || { echo "usage: $0 FOLDER [RATES] [NODES] [options of hvdclip bench train]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") rates=${2:-off 10gbit 1gbit 200mbit} numbers=${3:-2 4}
shift $(($# < 3 ? $# : 3))

# names of its own, so that it meets no other cluster on this machine
LAB=$(mktemp -d /var/tmp/hvdclip-links.XXXXXX)
export LAB HEAD="links$$" PFX="l$$n" SHARED="$folder:$PWD" OMP_NUM_THREADS=1
# where Debian puts SLURM's daemons
export PATH=$PATH:/usr/sbin:/sbin

lab() { tests/slurmlab.sh "$@"; }
end() {
  lab down
  rm -rf "$LAB"
}
trap end EXIT

for nodes in $numbers; do
  lab up "$nodes" >&2
  for rate in $rates; do
    lab rate "$rate"
    lab mpirun "$nodes" hvdclip bench train --json "$folder/train-$nodes-$rate.json" "$@"
  done
  lab down
done
