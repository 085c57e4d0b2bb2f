"""Opens, selects, tabulates and exports results."""
