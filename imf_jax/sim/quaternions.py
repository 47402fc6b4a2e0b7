"""Quaternions (wxyz) and poses, batched over leading axes, for numpy and JAX arrays alike.

A pose is (..., 7): position [m] and unit quaternion. `R(q)` below is the rotation matrix of q.
"""

import jax.numpy as jnp
import numpy as np

from imf_jax.sim.arrays import Array


def multiply(a: Array, b: Array) -> Array:
    """Product (..., 4) of quaternions: R(multiply(a, b)) = R(a) R(b)."""
    aw, ax, ay, az = (a[..., i] for i in range(4))
    bw, bx, by, bz = (b[..., i] for i in range(4))
    xp = np if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else jnp
    return xp.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def conjugate(q: Array) -> Array:
    """Conjugate (..., 4): the inverse of a unit quaternion."""
    return q * np.array([1.0, -1.0, -1.0, -1.0], np.float32)


def rotate(q: Array, vector: Array) -> Array:
    """Rotated vectors R(q) v, (..., 3)."""
    pure = vector[..., [0, 0, 1, 2]] * np.array([0.0, 1.0, 1.0, 1.0], np.float32)
    return multiply(multiply(q, pure), conjugate(q))[..., 1:]


def compose(a: Array, b: Array) -> Array:
    """Pose (..., 7) of b in the frame in which a is given, where b is given in the frame of a."""
    xp = np if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else jnp
    position = a[..., :3] + rotate(a[..., 3:], b[..., :3])
    return xp.concatenate([position, multiply(a[..., 3:], b[..., 3:])], axis=-1)


def invert(a: Array) -> Array:
    """Inverse (..., 7) of poses: composed with them it is the identity."""
    xp = np if isinstance(a, np.ndarray) else jnp
    back = conjugate(a[..., 3:])
    return xp.concatenate([-rotate(back, a[..., :3]), back], axis=-1)
