#!/usr/bin/env bash
# Runs jobs/time_to_perplexity.py on two emulated nodes over links of several rates, and draws what it found.
#
#   jobs/time_to_perplexity.sh FOLDER [RATES] [KEY=VALUE...]
#
# RATES are "1gbit 200mbit" unless given. Root only: the nodes are namespaces of the kernel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/env.sh
source jobs/env.sh

((EUID == 0)) || { echo "$0: emulated nodes need root" >&2; exit 2; }
(($#)) || { echo "usage: $0 FOLDER [RATES] [KEY=VALUE...]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") rates=${2:-1gbit 200mbit}
shift $(($# < 2 ? $# : 2))

# names of its own, so that it meets no other cluster on this machine
LAB=$(mktemp -d /var/tmp/hvdclip-perplexity.XXXXXX)
export LAB HEAD="perplexity$$" PFX="p$$n" SHARED="$folder:$PWD" OMP_NUM_THREADS=1
# where Debian puts SLURM's daemons
export PATH=$PATH:/usr/sbin:/sbin

lab() { tests/slurmlab.sh "$@"; }
end() {
  lab down
  rm -rf "$LAB"
}
trap end EXIT

lab up 2 >&2
files=()
for rate in $rates; do
  lab rate "$rate"
  lab mpirun 2 python jobs/time_to_perplexity.py run "$rate" "$folder/$rate.json" "$@"
  files+=("$folder/$rate.json")
done
python jobs/time_to_perplexity.py plot "$folder" "${files[@]}"
