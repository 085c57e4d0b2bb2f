"""Renders miniature datasets with exactly known truth."""
