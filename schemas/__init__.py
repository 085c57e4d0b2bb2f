"""Names, dimensions, dtypes and units of everything that xycd reads and writes.

This package imports nothing else of the project: it is what the stages agree on.
"""
