# shellcheck shell=bash
# Sourced by the set-ups, in the project's folder: all their parts, and what is the same for all of them. venv, the folder
# of the environment, and log, the file of what the steps print, are set before.

cache=${HVDCLIP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hvdclip}/wheels
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

# shellcheck source=jobs/setup/steps.sh
source jobs/setup/steps.sh
# shellcheck source=jobs/setup/machine.sh
source jobs/setup/machine.sh
# shellcheck source=jobs/setup/python.sh
source jobs/setup/python.sh
# shellcheck source=jobs/setup/torch.sh
source jobs/setup/torch.sh
# shellcheck source=jobs/setup/environment.sh
source jobs/setup/environment.sh
# shellcheck source=jobs/setup/packages.sh
source jobs/setup/packages.sh
# shellcheck source=jobs/setup/cuda.sh
source jobs/setup/cuda.sh
# shellcheck source=jobs/setup/horovod.sh
source jobs/setup/horovod.sh
# shellcheck source=jobs/setup/proof.sh
source jobs/setup/proof.sh
