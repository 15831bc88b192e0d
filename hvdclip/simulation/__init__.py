"""A configuration on many ranks in one process, and what the theory predicts for it."""

from .report import plot, speed_up, table
from .run import run
from .trace import Trace

__all__ = ["Trace", "plot", "run", "speed_up", "table"]
