# shellcheck shell=bash
# How a set-up prints messages, and how it remembers what is done.

stamp=$venv/.setup

say() { echo "setup: $*"; }
die() {
  echo "setup: $*" >&2
  exit 2
}
fingerprint() { sha256sum | cut -c 1-16; }

# step TEXT COMMAND...: the command's output goes to the log.
step() {
  say "$1"
  echo "== $1" >>"$log"
  "${@:2}" >>"$log" 2>&1 || die "$1 failed: $(last_error) (all of it in $log)"
}

# From the step's output: pip's ends with hints, one of which calls itself an error; the cause is above them.
last_error() {
  local output
  output=$(awk '/^== / { output = ""; next } { output = output $0 "\n" } END { printf "%s", output }' "$log")
  { grep 'ERROR: ' <<<"$output" | grep -v 'ERROR: ResolutionImpossible' || grep -v '^ *$' <<<"$output"; } \
    | tail -n 1 | sed 's/^ *//'
}

# The stamp's lines: what was chosen, so that it need not be named again, and a line for each stage that is complete.
remembered() { [[ ! -f $stamp ]] || sed -n "s/^chosen $1 //p" "$stamp"; }
remember() {
  # an environment that jobs/setup.sh has not made has none
  [[ -f $stamp ]] || return 0
  sed -i "/^chosen $1 /d" "$stamp"
  echo "chosen $1 $2" >>"$stamp"
}
is_done() { [[ -f $stamp ]] && grep -qxF "done $1 $(fingerprint <<<"$2")" "$stamp"; }

# stage NAME PURPOSE COMMAND: does what has not been done for this purpose; the stages after it are then done again.
stage() {
  if is_done "$1" "$2"; then return; fi
  [[ ! -f $stamp ]] || sed -i "/^done $1 /,\$ { /^done /d }" "$stamp"
  "$3"
  echo "done $1 $(fingerprint <<<"$2")" >>"$stamp"
}
