"""Measurements against alternatives, as ratios of medians of interleaved blocks."""
