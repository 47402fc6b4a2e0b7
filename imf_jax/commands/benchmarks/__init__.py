"""The subcommands of benchmark.py: their settings, and which measurement each starts."""
