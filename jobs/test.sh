#!/usr/bin/env bash
# Sets up, then runs the tests:
#   jobs/test.sh             the fast tests of one process, and the chosen ones with real ranks and SLURM
#   jobs/test.sh --all       all tests
#   jobs/test.sh -k resume   those that pytest's arguments select
# First the fast tests, on several cores; then those that start ranks, two at a time, since they often wait; last the
# slow ones of one process, on several cores. At the same time those on the emulated cluster run, which mostly wait for
# time limits and lost nodes. The last line is the sum of all parts.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
jobs/setup.sh || exit
# shellcheck source=jobs/env.sh
source jobs/env.sh

all=$#
[[ ${1:-} != --all ]] || shift
chosen=""
((all)) || chosen="and chosen"

logs=$(mktemp -d)
slurm=""
finish() {
  # like Ctrl-C, after which pytest ends its cluster
  [[ -z $slurm ]] || { kill -INT -- "-$slurm" && wait "$slurm"; } 2>/dev/null
  rm -rf "$logs"
}
trap finish EXIT

# Runs the tests of some markers; shows each line of their output as it comes, after the part's name.
part() {
  local name=$1 markers=$2
  shift 2
  python -m pytest -m "$markers" "$@" 2>&1 | (trap '' INT && sed -u "s/^/$name: /" | tee "$logs/$name")
  echo "${PIPESTATUS[0]}" >"$logs/$name.status"
}

# Prints how many tests of all parts have passed, failed, ...; returns the status of the first part that has failed.
sum_up() {
  local status=0 empty=0 parts=0 ended
  for ended in "$logs"/*.status; do
    ((++parts))
    # 5: the arguments select none of these tests; that is a mistake only if they select none at all
    case $(<"$ended") in
      0) ;;
      5) ((++empty)) ;;
      *) ((status)) || status=$(<"$ended") ;;
    esac
  done
  ((empty < parts)) || status=5
  for ended in "$logs"/*.status; do
    grep -E ' in [0-9.]+s' "${ended%.status}" | tail -n 1
  done | grep -oE '[0-9]+ (passed|failed|skipped|xfailed|xpassed|errors?)' |
    awk -v minutes=$((SECONDS / 60)) -v seconds=$((SECONDS % 60)) -v status="$status" '
      { sub(/errors?/, "errors"); count[$2] += $1 }
      END {
        for (n = split("passed failed errors skipped xfailed xpassed", words); i++ < n;)
          if (words[i] in count) line = line ", " count[words[i]] " " words[i]
        printf "all parts: %s in %d min %d s; exit status %d\n", line ? substr(line, 3) : "none", minutes, seconds, status
      }'
  return "$status"
}

export OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # hundreds of Pythons start, which need not compile the same modules
cores=(-n auto --maxprocesses 4)
set -m # a process group of its own, to end it by
part slurm "slurm $chosen" -v "$@" &
slurm=$!
set +m
part fast "not ranks and not slow and not slurm" "${cores[@]}" "$@"
part ranks "ranks and not slurm $chosen" -v -n 2 --dist worksteal "$@"
[[ -n $chosen ]] || part slow "slow and not ranks and not slurm" "${cores[@]}" "$@"
wait "$slurm"
slurm=""
sum_up
