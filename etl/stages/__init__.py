"""The three stages: annotate, estimate, merge."""
