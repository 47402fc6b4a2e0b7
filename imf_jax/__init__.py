"""Imitation learning in JAX: one-step generative policies in batched MuJoCo scenes."""

__version__ = "0.2.0"
