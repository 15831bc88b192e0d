"""Which CUDA toolkit jobs/setup.sh builds Horovod with, and what the build of this environment is."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from test_setup import on_path, script, shell

FIND = """
usual_place=$USUAL torch_cuda=13.0
find_toolkit; echo "$toolkit $toolkit_version"; printf '%s\\n' "${passed_over[@]}" """

WHEELS = ".venv/lib/python3.12/site-packages/nvidia/cu13"


def toolkit(folder: Path, version: int = 13000, headers: str = "include", library: str = "lib64/libcudart.so") -> Path:
    """Lays out a CUDA toolkit with this CUDA_VERSION; nvcc tells where it lives, as the real one does."""
    for file in (f"{headers}/cuda.h", library, "bin/nvcc"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / headers / "cuda.h").write_text(f"/* */\n#define CUDA_VERSION {version}\n#define CUDA_VERSION_OLD 1\n")
    (folder / library).touch()
    script(folder / "bin/nvcc", f"echo '#$ _SPACE_= ' >&2; echo '#$ TOP={folder}/bin/..' >&2")
    return folder


def found(tmp_path: Path, **env: str) -> list[str]:
    """What find_toolkit takes, and what it passes over, where nothing of the real machine is seen."""
    folders = {"USUAL": str(tmp_path / "usual")}
    (tmp_path / "bin").mkdir(exist_ok=True)
    if not (tmp_path / "bin/nvcc").exists():
        script(tmp_path / "bin/nvcc", "exit 127")
    return shell(tmp_path, FIND, **({"PATH": on_path(tmp_path / "bin")} | folders | env)).splitlines()


def test_no_toolkit(tmp_path: Path) -> None:
    """Nothing is taken, and a CUDA_HOME that is no folder is not passed over silently."""
    assert found(tmp_path) == [" ", ""]
    assert found(tmp_path, CUDA_HOME="/nowhere") == [" ", "/nowhere is not a folder"]


def test_a_wrapper_on_path_leads_to_where_nvcc_lives(tmp_path: Path) -> None:
    """A script named nvcc says nothing about the folder above it; the nvcc that it starts does."""
    real = toolkit(
        tmp_path / "opt/cuda", headers="targets/x86_64-linux/include", library="targets/x86_64-linux/lib/libcudart.so"
    )
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin/nvcc", f'exec {real}/bin/nvcc "$@"')
    assert found(tmp_path) == [f"{real} 13.0", ""]


def test_what_is_named_comes_first(tmp_path: Path) -> None:
    """CUDA_HOME, then CUDA_PATH, then the usual places."""
    first, second, third = (toolkit(tmp_path / name, 13010) for name in ("first", "second", "usual/cuda-13.1"))
    (tmp_path / "usual/cuda").symlink_to(third)
    assert found(tmp_path, CUDA_HOME=str(first), CUDA_PATH=str(second))[0] == f"{first} 13.1"
    assert found(tmp_path, CUDA_PATH=str(second))[0] == f"{second} 13.1"
    assert found(tmp_path)[0] == f"{third} 13.1"


def test_what_does_not_fit_is_passed_over_with_its_reason(tmp_path: Path) -> None:
    """Another major version, no compiler, no headers, no library: once each, though found in two ways."""
    old = toolkit(tmp_path / "usual/cuda-12.4", 12040)
    no_compiler, no_headers, no_library = (toolkit(tmp_path / f"usual/cuda-13.{n}") for n in (0, 1, 2))
    (no_compiler / "bin/nvcc").unlink()
    shutil.rmtree(no_headers / "include")
    shutil.rmtree(no_library / "lib64")
    wheels = toolkit(tmp_path / WHEELS, 13020, library="lib/libcudart.so.13")
    assert found(tmp_path, CUDA_HOME=str(old)) == [
        f"{wheels} 13.2",
        f"{old} is CUDA 12.4, and torch's is 13.0",
        f"{no_compiler} has no bin/nvcc",
        f"{no_headers} has no cuda.h",
        f"{no_library} has no libcudart.so",
    ]


def test_the_wheels_of_pip_get_the_names_that_they_lack(tmp_path: Path) -> None:
    """lib64 and the plain name of the library, once; a toolkit of the machine is not touched."""
    wheels = toolkit(tmp_path / WHEELS, library="lib/libcudart.so.13")
    other = toolkit(tmp_path / "other", library="lib/libcudart.so.13")
    for folder in (wheels, wheels, other):
        shell(tmp_path, f"torch_cuda=13.0 toolkit={folder}; complete_toolkit")
    assert os.readlink(wheels / "lib64") == "lib" and os.readlink(wheels / "lib/libcudart.so") == "libcudart.so.13"
    assert not (other / "lib64").exists()


def test_a_toolkit_that_has_come_is_a_reason_to_build_again(tmp_path: Path) -> None:
    """One that has gone is none, nor is one for a Horovod that was built for GPUs already."""
    (tmp_path / ".venv").mkdir()
    stamp, ask = tmp_path / ".venv/.setup", "usual_place=$USUAL; toolkit_has_come && echo has come || echo no"
    env = {"USUAL": str(tmp_path / "usual"), "PATH": "/usr/bin:/bin"}
    stamp.write_text("chosen toolkit_for 13.0\n")
    assert shell(tmp_path, ask, **env) == "no\n"
    toolkit(tmp_path / "usual/cuda")
    assert shell(tmp_path, ask, **env) == "has come\n"
    stamp.write_text("chosen toolkit_for \n")
    assert shell(tmp_path, ask, **env) == "no\n"


@pytest.mark.parametrize(("code", "said"), [(22809, "fits"), (22907, "nccl.h of NCCL 2.28.9 is missing; ")])
def test_headers_of_nccl_must_be_those_of_the_library(tmp_path: Path, code: int, said: str) -> None:
    """The version in nccl.h is that of the library which torch loads."""
    for name in ("lib", "include"):
        (tmp_path / name).mkdir()
    (tmp_path / "include/nccl.h").write_text(f"#define NCCL_VERSION_CODE {code}\n")
    ask = f"nccl={tmp_path}/lib/libnccl.so.2 nccl_version=2.28.9 cudart=x; nccl_fits && echo fits || true"
    assert shell(tmp_path, ask).startswith(said)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ("torch_cuda= torch_rocm=6.4", "torch is built for ROCm 6.4, for which no Horovod has been tried"),
        (
            "torch_cuda=13.0 torch_rocm= nccl= cudart=x",
            "cannot average on GPUs: torch contains NCCL or the CUDA runtime",
        ),
        ("torch_cuda= torch_rocm=", ""),
    ],
)
def test_a_horovod_without_gpus_says_why(tmp_path: Path, facts: str, said: str) -> None:
    """One line, and none beside a torch for CPUs."""
    ask = f"wheels= {facts} usual_place=$USUAL PATH=/usr/bin:/bin; choose_horovod; echo $gpu"
    *lines, gpu = shell(tmp_path, ask, USUAL=str(tmp_path)).splitlines()
    assert gpu == "no GPUs" and len(lines) == bool(said) and said in "".join(lines)


BUILT = """
wheels= mpi=some horovod=0.28.1 python_abi=cp cache=$CACHE torch_version=2.11.0+cu130
nccl=/n/lib/libnccl.so.2 cudart=/c/lib/libcudart.so.13 nccl_version=2.28.9 toolkit_version=13.0; gpu=$(gpu_build)
"""


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A cache folder with the note of a Horovod that was built for GPUs."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    script(tmp_path / ".venv/bin/python", f'exec {sys.executable} "$@"')
    (tmp_path / "cache/one").mkdir(parents=True)
    (tmp_path / "cache/one/made-for.txt").write_text(shell(tmp_path, BUILT + "horovod_purpose", CACHE="/nowhere"))
    return tmp_path


@pytest.mark.parametrize("other", ["torch_version=2.11.0+cpu", "nccl_version=2.29.7", "toolkit_version=13.1", "mpi=x"])
def test_a_kept_wheel_is_for_one_torch_nccl_toolkit_and_mpi(built: Path, other: str) -> None:
    """The folder's name follows from all of them."""
    ask = f"{BUILT}\nhorovod_purpose | fingerprint; {other}; gpu=$(gpu_build); horovod_purpose | fingerprint"
    assert len(set(shell(built, ask, CACHE=str(built / "cache")).split())) == 2


@pytest.mark.parametrize(
    ("other", "said"), [("", "13.0"), ("torch_version=2.12.0+cu130", "no"), ("nccl_version=2", "no")]
)
def test_a_kept_build_for_gpus_does_without_the_toolkit(built: Path, other: str, said: str) -> None:
    """The toolkit's version is then that of the build; a build for another torch or NCCL is none."""
    ask = f'{BUILT}\n toolkit_version= gpu= {other}; use_kept_build && echo "$toolkit_version" || echo no'
    assert shell(built, ask, CACHE=str(built / "cache")) == f"{said}\n"


@pytest.mark.ranks
def test_horovods_library_looks_for_others_only_where_it_is_installed() -> None:
    """No folder of the build, and no other environment, is in its run path; it has no symbols for debuggers."""
    (library,) = Path(sysconfig.get_path("purelib")).glob("horovod/torch/mpi_lib_v2*.so")
    said = subprocess.run(["readelf", "-dS", library], capture_output=True, text=True, check=True).stdout
    (path,) = re.findall(r"(?:RUNPATH|RPATH).*\[(.*)\]", said)
    assert path.split(":")[0] == "$ORIGIN/../../../.."
    assert not [place for place in path.split(":") if "tmp" in place or ".venv" in place], path
    assert ".debug_info" not in said
