"""Splits of seeds, and random keys and draws that follow from their seed alone, whatever JAX is configured to do.

`jax.random` gives other numbers under `jax_threefry_partitionable`, `jax_default_prng_impl`, `jax_random_seed_offset`
and `jax_enable_x64`, which a user's environment may set. All random numbers of this package are drawn here, with the
generator, its variant and the types named: scenes, noise, batches and initial weights are the same everywhere.
"""

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.config import SEEDS, require_seed

Array = jax.Array
Shape = Sequence[int]

GENERATOR = "threefry2x32"

_SCENE_STREAM = 0
_NOISE_STREAM = 1
_DISTURBANCE_STREAM = 2
_PERTURBATION_STREAM = 2  # of the key of a scene; 0 and 1 are what `split` makes of it
INIT_STREAM = 0
STEP_STREAM = 1

Split = Literal["test", "validation", "demonstration", "recording"]
SPLITS: tuple[Split, ...] = ("test", "validation", "demonstration", "recording")

T = TypeVar("T")


def pinned_streams() -> AbstractContextManager[None]:
    """Within it, also while a function is traced, `jax.random` draws as it does by default, for code of libraries."""
    return jax.threefry_partitionable(True)


def _drawn(draw: Callable[..., T], *arguments: Any) -> T:
    with pinned_streams():
        return draw(*arguments)


def make_key(seed: Array | int) -> Array:
    """The typed key of a seed, 0 <= seed < 2^32: a scalar, like `jax.random.key(seed)` by default."""
    return typed_keys(jnp.stack([jnp.uint32(0), jnp.asarray(seed, jnp.uint32)]))


def typed_keys(data: Array | np.ndarray) -> Array:
    """Typed keys (...) from their data, uint32 (..., 2)."""
    return jax.random.wrap_key_data(jnp.asarray(data), impl=GENERATOR)


def key_data(keys: Any) -> Array:
    """Data of typed keys (...), uint32 (..., 2)."""
    return jax.random.key_data(keys)


def fold_in(key: Array, number: Array | int) -> Array:
    """The key that follows from a key and a number, a scalar of 32 bits."""
    return jax.random.fold_in(key, number)


def split(key: Array) -> tuple[Array, Array]:
    """Two keys that follow from one."""
    first, second = _drawn(jax.random.split, key)
    return first, second


def uniform(key: Array, shape: Shape = (), low: Array | float = 0.0, high: Array | float = 1.0) -> Array:
    """Uniform in [low, high), float32."""
    return _drawn(jax.random.uniform, key, tuple(shape), jnp.float32, low, high)


def normal(key: Array, shape: Shape = ()) -> Array:
    """Standard normal, float32."""
    return _drawn(jax.random.normal, key, tuple(shape), jnp.float32)


def randint(key: Array, shape: Shape, low: int, high: int) -> Array:
    """Uniform whole numbers in low .. high - 1, int32."""
    return _drawn(jax.random.randint, key, tuple(shape), low, high, jnp.int32)


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


def _episode_key(seed: Array, episode: Array, stream: int) -> Array:
    return fold_in(fold_in(make_key(seed), episode), stream)


@jax.jit
def _scene_keys(seed: Array, episodes: Array) -> Array:
    return jax.vmap(lambda episode: _episode_key(seed, episode, _SCENE_STREAM))(episodes)


def scene_keys(seed: int, episodes: Sequence[int] | np.ndarray) -> Array:
    """Keys of the random scenes: fold_in(fold_in(key(seed), episode), 0).

    Args:
        seed: 0 <= seed < 2^32.
        episodes: (B,) episode indices.

    Returns:
        (B,) typed JAX keys.
    """
    return _scene_keys(jnp.uint32(seed), jnp.asarray(episodes, jnp.uint32))


def scene_key(seed: Array, episode: Array) -> Array:
    """One of the `scene_keys`, traceable; scalars, uint32."""
    return _episode_key(seed, episode, _SCENE_STREAM)


def perturbation_key(key: Array, name: str) -> Array:
    """Key of a perturbation of an episode: fold_in(fold_in(key, 2), CRC-32 of its name). Traceable.

    Nothing else that is drawn for the episode follows from it, and no other perturbation.

    Args:
        key: of the scene, see `scene_keys`.
        name: of the perturbation.
    """
    return fold_in(fold_in(key, _PERTURBATION_STREAM), zlib.crc32(name.encode()))


def noise_keys(seed: Array | int, episodes: Array | np.ndarray, replans: Array | np.ndarray) -> Array:
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

    def one(episode: Array, replan: Array) -> Array:
        return fold_in(_episode_key(seed, episode, _NOISE_STREAM), replan)

    return jax.vmap(one)(jnp.asarray(episodes, jnp.uint32), jnp.asarray(replans, jnp.uint32))


def disturbance_key(seed: Array, episode: Array) -> Array:
    """Key of the noise of a demonstration: fold_in(fold_in(key(seed), episode), 2). Traceable; scalars, uint32."""
    return _episode_key(seed, episode, _DISTURBANCE_STREAM)


def root_key(seed: int, stream: int) -> Array:
    """Key of a stream of training: fold_in(key(seed), stream)."""
    return fold_in(make_key(seed), stream)
