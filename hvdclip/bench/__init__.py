"""Measurements against what else there is, as ratios of medians of interleaved blocks."""
