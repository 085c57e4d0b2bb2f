"""Readers of raw datasets, one per dataset, behind one interface."""
