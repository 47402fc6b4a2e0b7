"""Training windows: all demonstrations on the device, and a pure function that draws windows from them.

The window at time t of an episode of length T, with obs_horizon To and pred_horizon H: observations t-To+1..t, those
before 0 repeating observation 0; action chunk of H steps starting at t-To+1, so that chunk index To-1 is the action
taken at time t. Chunk steps before 0 repeat action 0, those past T-1 the last action; both are marked as padding.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax import seeds
from imf_jax.data.selection import Selection, Steps, select
from imf_jax.data.statistics import DatasetStatistics, RecordedSteps, compute_statistics
from imf_jax.errors import UserError
from imf_jax.spaces import RobotSpaces

Array = jax.Array


class Demonstrations(NamedTuple):
    """All steps of all demonstrations, one after the other; N steps in total.

    Attributes:
        action: float32 (N, A).
        state: float32 (N, S).
        env_state: float32 (N, E).
        first: int32 (N,) index of the first step of the episode that step n belongs to.
        last: int32 (N,) index of its last step.
        features: (N, ...) features of the pictures by a frozen encoder; None unless a policy reads them.
        images: uint8 (N, C, H, W, 3) pictures, in main memory; None unless a policy reads them. Training streams them.
    """

    action: Array
    state: Array
    env_state: Array
    first: Array
    last: Array
    features: Array | None = None
    images: Array | np.ndarray | None = None


class Batch(TypedDict):
    """Training windows.

    Attributes:
        observation: `state` float32 (B, To, S), `env_state` float32 (B, To, E), oldest first; where the demonstrations
            have them also `features` (B, To, ...) or `images` uint8 (B, To, C, H, W, 3).
        action: float32 (B, H, A).
        is_pad: bool (B, H), True where the chunk reaches over an end of its episode.
    """

    observation: dict[str, Array]
    action: Array
    is_pad: Array


def pack(episodes: Sequence[RecordedSteps]) -> Demonstrations:
    """Join demonstrations and put them on the default device."""
    lengths = np.array([len(episode.action) for episode in episodes])
    ends = np.cumsum(lengths)
    joined = (
        np.concatenate([episode.action for episode in episodes]),
        np.concatenate([episode.state for episode in episodes]),
        np.concatenate([episode.env_state for episode in episodes]),
        np.repeat(ends - lengths, lengths).astype(np.int32),
        np.repeat(ends - 1, lengths).astype(np.int32),
    )
    return Demonstrations(*(jnp.asarray(values) for values in joined))


def load_demonstrations(
    source: Path | Selection, spaces: RobotSpaces | None = None
) -> tuple[Demonstrations, DatasetStatistics]:
    """Read, validate and pack a dataset.

    Args:
        source: where it is, or the part of it that is wanted.
        spaces: the robot that it must be of, where it says whose it is.

    Raises:
        UserError: it is missing or empty, an episode is malformed or of another robot, or stored statistics do not fit.
    """
    selection = select(source)
    reader, episodes = selection.reader, list[Steps]()
    for index in range(len(reader)):
        info = reader.info(index)
        if spaces and info.robot and not spaces.fits(info.robot):
            raise UserError(
                f"demonstration {info.number} in {reader.path} is of robot {info.robot.name!r}, whose actions or "
                f"states have other entries than those of robot {spaces.name!r}; collect demonstrations with that one"
            )
        episodes.append(selection.read(index, info))
    statistics = compute_statistics(episodes)
    reader.check_statistics(statistics)
    return pack(episodes), statistics


def take_steps(data: Demonstrations, rows: np.ndarray) -> Demonstrations:
    """Whole episodes of the demonstrations: those of the steps `rows`, int (M,) in increasing order."""
    rows = np.asarray(rows)
    kept: dict[str, Any] = {name: None if part is None else part[rows] for name, part in data._asdict().items()}
    for name in ("first", "last"):
        kept[name] = jnp.asarray(np.searchsorted(rows, np.asarray(kept[name])).astype(np.int32))
    return Demonstrations(**kept)


def windows_at(data: Demonstrations, steps: Array, *, obs_horizon: int, pred_horizon: int) -> Batch:
    """The windows whose time t is at the given steps.

    Args:
        data: the demonstrations.
        steps: int32 (B,) indices into the N steps.
        obs_horizon: To.
        pred_horizon: H.
    """
    start = steps[:, None] - (obs_horizon - 1)
    first, last = data.first[steps][:, None], data.last[steps][:, None]
    observed = observed_steps(data, steps, obs_horizon)
    wanted = start + jnp.arange(pred_horizon)
    taken = jnp.clip(wanted, first, last)
    columns = {
        "state": data.state, "env_state": data.env_state, "features": data.features, "images": data.images,
    }  # fmt: skip
    return Batch(
        observation={name: column[observed] for name, column in columns.items() if column is not None},
        action=data.action[taken],
        is_pad=wanted != taken,
    )


def observed_steps(data: Demonstrations, steps: Array, obs_horizon: int) -> Array:
    """Steps that are observed at the given steps, int32 (B,) -> (B, obs_horizon), oldest first."""
    return jnp.maximum(steps[:, None] + jnp.arange(1 - obs_horizon, 1), data.first[steps][:, None])


def draw_steps(data: Demonstrations, key: Array, batch_size: int) -> Array:
    """Draw times t of windows, int32 (batch_size,), uniformly over all (episode, time), with replacement."""
    return seeds.randint(key, (batch_size,), 0, len(data.first))


@partial(jax.jit, static_argnames=("batch_size", "obs_horizon", "pred_horizon"))
def sample_windows(data: Demonstrations, key: Array, batch_size: int, *, obs_horizon: int, pred_horizon: int) -> Batch:
    """Draw windows on the device, see `draw_steps`.

    Args:
        data: the demonstrations.
        key: typed JAX key.
        batch_size: windows B.
        obs_horizon: To.
        pred_horizon: H.
    """
    steps = draw_steps(data, key, batch_size)
    return windows_at(data, steps, obs_horizon=obs_horizon, pred_horizon=pred_horizon)
