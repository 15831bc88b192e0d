"""Checkpoints: folders that hold all that a run needs to go on, written in the background, checked before use."""
