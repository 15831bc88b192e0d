#!/usr/bin/env bash
# Sets up, trains a small language model on two ranks twice, with local clipped steps (celgc) and with an average at
# every step (naive_parallel_clip), and compares the two in a table and a plot. Arguments go to both: train.steps=80
#   RUNS   the folder that the runs go to (default: runs)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs/setup.sh
# shellcheck source=jobs/env.sh
source jobs/env.sh

runs=$(realpath -m "${RUNS:-runs}")

# train RUN [KEY=VALUE...]
train() {
  horovodrun_plainly 2 .venv/bin/hvdclip train configs/quickstart.yaml --overwrite --run-dir "$runs/$1" "${@:2}"
}

train quickstart-celgc "$@"
train quickstart-naive_parallel_clip algorithm.name=naive_parallel_clip algorithm.interval=null "$@"
.venv/bin/hvdclip plot "$runs"/quickstart-{celgc,naive_parallel_clip} --out "$runs/quickstart-plots"
echo "quickstart: the pictures are in $runs/quickstart-plots"
