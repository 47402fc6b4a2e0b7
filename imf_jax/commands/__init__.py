"""Command lines, one file each; `scripts/` and the console entry points run the same functions."""
