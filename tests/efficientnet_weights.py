"""Random weights of EfficientNets under the names of the PyTorch model, and a tiny encoder made of such."""

import numpy as np

from imf_jax.models.encoders.efficientnet import Block, EfficientNetEncoder, EfficientNetSizes, fold

TINY = EfficientNetSizes(4, (Block(4, 4, 6, 3, 1), Block(6, 12, 5, 5, 2), Block(5, 10, 5, 3, 1)))
"""A quarter of a picture's height and width; every kind of block: without expansion, with a stride, with a shortcut."""


def state_dict(sizes: EfficientNetSizes, seed: int = 0) -> dict[str, np.ndarray]:
    """Convolutions and batch normalisations, float32 by their names."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def add(convolution: str, norm: str, out: int, inputs: int, size: int) -> None:
        kernel = random.normal(size=(out, inputs, size, size)) / np.sqrt(inputs * size * size)
        values = {
            f"{convolution}.weight": kernel,
            f"{norm}.weight": random.uniform(0.5, 2, out),
            f"{norm}.bias": random.normal(size=out),
            f"{norm}.running_mean": random.normal(size=out),
            f"{norm}.running_var": random.uniform(0.5, 2, out),
        }
        tensors.update({name: value.astype(np.float32) for name, value in values.items()})

    add("_conv_stem", "_bn0", sizes.stem, 3, 3)
    for n, block in enumerate(sizes.blocks):
        if block.hidden != block.channels_in:
            add(f"_blocks.{n}._expand_conv", f"_blocks.{n}._bn0", block.hidden, block.channels_in, 1)
        add(f"_blocks.{n}._depthwise_conv", f"_blocks.{n}._bn1", block.hidden, 1, block.kernel)
        add(f"_blocks.{n}._project_conv", f"_blocks.{n}._bn2", block.channels, block.hidden, 1)
    return tensors


def tiny_encoder(seed: int = 0) -> EfficientNetEncoder:
    """An encoder with `TINY` sizes and random weights."""
    return EfficientNetEncoder(fold(state_dict(TINY, seed), TINY), TINY, fingerprint=f"tiny {seed}")
