"""Data on a node's own disk, to which they are copied before training, once per node."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hvdclip.comm import Communicator
from hvdclip.config import Config
from hvdclip.data.folder import data_folder
from hvdclip.sources import NAMES, copy, files


def stage(config: Config, comm: Communicator) -> Config:
    """The configuration with which this rank reads the data from its node's disk; the node's first rank copies them.

    ValueError if `train.stage` names a variable that is not set.
    """
    if config.train.stage is None:
        return config
    disk = os.path.expanduser(os.path.expandvars(config.train.stage))
    if "$" in disk or not disk:
        raise ValueError(
            f"train.stage is {config.train.stage!r}, but a variable in it is not set, or empty, on this host"
        )
    name = str(config.data.get("file", config.data["name"]))
    paths = files(name) if name in NAMES else [f"libsvm/{name}"]
    root = data_folder(config.data.get("root"), name)
    paths = [path if (root / path).exists() else path.removesuffix(".gz") for path in paths]
    if comm.local_rank == 0:
        copy(root, Path(disk), paths)
    return replace(config, data=config.data | {"root": disk})
