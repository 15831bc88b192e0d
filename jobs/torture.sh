#!/usr/bin/env bash
# Kills runs on real ranks at random moments, resumes them, and compares each with an uninterrupted run.
#
#   jobs/torture.sh FOLDER [KILLS] [ALGORITHM...]
#
# Every algorithm is killed once, then KILLS (50) more are spread over all of them; or over those that are named. FOLDER
# gets the runs and torture.md, a table of the results. Exit status 1 if a resumed run differs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/env.sh
source jobs/env.sh

(($#)) || { echo "usage: $0 FOLDER [KILLS] [ALGORITHM...]" >&2; exit 2; }
mkdir -p "$1"
python jobs/torture.py "$(realpath "$1")" "${@:2}"
