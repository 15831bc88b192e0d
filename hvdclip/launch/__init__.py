"""Jobs for SLURM: scripts that are rendered, submitted, followed and cancelled."""
