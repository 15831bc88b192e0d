#!/usr/bin/env bash
# Everything that only a machine with a CUDA GPU can show: tests, steps compared with torch's, ResNet-50 with and
# without hvdclip.
#
#   [WHEELS=wheels] jobs/gpu.sh FOLDER
#
# FOLDER gets gpu.md, a table with the card's name, and gpu.json, all its numbers; also a text of each measurement, and
# machine.txt. With several GPUs the last measurements run on as many ranks. WHEELS is for a machine without a network:
# torch is then that of the active Python, and what this Python lacks comes from this folder (docs/install.md).
# Not run on a GPU yet, because none was available.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || { echo "usage: $0 FOLDER" >&2; exit 2; }
command -v nvidia-smi >/dev/null || { echo "$0: no nvidia-smi on PATH, so no NVIDIA GPU: run it on a machine with one" >&2; exit 2; }
./jobs/setup.sh ${WHEELS:+--system-torch}
# shellcheck source=jobs/env.sh
source jobs/env.sh
mkdir -p "$1"
folder=$(realpath "$1")
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')

{ date --iso-8601=seconds; nvidia-smi; horovodrun --check-build; git log -1 --format=%H; } >"$folder/machine.txt" 2>&1 || true

# run NAME COMMAND...: its output goes to the screen and to a file
failed=()
run() {
  echo "== $1: ${*:2}"
  "${@:2}" 2>&1 | tee "$folder/$1.txt" || failed+=("$1")
}

run doctor horovodrun -np "$gpus" hvdclip doctor
run tests python -m pytest -q tests/test_gpu.py
for shape in awd_lstm resnet56 resnet50; do
  run "step_$shape" hvdclip bench step --device cuda --shape "$shape" --json "$folder/step_$shape.json"
done
for numbers in "fp32" "bf16 --channels-last"; do
  read -ra options <<<"$numbers"
  run "images_${options[0]}" hvdclip bench images --device cuda --batch 64 --steps 20 --precision "${options[@]}" \
    --json "$folder/images_${options[0]}.json"
done
run "ranks" horovodrun -np "$gpus" hvdclip bench images --device cuda --batch 64 --steps 64 --precision bf16 \
  --channels-last --json "$folder/ranks.json"
run "train" horovodrun -np "$gpus" hvdclip train configs/imagenet_resnet50_synthetic.yaml --run-dir "$folder/run" --overwrite
python jobs/gpu_table.py "$folder"
((${#failed[@]} == 0)) || { echo "$0: failed: ${failed[*]}" >&2; exit 1; }
