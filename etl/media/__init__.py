"""Decodes images and videos to frames."""
