"""Cameras that look in a slightly different direction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from typing_extensions import override

from imf_jax import seeds
from imf_jax.rollout.perturbations.base import Array, PerturbedProgram
from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.sim.quaternions import rotate

TURN = math.radians(1.0)
"""Standard deviation of the rotation about each axis of a camera at level 1 [rad]."""


@dataclass(frozen=True)
class CameraPose(PerturbedProgram):
    """Each camera is turned about its centre by a rotation vector ~ N(0, (level 1 deg)^2 I), one draw per episode.

    Pixels come from where their turned rays meet the picture, interpolated linearly: what a turned camera would see,
    but that the border is repeated where it looks beyond it. So it is the same for every backend and renderer. The
    position of a camera does not change.

    Attributes:
        fovy: vertical field of view of each of the cameras [degrees].
    """

    fovy: tuple[float, ...] = ()

    @classmethod
    @override
    def settings(cls, program: PlanProgram, level: float, fovy: Mapping[str, float]) -> tuple[tuple[float, ...]]:
        return (tuple(fovy[camera] for camera in program.cameras),)

    @override
    def observe(self, keys: Array, steps: Array, level: Array, observations: dict[str, Array]) -> dict[str, Array]:
        pictures = observations["images"]  # (B, To, C, H, W, 3)
        vectors = level * TURN * jax.vmap(lambda key: seeds.normal(key, (len(self.fovy), 3)))(keys)
        half = jnp.concatenate([jnp.ones_like(vectors[..., :1]), 0.5 * vectors], axis=-1)
        turns = half / jnp.linalg.norm(half, axis=-1, keepdims=True)
        tangents = jnp.tan(jnp.radians(jnp.array(self.fovy, jnp.float32)) / 2)
        turned = jax.vmap(jax.vmap(turn_picture, (0, 0, 0), 0), (0, 0, None))(
            jnp.moveaxis(pictures, 2, 1), turns, tangents
        )
        return observations | {"images": jnp.moveaxis(turned, 1, 2)}


def turn_picture(pictures: Array, turn: Array, tangent: Array) -> Array:
    """Pictures of a camera as it would see them after it has turned about its centre.

    Args:
        pictures: uint8 (T, H, W, 3).
        turn: (4,) unit quaternion wxyz, in the frame of the camera: x right, y up, looking along -z.
        tangent: of half the vertical field of view.
    """
    height, width = pictures.shape[1:3]
    focal = height / 2 / tangent
    v, u = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    rays = jnp.stack([(u - width / 2) / focal, (height / 2 - v) / focal, -jnp.ones_like(u)], axis=-1)
    x, y, z = jnp.moveaxis(jnp.asarray(rotate(jnp.broadcast_to(turn, (*rays.shape[:2], 4)), rays)), -1, 0)
    at = jnp.stack([height / 2 + focal * y / z - 0.5, width / 2 - focal * x / z - 0.5])

    def sample(channel: Array) -> Array:
        return map_coordinates(channel, list(at), order=1, mode="nearest")

    channels = jnp.moveaxis(pictures.astype(jnp.float32), -1, 1)  # (T, 3, H, W)
    sampled = jax.vmap(jax.vmap(sample))(channels)
    return jnp.moveaxis(jnp.clip(jnp.round(sampled), 0, 255).astype(pictures.dtype), 1, -1)
