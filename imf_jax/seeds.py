"""Random keys and splits of seeds.

Scene and planning noise are pure functions of (seed, episode, replan): the same for every backend, batch size,
policy and order of episodes. Threefry is named explicitly so that the keys do not follow JAX's default generator.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.config import SEEDS, require_seed

_SCENE_STREAM = 0
_NOISE_STREAM = 1
_DISTURBANCE_STREAM = 2
Split = Literal["test", "validation", "demonstration", "recording"]
SPLITS: tuple[Split, ...] = ("test", "validation", "demonstration", "recording")


def split_seed(split: Split, seed: int) -> int:
    """Seed of the keys of a split, chosen so that no split ever sees a scene of another.

    Test seeds stay as they are; the seeds of the other splits are moved into ranges of their own within 32 bits.

    Args:
        split: what the scenes serve.
        seed: the user's seed, 0 <= seed < 2^30.

    Raises:
        ArgumentError: the seed lies outside that range and would reach into another split.
    """
    require_seed(seed)
    return SPLITS.index(split) * SEEDS + seed


def _episode_key(seed: jax.Array, episode: jax.Array, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), episode), stream)


@jax.jit
def _scene_keys(seed: jax.Array, episodes: jax.Array) -> jax.Array:
    return jax.vmap(lambda episode: _episode_key(seed, episode, _SCENE_STREAM))(episodes)


def scene_keys(seed: int, episodes: Sequence[int] | np.ndarray) -> jax.Array:
    """Keys of the random scenes: fold_in(fold_in(key(seed), episode), 0).

    Args:
        seed: 0 <= seed < 2^32.
        episodes: (B,) episode indices.

    Returns:
        (B,) typed JAX keys.
    """
    return _scene_keys(jnp.uint32(seed), jnp.asarray(episodes, jnp.uint32))


def noise_keys(seed: jax.Array | int, episodes: jax.Array | np.ndarray, replans: jax.Array | np.ndarray) -> jax.Array:
    """Keys of the noise a plan starts from: fold_in(fold_in(fold_in(key(seed), episode), 1), replan).

    Traceable: called inside the compiled plan.

    Args:
        seed: scalar, 0 <= seed < 2^32.
        episodes: (B,) episode indices.
        replans: (B,) number of plans made before in each episode.

    Returns:
        (B,) typed JAX keys.
    """
    seed = jnp.asarray(seed, jnp.uint32)

    def one(episode: jax.Array, replan: jax.Array) -> jax.Array:
        return jax.random.fold_in(_episode_key(seed, episode, _NOISE_STREAM), replan)

    return jax.vmap(one)(jnp.asarray(episodes, jnp.uint32), jnp.asarray(replans, jnp.uint32))


def disturbance_key(seed: jax.Array, episode: jax.Array) -> jax.Array:
    """Key of the noise of a demonstration: fold_in(fold_in(key(seed), episode), 2). Traceable; scalars, uint32."""
    return _episode_key(seed, episode, _DISTURBANCE_STREAM)


INIT_STREAM = 0
STEP_STREAM = 1


def root_key(seed: int, stream: int) -> jax.Array:
    """Key fold_in(key(seed), stream); the generator is named so that it does not follow JAX's default."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stream)
