"""Quaternions and poses against MuJoCo's functions, for numpy and JAX arrays."""

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from imf_jax.sim import quaternions

RANDOM = np.random.default_rng(0)
A, B = (RANDOM.normal(size=(5, 7)).astype(np.float32) for _ in range(2))
for poses in (A, B):
    poses[:, 3:] /= np.linalg.norm(poses[:, 3:], axis=1, keepdims=True)


@pytest.mark.parametrize("xp", [np, jnp])
def test_poses_agree_with_mujoco(xp) -> None:
    composed = quaternions.compose(xp.asarray(A), xp.asarray(B))
    assert isinstance(composed, np.ndarray) == (xp is np)
    for a, b, result in zip(A.astype(float), B.astype(float), np.asarray(composed), strict=True):
        position, quaternion, matrix = np.zeros(3), np.zeros(4), np.zeros(9)
        mujoco.mju_mulPose(position, quaternion, a[:3], a[3:], b[:3], b[3:])
        np.testing.assert_allclose(result, np.concatenate([position, quaternion]), atol=1e-6)
        mujoco.mju_quat2Mat(matrix, a[3:])
        rotated = quaternions.rotate(xp.asarray(a[3:], xp.float32), xp.asarray(b[:3], xp.float32))
        np.testing.assert_allclose(rotated, matrix.reshape(3, 3) @ b[:3], atol=1e-6)


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_pose_composed_with_its_inverse_is_the_identity(xp) -> None:
    poses = xp.asarray(A)
    identity = np.broadcast_to([0, 0, 0, 1, 0, 0, 0], A.shape)
    np.testing.assert_allclose(quaternions.compose(poses, quaternions.invert(poses)), identity, atol=1e-6)
    np.testing.assert_allclose(quaternions.compose(quaternions.invert(poses), poses), identity, atol=1e-6)
