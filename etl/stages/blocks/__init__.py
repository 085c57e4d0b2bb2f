"""Pure functions on arrays: frames in, features out."""
