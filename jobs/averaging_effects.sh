#!/usr/bin/env bash
# Trains the quickstart's language model on two ranks with plain averages, delayed ones and compressed ones, several
# seeds of each, and compares their losses: jobs/averaging_effects.sh FOLDER [SEEDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/env.sh
source jobs/env.sh
folder=${1:?the folder that the runs and pictures go to}
seeds=${2:-2}

# train NAME KEY=VALUE...: one run for each seed
train() {
  local name=$1 seed
  shift
  for seed in $(seq "$seeds"); do
    mpirun --oversubscribe --bind-to none -np 2 hvdclip train configs/quickstart.yaml train.steps=384 \
      train.evaluate_every_steps=96 train.seed="$seed" "$@" --overwrite --run-dir "$folder/$name-$seed"
  done
}

for interval in 8 32; do
  train "plain-$interval" algorithm.interval="$interval"
  train "delayed-$interval" algorithm.interval="$interval" algorithm.overlap=delayed
done
for compression in bf16 int8 topk; do
  train "$compression" algorithm.compression="$compression"
done
hvdclip plot "$folder"/plain-*-* "$folder"/delayed-*-* --out "$folder/overlap"
hvdclip plot "$folder"/{plain-8,bf16,int8,topk}-* --out "$folder/compression"
