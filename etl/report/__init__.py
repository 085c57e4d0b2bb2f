"""Report and pictures that show whether the results of a dataset are right."""
