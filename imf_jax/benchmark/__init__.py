"""Measurements of speed against other implementations, both sides in one process and on the same threads."""
