"""Open, select, tabulate and export results."""
