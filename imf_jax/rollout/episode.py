"""What identifies an episode (seed and index, hence its random keys) and what is recorded about it.

Scene and planning noise are pure functions of (seed, episode, replan): the same for every backend, batch size,
policy and order of episodes. Threefry is named explicitly so that the keys do not follow JAX's default generator.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.config import require

SCHEMA_VERSION = 1
"""Version of the JSON line of an `EpisodeRecord`; raised when a field changes its meaning."""

SEEDS_PER_SPLIT = 2**30
"""Seeds a user can choose from. Each split has a range of its own of this length inside the 32 bits of a key's seed."""

_SCENE_STREAM = 0
_NOISE_STREAM = 1
_DISTURBANCE_STREAM = 2

Status = Literal["success", "failure", "timeout", "error"]
STATUSES: tuple[Status, ...] = ("success", "failure", "timeout", "error")

Split = Literal["test", "validation", "demonstration", "recording"]
SPLITS: tuple[Split, ...] = ("test", "validation", "demonstration", "recording")


def split_seed(split: Split, seed: int) -> int:
    """The seed that keys are made from, so that no split ever sees a scene of another.

    Test seeds stay as they are; the seeds of the other splits are moved into ranges of their own.

    Args:
        split: what the scenes serve.
        seed: the user's seed, 0 <= seed < 2^30.

    Raises:
        ArgumentError: the seed lies outside that range and would reach into another split.
    """
    require(0 <= seed < SEEDS_PER_SPLIT, f"seed {seed} must lie in 0..{SEEDS_PER_SPLIT - 1}")
    return SPLITS.index(split) * SEEDS_PER_SPLIT + seed


def seed_split(seed: int) -> Split:
    """The split that a seed made by `split_seed` belongs to."""
    last = len(SPLITS) * SEEDS_PER_SPLIT - 1
    require(0 <= seed <= last, f"seed {seed} belongs to no split (0..{last})")
    return SPLITS[seed // SEEDS_PER_SPLIT]


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


@jax.jit
def _disturbance_keys(seed: jax.Array, episodes: jax.Array) -> jax.Array:
    return jax.vmap(lambda episode: _episode_key(seed, episode, _DISTURBANCE_STREAM))(episodes)


def disturbance_keys(seed: int, episodes: Sequence[int] | np.ndarray) -> jax.Array:
    """Keys of what disturbs a demonstration: fold_in(fold_in(key(seed), episode), 2), (B,) typed JAX keys."""
    return _disturbance_keys(jnp.uint32(seed), jnp.asarray(episodes, jnp.uint32))


@dataclass(frozen=True)
class EpisodeRecord:
    """One finished episode; one line of `episodes.jsonl`.

    Attributes:
        episode: index of the episode; with `seed` it determines the scene.
        seed: seed of the keys (every split has its own range, see `split_seed`).
        env_slot: which of the scenes simulated at once held the episode.
        status: success, failure (the task cannot be done any more), timeout (`max_steps` reached) or error.
        steps: control steps with a finite outcome.
        start_step: first step on the slot's own time line, which counts the steps of all its episodes.
        end_step: last step on that time line, inclusive; `start_step - 1` for an episode without steps.
        return_: sum of rewards ("return" in JSON).
        max_reward: largest reward of a step, 0 without steps.
        success_step: step of the episode, from 0, on which it succeeded; None otherwise.
        replans: plans executed.
        max_ik_error: largest distance [m] by which a commanded position had to be moved to become reachable.
        overflow_steps: control steps in which contacts or constraints exceeded the buffers of the simulator.
        error: what went wrong, for status "error" only.
        artifacts: kind of capture -> path relative to the evaluation folder.
    """

    episode: int
    seed: int
    env_slot: int
    status: Status
    steps: int
    start_step: int
    end_step: int
    return_: float
    max_reward: float
    success_step: int | None
    replans: int
    max_ik_error: float = 0.0
    overflow_steps: int = 0
    error: str | None = None
    artifacts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as one line of JSON, without the line break."""
        values = asdict(self)
        values["return"] = values.pop("return_")
        return json.dumps({"schema": SCHEMA_VERSION, **values}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "EpisodeRecord":
        """Read a line written by `to_json`; fields this version does not know are ignored.

        Raises:
            ValueError: no JSON object, a newer schema, a missing field or an unknown status.
        """
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("an episode record must be a JSON object")
        version = values.get("schema")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ValueError(f"episode record of schema {version!r}; this version reads up to {SCHEMA_VERSION}")
        if "return" in values:
            values["return_"] = values.pop("return")
        known: dict[str, Any] = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        try:
            record = cls(**known)
        except TypeError as error:
            raise ValueError(f"incomplete episode record: {error}") from None
        if record.status not in STATUSES:
            raise ValueError(f"episode record with unknown status {record.status!r}")
        return record
