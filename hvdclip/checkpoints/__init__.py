"""Checkpoints: folders with all that a run needs to continue, written in the background, checked before use."""
