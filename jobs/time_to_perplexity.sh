#!/usr/bin/env bash
# Runs jobs/time_to_perplexity.py on two emulated nodes over links of several rates, and draws what it found.
#
#   jobs/time_to_perplexity.sh FOLDER [RATES] [KEY=VALUE...]
#
# RATES are "1gbit 200mbit" unless given. Root only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || { echo "usage: $0 FOLDER [RATES] [KEY=VALUE...]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") rates=${2:-1gbit 200mbit}
shift $(($# < 2 ? $# : 2))

# shellcheck source=jobs/lab.sh
source jobs/lab.sh

lab up 2 >&2
files=()
for rate in $rates; do
  lab rate "$rate"
  lab mpirun 2 python jobs/time_to_perplexity.py run "$rate" "$folder/$rate.json" "$@"
  files+=("$folder/$rate.json")
done
python jobs/time_to_perplexity.py plot "$folder" "${files[@]}"
