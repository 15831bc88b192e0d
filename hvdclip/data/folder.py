"""Where the user's data is."""

import os
from pathlib import Path


def data_folder(root: str | None, name: str) -> Path:
    """root, by default the environment variable HVDCLIP_DATA; ValueError names the data that needs one of them."""
    root = root or os.environ.get("HVDCLIP_DATA")
    if not root:
        raise ValueError(f"{name} needs a data folder: set data.root or the environment variable HVDCLIP_DATA")
    return Path(root).expanduser()
