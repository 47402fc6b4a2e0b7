"""Cameras that a trained encoder does not look through."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, PolicyConfig, ResNetEncoderConfig, TrainConfig
from imf_jax.models.encoders.resnet import ResNetEncoder
from imf_jax.models.policy import Policy, build_policy
from imf_jax.training.sight import FRAMES, STILL, blind_cameras, keypoint_spread

CONFIG = ResNetEncoderConfig(("top", "front"), 40, 36, keypoints=3, width=16)


@pytest.fixture
def images() -> np.ndarray:
    """Pictures of 100 steps, in which a bright square moves."""
    images = np.full((100, 2, 40, 40, 3), 90, np.uint8)
    for step, (row, column) in enumerate(np.random.default_rng(0).integers(0, 30, (100, 2))):
        images[step, :, row : row + 10, column : column + 10] = 250
    return images


def kill(encoder: ResNetEncoder, camera: int) -> None:
    """Take the differences between places out of the features of a camera, as a training did that went blind."""
    for block in encoder.network.backbone.blocks:
        for norm in (block.norm2, *([block.shortcut_norm] if block.projects else [])):
            norm.norm.scale[...] = norm.norm.scale[...].at[camera].set(0)


def test_keypoints_of_a_dead_camera_stand_still(images: np.ndarray) -> None:
    encoder = ResNetEncoder(CONFIG, rngs=nnx.Rngs(0))
    alive = keypoint_spread(encoder, images)
    assert alive["top"] > 5 * STILL
    assert alive["front"] > 5 * STILL
    kill(encoder, 1)
    dead = keypoint_spread(encoder, images)
    assert dead["top"] == pytest.approx(alive["top"])
    assert dead["front"] < STILL / 10


def test_a_few_frames_all_over_the_demonstrations_are_read(images: np.ndarray) -> None:
    read = []

    class Rows:
        shape = images.shape

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            read.extend(rows.tolist())
            return images[rows]

    keypoint_spread(ResNetEncoder(CONFIG, rngs=nnx.Rngs(0)), Rows())
    assert (read[0], read[-1], len(read)) == (0, 99, FRAMES)


def policy(encoder: ResNetEncoderConfig | None) -> Policy:
    head = AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=2)
    config = PolicyConfig(head=head) if encoder is None else PolicyConfig(head=head, encoder=encoder)
    return build_policy(TrainConfig(policy=config), SPACES, 7)


def test_a_blind_policy_is_told_with_the_camera_and_what_helps(images: np.ndarray) -> None:
    sees = policy(CONFIG)
    assert blind_cameras(sees, images) is None
    kill(sees.conditioning.encoder, 0)
    line = blind_cameras(sees, images)
    assert line is not None
    assert "does not look through top (" in line
    assert "front" not in line
    assert "--optimizer.learning-rate" in line


def test_a_policy_without_such_an_encoder_is_not_looked_at(images: np.ndarray) -> None:
    assert blind_cameras(policy(None), images) is None


def test_encoders_begin_with_keypoints_that_move() -> None:
    """Ten times as far as LeCun's rule alone moves them; with that a camera dies in training."""
    random = np.random.default_rng(1)
    pictures = random.integers(0, 256, (16, 2, 40, 40, 3), np.uint8)
    encoder = ResNetEncoder(CONFIG, rngs=nnx.Rngs(0))
    moved = keypoint_spread(encoder, pictures)
    kernel = encoder.network.keypoint_maps.kernel
    channels = kernel.shape[-2]
    assert float(jnp.std(kernel[...])) == pytest.approx(10 / np.sqrt(channels), rel=0.15)
    kernel[...] = kernel[...] / 10
    assert min(moved.values()) > 3 * max(keypoint_spread(encoder, pictures).values())
