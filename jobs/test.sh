#!/usr/bin/env bash
# Sets up, then runs the whole test suite; arguments go to pytest: jobs/test.sh -k setup
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs/setup.sh
# shellcheck source=jobs/env.sh
source jobs/env.sh
exec python -m pytest "$@"
