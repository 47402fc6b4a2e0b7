"""Relative poses, which a policy that does not see can be given."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.spatial.transform import Rotation
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, PolicyConfig, StateEncoderConfig
from imf_jax.errors import ArgumentError
from imf_jax.models.conditioning import relative_poses
from imf_jax.models.policy import Policy

HEAD = AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=2)


def pose(position: Any, rotation: Rotation) -> np.ndarray:
    return np.concatenate([position, rotation.as_quat(scalar_first=True)]).astype(np.float32)


def test_relative_poses_are_those_in_the_frame_of_the_first_object_scaled_and_cut_off():
    first = Rotation.from_euler("xyz", [0.3, -0.2, 1.1])
    offset, small = np.array([0.01, -0.2, 0.03]), Rotation.from_rotvec([0.02, 0.0, -0.04])
    place = np.array([0.4, 0.1, 0.2])
    objects = np.stack([pose(place, first), pose(place + first.apply(offset), first * small)])
    near, far = [0.2, -1.0, 0.6, 0.04, 0.0, -0.08], [0.04, -0.8, 0.12, 0.008, 0.0, -0.016]
    expected = near + far
    np.testing.assert_allclose(relative_poses(jnp.asarray(objects), 0.05), expected, atol=1e-4)
    objects[1, 3:] *= -1  # the same rotation
    np.testing.assert_allclose(relative_poses(jnp.asarray(objects), 0.05), expected, atol=1e-4)
    assert relative_poses(jnp.zeros((4, 2, 3, 7)), 0.05).shape == (4, 2, 36)


def test_a_policy_is_conditioned_on_them_only_when_asked():
    plain = Policy(PolicyConfig(head=HEAD), SPACES, 14, rngs=nnx.Rngs(0))
    near = Policy(PolicyConfig(head=HEAD, encoder=StateEncoderConfig(0.05)), SPACES, 14, rngs=nnx.Rngs(0))
    assert near.conditioning.dim == plain.conditioning.dim + 12 == 16 + 14 + 12
    objects = np.stack([pose([0.4, 0.1, 0.2], Rotation.identity()), pose([0.41, 0.1, 0.2], Rotation.identity())])
    observation = {"state": np.zeros((3, 2, 16), np.float32), "env_state": np.tile(objects.reshape(-1), (3, 2, 1))}
    tokens = np.asarray(near.condition(observation))
    assert tokens.shape == (3, 2, 42)
    expected = [0.2, 0, 0, 0, 0, 0, 0.04, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(tokens[..., -12:], np.broadcast_to(expected, (3, 2, 12)), atol=1e-5)


def test_a_scene_state_that_is_not_poses_is_refused():
    for width in (7, 15):
        with pytest.raises(ArgumentError, match=f"two or more poses of 7 entries, .* has {width}"):
            Policy(PolicyConfig(head=HEAD, encoder=StateEncoderConfig(0.05)), SPACES, width, rngs=nnx.Rngs(0))
    with pytest.raises(ArgumentError, match="must be a distance above 0"):
        StateEncoderConfig(-1.0)
