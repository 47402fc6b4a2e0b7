"""Conversion of PyTorch checkpoints; nothing in them is executed."""
