#!/usr/bin/env bash
# Trains the GPT of configs/gpt_two_cores.yaml in four ways on two ranks, from several seeds, and draws the costs:
# AdamW with an average of gradients at every step, DiLoCo, Streaming DiLoCo, and Streaming DiLoCo with 4-bit messages.
#
#   [LINK=200mbit] jobs/language_models.sh FOLDER [SEEDS] [KEY=VALUE...]
#
# SEEDS are "1 2 3" unless given. With LINK the ranks are on two emulated nodes joined by a link of that rate; root only.
# Finished runs in FOLDER are kept, so that a call that was interrupted continues where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || { echo "usage: [LINK=RATE] $0 FOLDER [SEEDS] [KEY=VALUE...]" >&2; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1") seeds=${2:-1 2 3}
shift $(($# < 2 ? $# : 2))

streaming=(algorithm.interval=6 algorithm.averaging=fragments algorithm.fragments=4
  algorithm.overlap=delayed algorithm.delay=4 algorithm.merge_alpha=0.25 algorithm.outer_lr=0.5)
overrides() {
  case $1 in
    adamw) printf '%s\n' algorithm.name=minibatch_clip algorithm.interval=1 algorithm.outer{,_lr,_momentum}=null ;;
    diloco) ;;
    streaming) printf '%s\n' "${streaming[@]}" ;;
    streaming_int4) printf '%s\n' "${streaming[@]}" algorithm.compression=int4 ;;
  esac
}

if [[ -n ${LINK:-} ]]; then
  # shellcheck source=jobs/lab.sh
  source jobs/lab.sh
  lab up 2 >&2
  lab rate "$LINK"
  against=(seconds)
  ranks() { lab mpirun 2 "$@"; }
else
  # shellcheck source=jobs/env.sh
  source jobs/env.sh
  export OMP_NUM_THREADS=1
  against=(tokens bytes) # seconds would be those of shared memory
  ranks() { horovodrun_plainly 2 "$@"; }
fi

for seed in $seeds; do
  for name in adamw diloco streaming streaming_int4; do
    run=$folder/$name-$seed
    mapfile -t chosen < <(overrides "$name")
    [[ $(hvdclip status "$run" 2>/dev/null) == *done* ]] && continue
    ranks hvdclip train configs/gpt_two_cores.yaml "${chosen[@]}" "train.seed=$seed" "$@" --run-dir "$run" --overwrite
  done
done
python jobs/language_models.py "$folder" "${against[@]}"
