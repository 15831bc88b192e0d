# shellcheck shell=bash
# Nothing is called installed before ranks have averaged.

prove() {
  local built
  built=$(horovodrun --check-build 2>&1) || true
  prove_build
  prove_libraries
  prove_ranks mpi 2 cpu
  prove_ranks gloo 2 cpu
  if ((gpus)) && [[ $built == *"[X] NCCL"* ]]; then
    # NCCL takes one rank a GPU
    prove_ranks mpi $((gpus < 2 ? gpus : 2)) cuda
  fi
}

prove_build() {
  local part parts=(PyTorch MPI Gloo)
  [[ $gpu == "no GPUs" ]] || parts+=(NCCL)
  for part in "${parts[@]}"; do
    [[ $built == *"[X] $part"* ]] || die "Horovod was built without $part: remove $cache and run this again"
  done
}

# Horovod's library must find the very libraries that torch loads, also without LD_LIBRARY_PATH: two NCCLs in one
# process would not know each other.
prove_libraries() {
  local library wanted found
  [[ $gpu != "no GPUs" ]] || return 0
  library=$(compgen -G "$(site_packages)/horovod/torch/mpi_lib_v2*.so")
  for wanted in "$nccl" "$cudart"; do
    found=$(env -u LD_LIBRARY_PATH ldd "$library" | awk -v name="${wanted##*/}" '$1 == name { print $3 }')
    [[ $(realpath "$found") == "$(realpath "$wanted")" ]] \
      || die "Horovod finds ${wanted##*/} at ${found:-no place}, torch at $wanted"
  done
  say "Horovod finds torch's own $nccl and $cudart"
}

# prove_ranks CONTROLLER RANKS DEVICE
prove_ranks() {
  local answer
  answer=$(timeout 120 horovodrun -np "$2" "--$1" "$interpreter" jobs/prove_horovod.py "$3" 2>&1 | tee -a "$log") \
    || die "$2 ranks under horovodrun --$1 failed on $3: see $log"
  say "horovodrun --$1: $(grep -o '[0-9]* ranks* summed.*' <<<"$answer")"
}
