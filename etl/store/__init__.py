"""The workspace on disk: partitions, receipts, listings, atomic files."""
