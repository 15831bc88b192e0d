# shellcheck shell=bash
# Which CUDA toolkit Horovod is built with: one of torch's own major version, with its compiler, headers and library.

usual_place=/usr/local

# Sets toolkit to the folder of the first one that fits and toolkit_version to its version, or both to nothing; and
# passed_over to a line for each one that does not fit, with the reason.
find_toolkit() {
  local named folder lack seen=:
  toolkit='' toolkit_version='' passed_over=()
  while read -r named; do
    if ! folder=$(cd "$named" 2>/dev/null && pwd -P); then
      [[ $named != "${CUDA_HOME:-}" && $named != "${CUDA_PATH:-}" ]] || passed_over+=("$named is not a folder")
      continue
    fi
    [[ $seen != *":$folder:"* ]] || continue
    seen+=$folder:
    if lack=$(toolkit_fits "$folder"); then
      toolkit=$folder
      toolkit_version=$(version_of_toolkit "$folder")
      return
    fi
    passed_over+=("$folder $lack")
  done < <(places_of_toolkits)
}

# A toolkit named by hand comes first. nvcc on PATH may be a link or a script; it knows its own folder.
# The last one is that of pip's wheels in .venv.
places_of_toolkits() {
  local top
  top=$(nvcc --dryrun -x cu -c /dev/null -o /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p') || true
  printf '%s\n' "${CUDA_HOME:-}" "${CUDA_PATH:-}" "$top" "$usual_place"/cuda "$usual_place"/cuda-* \
    "$venv"/lib/python3*/site-packages/nvidia/"cu${torch_cuda%%.*}" | grep . || true
}

# toolkit_fits FOLDER: whether it does; says why not.
toolkit_fits() {
  local version
  version=$(version_of_toolkit "$1")
  if [[ ! -x $1/bin/nvcc ]]; then
    echo "has no bin/nvcc"
  elif [[ -z $version ]]; then
    echo "has no cuda.h"
  elif [[ ${version%%.*} != "${torch_cuda%%.*}" ]]; then
    echo "is CUDA $version, and torch's is $torch_cuda"
  elif [[ -z $(compgen -G "$1/lib*/libcudart.so*" || compgen -G "$1/targets/*/lib/libcudart.so*") ]]; then
    echo "has no libcudart.so"
  else
    return 0
  fi
  return 1
}

# cuda.h has 1000 * major + 10 * minor.
version_of_toolkit() {
  local header number
  for header in "$1"/include/cuda.h "$1"/targets/*/include/cuda.h; do
    [[ -f $header ]] || continue
    number=$(sed -n 's/^#define CUDA_VERSION *\([0-9]*\).*/\1/p' "$header")
    [[ -z $number ]] || { echo "$((number / 1000)).$((number % 1000 / 10))" && return; }
  done
}

# The wheels of pip lack two names that CMake and nvcc look for.
complete_toolkit() {
  [[ $toolkit == */nvidia/cu* ]] || return 0
  [[ -e $toolkit/lib64 ]] || ln -s lib "$toolkit/lib64"
  [[ -e $toolkit/lib/libcudart.so ]] || ln -s "libcudart.so.${torch_cuda%%.*}" "$toolkit/lib/libcudart.so"
}

# Whether Horovod was built without GPUs because no toolkit was found, but there is one now, for example because the
# user has loaded a module. A toolkit that has gone since is not a reason to build again.
toolkit_has_come() {
  local torch_cuda
  torch_cuda=$(remembered toolkit_for)
  [[ -n $torch_cuda ]] || return
  find_toolkit
  [[ -n $toolkit ]]
}
