"""The communicator of a configuration, in a process that a launcher may have started."""

from __future__ import annotations

from hvdclip.comm import Communicator
from hvdclip.comm.environment import launched
from hvdclip.config import Config


def start(config: Config) -> Communicator:
    """RuntimeError for a launch that would not be one world of the announced ranks."""
    on_nodes = config.algorithm.get("node_interval") is not None
    return launched(config.comm.backend, on_nodes, may_fuse(config), config.comm.host_staging)


def may_fuse(config: Config) -> bool:
    """Whether Horovod may join messages: those that meet in one of its cycles are summed in another order each time."""
    return config.algorithm["name"] != "bucket_clip" and not config.train.sync_batch_norm
