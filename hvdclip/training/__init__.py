"""Training from a configuration: tasks, the loop, evaluation, and what a run leaves on disk."""
