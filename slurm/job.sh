# shellcheck shell=bash
# Sourced by the job scripts: a site's settings, the launch of the ranks, and what happens when the time is over.
#
# Settings, from slurm/sites/$HVDCLIP_SITE.env (or the file that HVDCLIP_SITE names) or from the environment:
#   HVDCLIP_MODULES        modules to load: those that were loaded when jobs/setup.sh ran
#   HVDCLIP_LAUNCH         srun-pmix (default), srun-pmi2 or mpirun; `srun --mpi=list` shows what the cluster has
#   HVDCLIP_SRUN           more options for srun, for example --gpu-bind=closest
#   HVDCLIP_NIC            network interface between nodes, for MPI, Gloo and NCCL; a wrong one hangs
#   HVDCLIP_MAX_REQUEUES   how often a job that was stopped or has died is started again (20)
#   HVDCLIP                the command (.venv/bin/hvdclip of the project)

# SLURM signals the batch shell when time is running out, possibly right away
signalled=0
trap 'signalled=1' USR2
# the arguments of the job, for another job that continues it
arguments=("$@")
# what comes before the command of each rank, and options of srun in addition to the site's
inside=() srun_options=()
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() {
  echo "hvdclip: $*" >&2
  exit 2
}

load_site() {
  local file=${HVDCLIP_SITE:-}
  [[ -z $file || -f $file ]] || file=$project/slurm/sites/$file.env
  if [[ -n $file ]]; then
    [[ -f $file ]] || die "HVDCLIP_SITE is '$HVDCLIP_SITE'; allowed: a file, or one of $(site_names)"
    local most=${HVDCLIP_MAX_REQUEUES:-}
    # exported, for a shell that is started in the job
    set -a
    # shellcheck disable=SC1090
    source "$file"
    set +a
    # the value from the submission takes precedence over the site's
    [[ -z $most ]] || HVDCLIP_MAX_REQUEUES=$most
  fi
  if [[ -n ${HVDCLIP_MODULES:-} ]]; then
    # `module` is the site's function, which may fail under set -eu
    set +eu
    # shellcheck disable=SC2086
    module load $HVDCLIP_MODULES || die "HVDCLIP_MODULES is '$HVDCLIP_MODULES', which module load refuses on $(hostname)"
    set -eu
  fi
  if [[ -n ${HVDCLIP_NIC:-} ]]; then
    export OMPI_MCA_btl_tcp_if_include=$HVDCLIP_NIC HOROVOD_GLOO_IFACE=$HVDCLIP_NIC NCCL_SOCKET_IFNAME=$HVDCLIP_NIC
  fi
  # SLURM's other fences let a rank out of MPI_Init before all others can receive: jobs/start_race.sh
  export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-ring}
  # srun does not take --cpus-per-task from the job since SLURM 22.05
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
  hvdclip=${HVDCLIP:-$project/.venv/bin/hvdclip}
  [[ -x $hvdclip ]] || die "$hvdclip cannot be run on $(hostname): install hvdclip where compute nodes see it, or set HVDCLIP"
}

site_names() {
  local file
  for file in "$project"/slurm/sites/*.env; do basename "$file" .env; done | xargs
}

# A command on all ranks of the job.
launch() {
  (become_ranks "$@")
}

# Sets launcher to the program that starts ranks, with the options that it always gets.
find_launcher() {
  local kind=${HVDCLIP_LAUNCH:-srun-pmix}
  # a rank that fails ends the others
  # shellcheck disable=SC2206
  case $kind in
    mpirun) launcher=(mpirun --bind-to none) ;;
    srun-*) launcher=(srun --mpi="${kind#srun-}" --kill-on-bad-exit=1 --wait=60 --unbuffered ${HVDCLIP_SRUN:-}) ;;
    *) die "HVDCLIP_LAUNCH is '$kind'; allowed: srun-pmix, srun-pmi2, mpirun" ;;
  esac
}

# The line with which hvdclip bench scaling starts ranks; it fills in how many, and on how many nodes.
launch_line() {
  find_launcher
  [[ ${launcher[0]} == mpirun ]] && echo "${launcher[*]} -np {ranks}" || echo "${launcher[*]} --nodes={nodes} --ntasks={ranks}"
}

# The same, but replaces the shell that calls it, so that a signal reaches the command.
become_ranks() {
  find_launcher
  [[ ${launcher[0]} == mpirun ]] || exec "${launcher[@]}" "${srun_options[@]}" "${inside[@]}" "$@"
  ((${#srun_options[@]} == 0)) || die "HVDCLIP_LAUNCH is mpirun; allowed with ${srun_options[0]}: srun-pmix, srun-pmi2"
  ((EUID > 0)) || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  PATH=$(dirname "$hvdclip"):$PATH exec "${launcher[@]}" -np "${SLURM_NTASKS:-$SLURM_JOB_NUM_NODES}" "${inside[@]}" "$@"
}

# train RUN CONFIG [key.path=value]...: train, or continue, in the run directory; start the job again if necessary.
train() {
  local run=${HVDCLIP_RUN_DIR:-$1} ended=0
  shift
  load_site
  mkdir -p "$run"
  : >"$run/.attempt"
  echo "hvdclip: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, started again ${SLURM_RESTART_COUNT:-0} times, $(date '+%F %T')"
  (become_ranks "${command:-$hvdclip}" train "$@" --run-dir "$run" --resume) &
  local ranks=$!
  trap 'signalled=1; pass_on "$ranks" "$run" &' USR2
  ((signalled == 0)) || pass_on "$ranks" "$run" &
  signalled=1
  while ((signalled)); do
    signalled=0
    wait "$ranks" && ended=0 || ended=$?
  done
  trap '' USR2
  ((ended == 0)) || start_again "$run" "$ended"
  exit "$ended"
}

# Signals the ranks, through srun or mpirun, once they can handle it: while they start, the signal would kill them.
pass_on() {
  local ranks=$1 run=$2
  until has_begun "$run"; do
    kill -0 "$ranks" 2>/dev/null || return 0
    sleep 1
  done
  kill -USR2 "$ranks"
}

# Like train, with the run directory among the arguments; by default runs/NAME-ID of the job.
train_by_arguments() {
  local run=${HVDCLIP_RUN_DIR:-runs/$SLURM_JOB_NAME-$SLURM_JOB_ID} others=()
  while (($#)); do
    case $1 in
      --run-dir) run=${2:?--run-dir needs a folder} && shift ;;
      --run-dir=*) run=${1#*=} ;;
      --resume) ;;
      *) others+=("$1") ;;
    esac
    shift
  done
  train "$run" "${others[@]}"
}

# Whether this attempt has begun to train.
has_begun() {
  [[ $1/heartbeats/rank-00000.json -nt $1/.attempt ]]
}

# Puts the job back into the queue if the run has stopped or died and can continue.
start_again() {
  local run=$1 ended=$2 most=${HVDCLIP_MAX_REQUEUES:-20}
  local before=$((${SLURM_RESTART_COUNT:-0} + ${HVDCLIP_RESTARTS:-0}))
  if has_begun "$run"; then
    "$hvdclip" status --requeue "$run" || return 0
  elif ((ended > 128)); then
    echo "hvdclip: requeue: killed by signal $((ended - 128)) before it had begun"
  else
    echo "hvdclip: no requeue: it ended with $ended before it had begun"
    return 0
  fi
  if ((before >= most)); then
    echo "hvdclip: not started again: it has been $before times already (HVDCLIP_MAX_REQUEUES)" >&2
    return 0
  fi
  # of an array only this task, although one of the tasks has the array's own number
  local job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  if command -v scontrol >/dev/null && scontrol requeue "${job:-$SLURM_JOB_ID}"; then
    sleep 60 # until SLURM removes it from the nodes, so that no exit status comes first
  else
    go_on_as_another_job "$run" "$before"
  fi
}

# If nodes have no scontrol, or jobs may not be put back. This shell's copy of the script still exists.
go_on_as_another_job() {
  local run=$1 before=$2 job task=${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
  export HVDCLIP_RESTARTS=$((before + 1)) HVDCLIP_RUN_DIR=$run
  job=$(env -u SLURM_RESTART_COUNT sbatch --parsable --dependency="afterany:$SLURM_JOB_ID" --export=ALL \
    --nodes="$SLURM_JOB_NUM_NODES" ${SLURM_NTASKS_PER_NODE:+--ntasks-per-node="$SLURM_NTASKS_PER_NODE"} \
    ${SLURM_ARRAY_TASK_ID:+--array="$SLURM_ARRAY_TASK_ID"} "$0" "${arguments[@]}")
  echo "hvdclip: continues as job $job"
  [[ ! -e $run/job.json ]] || echo "{\"job\": \"${job%%;*}$task\", \"runs\": []}" >"$run/job.json"
}

# Makes the ranks run the image's own hvdclip; the batch shell calls the project's for the result.
in_container() {
  command=hvdclip
  case $1 in
    *.sif) inside=(apptainer exec --nv --bind "$PWD" "$1") ;;
    *) srun_options+=(--container-image="$1" --container-mounts="$PWD:$PWD" --container-workdir="$PWD") ;;
  esac
}
