"""Images and videos to frames."""
