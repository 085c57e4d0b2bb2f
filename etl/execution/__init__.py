"""The driver's side of a run: plan, workers, scheduling, resume."""
