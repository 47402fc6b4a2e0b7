"""The real encoder (ViT tiny, patch 14, 224 px, projector 2048) against PyTorch and transformers.

Run by `make parity`, which needs torch and transformers; `make test` does not run it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_lewm import KINDS, NAMINGS, Lewm, fuse, preprocess, save
from transformers import ViTConfig

from imf_jax.conversion.lewm import Args, convert
from imf_jax.models.encoders.lewm import load
from imf_jax.models.encoders.preprocess import fuse_views
from imf_jax.models.encoders.preprocess import preprocess as our_preprocess
from imf_jax.models.encoders.vit import position_table

pytestmark = pytest.mark.optimized

MAX_EMBEDDING_ERROR = 1e-5
MAX_CLASS_FEATURE_ERROR = 2e-5
MAX_PREPROCESS_ERROR = 1e-4
MAX_POSITION_ERROR = 1e-5


@pytest.fixture(scope="module")
def model() -> Lewm:
    """The encoder with random weights and running statistics."""
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        patch_size=14,
        image_size=224,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )
    model = Lewm(config, projector_hidden=2048, output=192, seed=1)
    assert sum(p.numel() for p in model.encoder.parameters()) == 5_501_376
    assert len(model.encoder.state_dict()) == 198
    assert sum(p.numel() for p in model.projector.parameters()) == 792_768
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth pictures and noise."""
    random = np.random.default_rng(2)
    coarse = random.integers(0, 256, (2, 7, 7, 3), np.uint8)
    smooth = coarse.repeat(32, axis=1).repeat(32, axis=2)
    return np.concatenate([smooth, random.integers(0, 256, (2, 224, 224, 3), np.uint8)])


def largest_error(ours: jax.Array, theirs: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float(np.abs(np.asarray(ours) - theirs.detach().numpy()).max())


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_matches(kind: str, naming: str, model: Lewm, images: np.ndarray, tmp_path: Path) -> None:
    report = convert(Args(save(model, tmp_path, kind, naming), tmp_path / "out"))
    assert len(report.used) == 198 + 8 - 2 + 2
    encoder = load(tmp_path / "out")
    pixels = preprocess(images, 224)
    with jax.default_matmul_precision("highest"):
        class_error = largest_error(encoder.class_feature(images), model.class_feature(pixels))
        error = largest_error(encoder(images), model(pixels))
    print(f"{kind} {naming}: class feature {class_error:.2e}, embedding {error:.2e}")
    assert class_error <= MAX_CLASS_FEATURE_ERROR
    assert error <= MAX_EMBEDDING_ERROR


@pytest.mark.parametrize("fusion", ["row", "grid"])
def test_fused_views_match(fusion: str, model: Lewm, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    views = {name: random.integers(0, 256, (2, 256, 256, 3), np.uint8) for name in ("top", "front", "r_vis")}
    convert(Args(save(model, tmp_path, "plain", "new"), tmp_path / "out"))
    pixels = preprocess(fuse(views, fusion), 224)
    assert tuple(pixels.shape[2:]) == ((224, 672) if fusion == "row" else (224, 224))
    assert largest_error(our_preprocess(fuse_views(views, fusion), 224), pixels.permute(0, 2, 3, 1)) <= 1e-4
    with jax.default_matmul_precision("highest"):
        error = largest_error(load(tmp_path / "out", fusion=fusion)(views), model(pixels))
    print(f"{fusion}: embedding {error:.2e}")
    assert error <= MAX_EMBEDDING_ERROR


def test_maps_of_patches_match(model: Lewm, tmp_path: Path) -> None:
    cameras = ("r_vis", "top", "front")
    images = np.random.default_rng(5).integers(0, 256, (2, 3, 256, 256, 3), np.uint8)
    convert(Args(save(model, tmp_path, "plain", "new"), tmp_path / "out"))
    fused = fuse({name: images[:, i] for i, name in enumerate(cameras)}, "row")
    theirs = model.patch_features(preprocess(fused, 224)).reshape(2, 16, 3, 16, 192).transpose(1, 2)
    with jax.default_matmul_precision("highest"):
        ours = load(tmp_path / "out", fusion="row", cameras=cameras).maps(images)
    assert (ours.shape, ours.dtype) == ((2, 3, 16, 16, 192), np.float16)
    # Half precision: a step is 2^-11 of a value, of which the largest are about 4.
    assert largest_error(ours, theirs) <= 2**-9 + MAX_CLASS_FEATURE_ERROR


@pytest.mark.parametrize("size", [(256, 256), (256, 768), (512, 512), (100, 130), (480, 640), (225, 223), (37, 224)])
def test_preprocessing_matches(size: tuple[int, int]) -> None:
    images = np.random.default_rng(4).integers(0, 256, (1, *size, 3), np.uint8)
    error = largest_error(our_preprocess(images, 224), preprocess(images, 224).permute(0, 2, 3, 1))
    print(f"{size}: {error:.2e}")
    assert error <= MAX_PREPROCESS_ERROR


@pytest.mark.parametrize(("height", "width"), [(16, 48), (48, 16), (8, 32), (13, 17), (16, 16)])
def test_interpolated_positions_match(height: int, width: int, model: Lewm) -> None:
    embeddings = model.encoder.embeddings
    tokens = torch.zeros(1, 1 + height * width, 192)
    theirs = embeddings.interpolate_pos_encoding(tokens, 14 * height, 14 * width)[0]
    stored = jnp.asarray(embeddings.position_embeddings[0].detach().numpy())
    ours = position_table(stored, 16, height, width)
    assert largest_error(ours, theirs) <= MAX_POSITION_ERROR


def test_positions_of_unit_size_match(model: Lewm) -> None:
    table = np.random.default_rng(5).normal(size=(1, 257, 192)).astype(np.float32)
    embeddings = model.encoder.embeddings
    stored = embeddings.position_embeddings.data
    embeddings.position_embeddings.data = torch.tensor(table)
    theirs = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + 16 * 48, 192), 224, 672)[0]
    embeddings.position_embeddings.data = stored
    assert largest_error(position_table(jnp.asarray(table[0]), 16, 16, 48), theirs) <= MAX_POSITION_ERROR
