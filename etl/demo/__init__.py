"""Renders small datasets with known truth and runs the pipeline on them."""
