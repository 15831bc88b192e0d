# shellcheck shell=bash
# Which torch: one from pip, or the one that another Python has.

# the file that keeps pip from replacing it
constraint=$venv/torch.txt

read_arguments() {
  system_asked=0
  while (($#)); do
    case $1 in
      --system-torch) system_asked=1 ;;
      *) die "unknown argument $1; allowed: --system-torch" ;;
    esac
    shift
  done
  read_wheels
}

# The range of setup.cfg, as a requirement.
torch_range() { sed -n 's/^ *\(torch>=[0-9.]*,<[0-9.]*\)$/\1/p' setup.cfg; }

# torch_in_range VERSION
torch_in_range() {
  "$python" -c '
import re, sys
there, floor, end = [[int(n) for n in re.findall(r"\d+", text)[:2]] for text in sys.argv[1:]]
sys.exit(not floor <= there < end)' "$1" "$(torch_range | cut -d , -f 1)" "$(torch_range | cut -d , -f 2)"
}

# Sets torch to "system" or to a requirement for pip: the present choice, or the earlier one.
choose_torch() {
  if ((system_asked)); then
    [[ -z ${TORCH:-} ]] || die "--system-torch and TORCH=$TORCH name two torches: give only one of them"
    torch=system
  elif [[ -n ${TORCH:-} ]]; then
    [[ $TORCH =~ ^torch( *([=\<\>!~@]|$)) ]] || die "TORCH=$TORCH does not name a torch: write for example TORCH=torch==2.7.1"
    torch=$TORCH
  else
    torch=$(remembered torch)
    torch=${torch:-torch}
  fi
  [[ -z $wheels || $torch == system ]] || die "WHEELS needs --system-torch: torch itself is not among the wheels"
}

# Sets sites to the folders in which the chosen Python finds packages, where torch is that Python's. Those that a module
# names in PYTHONPATH are among them; else they must not count as installed.
choose_sites() {
  sites=
  if ((system_asked)); then
    sites=$("$python" -c '
import os, sys
names = ("site-packages", "dist-packages")
print(":".join(p for p in sys.path if os.path.basename(p) in names and os.path.isdir(p)))')
  elif [[ $torch == system ]]; then
    sites=$(remembered sites)
  fi
  unset PYTHONPATH PYTHONHOME
  [[ $torch != system ]] || check_system_torch
}

# The version of the torch of these folders, or nothing; a torch from pip has none yet.
torch_there() {
  [[ -n $sites ]] || return 0
  "$python" -c '
import sys
from importlib.metadata import distributions
print(*[d.version for d in distributions(name="torch", path=sys.argv[1].split(":"))][:1])' "$sites"
}

check_system_torch() {
  local there
  there=$(torch_there)
  [[ -n $there ]] || die "--system-torch: $python has no torch: activate or name (PYTHON) a Python that has one"
  torch_in_range "$there" \
    || die "--system-torch: $python has torch $there; allowed: $(torch_range)"
}

install_torch() {
  [[ $torch != system ]] || return 0
  mend
  step "installing $torch, of $(torch_range) (some minutes; one for CUDA is 3 GB)" \
    in_venv pip install "$torch" "$(torch_range)"
}

# Sets what Horovod's build needs to know of torch, and writes the constraint.
learn_torch() {
  local facts
  facts=$("$interpreter" jobs/setup/torch_facts.py 2>>"$log") || die "torch cannot be imported: see $log"
  {
    read -r torch_version && read -r torch_folder && read -r torch_cuda && read -r torch_rocm
    read -r nccl && read -r nccl_version && read -r cudart && read -r gpus && read -r python_abi
  } <<<"$facts"
  echo "torch==$(version_of torch)" >"$constraint"
}
