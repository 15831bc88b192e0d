"""The configuration and the communicator of a command, in a process that a launcher may have started.

Modules that need torch are imported when they are used, so that a command can be listed and explained without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvdclip.comm import Communicator
    from hvdclip.config import Config


def load(file: Path, overrides: Sequence[str]) -> Config:
    """The checked configuration of a YAML file; ConfigError has one line per mistake."""
    from hvdclip import config

    return config.load(file, overrides)


def start(config: Config) -> Communicator:
    """RuntimeError for a launch that would not give one world of the announced ranks."""
    from hvdclip.comm import launched

    on_nodes = config.algorithm.get("node_interval") is not None
    return launched(config.comm.backend, on_nodes, may_fuse(config), config.comm.host_staging)


def may_fuse(config: Config) -> bool:
    """Whether Horovod may join messages: messages in one of its cycles are then summed in a varying order."""
    return config.algorithm["name"] != "bucket_clip" and not config.train.sync_batch_norm
