"""Models, alignment, losses, training loop, tasks, metrics, ranking, pictures."""
