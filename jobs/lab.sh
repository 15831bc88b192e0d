# shellcheck shell=bash
# Sourced by the jobs that measure on the emulated nodes of tests/slurmlab.sh: `lab` is that script with the job's own
# cluster, which ends with the job. The nodes see the folder that `folder` names. Root only.
# shellcheck source=jobs/env.sh
source jobs/env.sh
((EUID == 0)) || { echo "$0: emulated nodes need root, because they are namespaces of the kernel" >&2; exit 2; }

LAB=$(mktemp -d /var/tmp/hvdclip-lab.XXXXXX)
# shellcheck disable=SC2154  # folder is the job's
export LAB HEAD="lab$$" PFX="l$$n" SHARED="$folder:$PWD" OMP_NUM_THREADS=1
# where Debian puts SLURM's daemons
export PATH=$PATH:/usr/sbin:/sbin

lab() { tests/slurmlab.sh "$@"; }
end_lab() {
  lab down
  rm -rf "$LAB"
}
trap end_lab EXIT
