"""The frozen ImageNet encoder against the PyTorch model `efficientnet-lite-pytorch`, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

from imf_jax.models.encoders import efficientnet
from imf_jax.sim.assets import asset_folder

pytestmark = pytest.mark.optimized

MAX_ERROR = 1e-4
"""Absolute, of the maps that policies read by default: stride 16 of 128 pixels, with values in the tens."""
MAX_RELATIVE_ERROR = 1e-5
"""Of every map, as a share of its largest value."""
HALF_PRECISION = 2**-11


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    """The reference, in evaluation; its padding follows the size of the picture."""
    model = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = asset_folder(efficientnet.PACKAGE, "models", efficientnet.INSTALL) / efficientnet.WEIGHTS_FILE
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@torch.no_grad()
def reference_map(model: EfficientNet, pixels: np.ndarray, blocks: int) -> np.ndarray:
    """Map of features after so many blocks, (B, h, w, channels)."""
    x = torch.tensor(pixels).permute(0, 3, 1, 2)
    x = model._swish(model._bn0(model._conv_stem(x)))
    for block in model._blocks[:blocks]:
        x = block(x)
    return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(128, 128), (224, 224), (97, 130)])
def test_maps_match(model: EfficientNet, stride: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (1, 7, 7, 3), np.uint8)
    smooth = coarse.repeat(-(-size[0] // 7), axis=1).repeat(-(-size[1] // 7), axis=2)[:, : size[0], : size[1]]
    images = np.concatenate([smooth, random.integers(0, 256, (1, *size, 3), np.uint8)])
    encoder = efficientnet.load(stride)
    pixels = np.asarray(efficientnet.normalize(jnp.asarray(images)))
    expected = reference_map(model, pixels, len(encoder.sizes.blocks))
    weights = {name: value[...] for name, value in encoder.weights.items()}
    ours = jax.jit(efficientnet.feature_map, static_argnames="sizes")(weights, pixels, encoder.sizes)
    assert ours.shape == expected.shape
    error, scale = np.abs(np.asarray(ours) - expected).max(), np.abs(expected).max()
    print(f"stride {stride}, {size}: error {error:.2e}, largest value {scale:.1f}")
    assert error <= MAX_RELATIVE_ERROR * scale
    assert (stride, size) != (16, (128, 128)) or error <= MAX_ERROR
    half = np.abs(np.asarray(encoder(images), np.float32) - expected).max()
    assert half <= (MAX_RELATIVE_ERROR + HALF_PRECISION) * scale
