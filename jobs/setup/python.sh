# shellcheck shell=bash
# Which Python .venv is made with, and that of the environment that is set up.

interpreter=$venv/bin/python
# the advice if a Python is not suitable
other_python="set PYTHON to another Python"

# Sets python to PYTHON, to the one chosen before, or to one on PATH; with --system-torch that is the active one.
choose_python() {
  local name names=(python3.13 python3.12 python3.11 python3.10 python3)
  complaint=
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON does not exist: set it to a Python 3.10 to 3.13"
    try_python "$PYTHON" || die "${complaint:-PYTHON=$PYTHON does not run}"
    return
  fi
  if ((!system_asked)); then
    python=$(remembered python)
    [[ ! -x $python || ! -x $venv/bin/python ]] || return 0
  else
    names=(python python3)
  fi
  for name in "${names[@]}"; do
    try_python "$name" && return
  done
  [[ -n $complaint ]] \
    || complaint="no Python 3.10 to 3.13 on PATH: install one (Debian: python3-venv, python3-dev) or set PYTHON to it"
  die "$complaint"
}

# try_python NAME: sets python to the path of that Python if it is suitable, otherwise complaint, if it is the first.
# A name on PATH may be a stand-in that starts nothing. Debian packs the interpreter without pip and without the headers
# that Horovod is compiled against.
try_python() {
  local answer path
  path=$(command -v "$1") && "$path" -c '' 2>/dev/null || return
  if answer=$("$path" -c '
import os, sys, sysconfig
from importlib.util import find_spec
system, wheels = sys.argv[1] == "system", sys.argv[2]
release = "%d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit("is Python %s: install Python 3.10 to 3.13 or set PYTHON to it" % release)
if not find_spec("ensurepip") and not (system and find_spec("pip")):
    sys.exit("cannot make a .venv: install python%s-venv or %s" % (release, sys.argv[3]))
if not wheels and not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    sys.exit("lacks its C headers: install python%s-dev or %s" % (release, sys.argv[3]))
print(sys.executable)
' "$torch" "$wheels" "$other_python" 2>&1); then
    python=$answer
  else
    complaint=${complaint:-$path ${answer%%$'\n'*}}
    return 1
  fi
}

# --clear: nothing is certain in a .venv that was made partly.
make_venv() {
  local options=(--clear)
  # then pip is, as torch, that of the other Python
  "$python" -c 'import ensurepip' 2>/dev/null || options+=(--without-pip)
  step "making $venv with $python" "$python" -m venv "${options[@]}" "$venv"
  # a line of code, so that the .pth files of those folders count too
  [[ -z $sites ]] || printf 'import site; list(map(site.addsitedir, "%s".split(":")))\n' "$sites" \
    >"$(site_packages)/system_torch.pth"
  printf 'chosen %s\n' "python $python" "torch $torch" "sites $sites" >"$stamp"
}

in_venv() { "$interpreter" -m "$@"; }
site_packages() { "$interpreter" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
version_of() { "$interpreter" -c "from importlib.metadata import version; print(version('$1'))"; }
