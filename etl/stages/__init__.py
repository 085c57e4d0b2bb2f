"""The three stages (annotate, estimate, merge) and the blocks that they are made of."""
