"""The model set `embedded`: BlazePose on LiteRT."""
