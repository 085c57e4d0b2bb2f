"""Checks that the detections of a sequence belong to its annotations."""
