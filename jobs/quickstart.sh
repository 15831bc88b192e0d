#!/usr/bin/env bash
# Sets up, trains a small language model on two ranks twice, with local clipped steps (celgc) and with an average at
# every step (naive_parallel_clip), and compares the two in a table and a plot.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs/setup.sh
# shellcheck source=jobs/env.sh
source jobs/env.sh

# train RUN [KEY=VALUE...]
train() {
  horovodrun -np 2 .venv/bin/hvdclip train configs/quickstart.yaml --overwrite --run-dir "$@"
}

train runs/quickstart-celgc
train runs/quickstart-naive_parallel_clip algorithm.name=naive_parallel_clip algorithm.interval=null
.venv/bin/hvdclip plot runs/quickstart-celgc runs/quickstart-naive_parallel_clip --out runs/quickstart-plots
echo "quickstart: the pictures are in $PWD/runs/quickstart-plots"
