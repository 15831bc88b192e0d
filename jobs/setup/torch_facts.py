"""Print what a build beside torch must know of it, as assignments for a shell.

The libraries are those that this process has loaded with torch, wherever they came from.
"""

import re
import shlex
import sysconfig
from pathlib import Path

import torch


def loaded(name: str) -> str:
    """Return the path of the loaded library, or nothing."""
    found = re.search(rf"\S*/{re.escape(name)}(\.\d+)*$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return found[0] if found else ""


nccl = loaded("libnccl.so")
FACTS = {
    "torch_version": torch.__version__,
    "torch_folder": torch.__path__[0],
    "torch_cuda": torch.version.cuda or "",
    "torch_rocm": torch.version.hip or "",
    "nccl": nccl,
    "nccl_version": ".".join(map(str, torch.cuda.nccl.version())) if nccl else "",
    "cudart": loaded("libcudart.so"),
    "gpus": torch.cuda.device_count(),
    "python_abi": sysconfig.get_config_var("SOABI"),
}
for name, value in FACTS.items():
    print(f"{name}={shlex.quote(str(value))}")
