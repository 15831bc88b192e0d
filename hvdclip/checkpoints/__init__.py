"""Checkpoints: folders with all that a run needs to continue, written in the background, checked before use."""

from hvdclip.checkpoints.copies import on_host
from hvdclip.checkpoints.manifest import MANIFEST, Manifest
from hvdclip.checkpoints.store import Damage, Store
from hvdclip.checkpoints.writer import Contents, Writer

__all__ = ["MANIFEST", "Contents", "Damage", "Manifest", "Store", "Writer", "on_host"]
