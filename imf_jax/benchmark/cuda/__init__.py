"""Proofs of the CUDA path that need no GPU: what lowers, compiles and fits on an H100; see `check.py`."""
