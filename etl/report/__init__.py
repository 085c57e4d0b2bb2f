"""The report: one HTML file that shows whether the results of a dataset are right."""
