"""Print what a build against torch must know of it, one line each, in the order in which jobs/setup/torch.sh reads it.

The libraries are those that this process has loaded with torch, wherever they came from.
"""

import re
import sysconfig
from pathlib import Path

import torch


def loaded(name: str) -> str:
    """Return the path of the loaded library, or nothing."""
    found = re.search(rf"/.*/{re.escape(name)}(\.\d+)*$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return found[0] if found else ""


nccl = loaded("libnccl.so")
print(
    torch.__version__,
    torch.__path__[0],
    torch.version.cuda or "",
    torch.version.hip or "",
    nccl,
    ".".join(map(str, torch.cuda.nccl.version())) if nccl else "",
    loaded("libcudart.so"),
    torch.cuda.device_count(),
    sysconfig.get_config_var("SOABI"),
    sep="\n",
)
