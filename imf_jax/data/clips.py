"""Clips for pre-training: frames of one episode at equal distances, and the actions between them.

The clip at step t with history T and frameskip S: frames at t, t + S, ..., t + T S, and for each of the first T frames
the S actions that follow it. A clip never reaches over an end of its episode. Whole episodes are held out.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax import seeds
from imf_jax.data.windows import Demonstrations
from imf_jax.errors import UserError

Array = jax.Array


class ClipData(NamedTuple):
    """What clips are drawn from, on the device; N steps in total. Their pictures stay in main memory.

    Attributes:
        action: float32 (N, A).
        starts: int32 (M,) steps at which a clip may begin.
    """

    action: Array
    starts: Array


class ClipBatch(TypedDict):
    """Clips.

    Attributes:
        images: uint8 (B, T + 1, C, H, W, 3), oldest frame first.
        action: float32 (B, T, S, A).
    """

    images: Array
    action: Array


@dataclass(frozen=True)
class EpisodeSplit:
    """Episodes to train on and those held out.

    Attributes:
        training: int (N_t,) steps of the training episodes.
        held_out: int (N_h,) steps of the others.
        num_training: training episodes.
        num_held_out: the others.
    """

    training: np.ndarray
    held_out: np.ndarray
    num_training: int
    num_held_out: int


def split_episodes(data: Demonstrations, share: float, seed: int) -> EpisodeSplit:
    """Hold episodes out, at random; the choice follows from the seed.

    Args:
        data: the demonstrations.
        share: of the episodes that is held out, rounded, at least one.
        seed: of the run.

    Raises:
        UserError: there is one episode only.
    """
    first = np.asarray(data.first)
    episodes, number = np.unique(first, return_inverse=True)
    if len(episodes) < 2:
        raise UserError("there is one demonstration only; pre-training needs at least two, because one is held out")
    count = min(max(round(share * len(episodes)), 1), len(episodes) - 1)
    held_out = np.zeros(len(episodes), bool)
    held_out[np.random.default_rng(seed).permutation(len(episodes))[:count]] = True
    of_step = held_out[number]
    return EpisodeSplit(np.flatnonzero(~of_step), np.flatnonzero(of_step), len(episodes) - count, count)


def clip_starts(data: Demonstrations, steps: np.ndarray, span: int) -> np.ndarray:
    """The steps of `steps` at which a clip of `span` control steps fits into its episode, int32 (M,).

    Raises:
        UserError: there is none.
    """
    starts = steps[steps + span <= np.asarray(data.last)[steps]]
    if not len(starts):
        raise UserError(
            f"no demonstration is longer than {span} control steps (model.history x model.frameskip); "
            "record longer ones or choose a smaller --model.frameskip"
        )
    return starts.astype(np.int32)


def frame_steps(starts: Array, *, history: int, frameskip: int) -> Array:
    """Steps of the frames of clips that begin at `starts`, int32 (B,) -> (B, T + 1)."""
    return starts[:, None] + frameskip * jnp.arange(history + 1)


def action_steps(frames: Array, frameskip: int) -> Array:
    """Steps of the actions that follow all frames but the last, int32 (B, T + 1) -> (B, T, S)."""
    return frames[:, :-1, None] + jnp.arange(frameskip)


def draw_frames(data: ClipData, key: Array, batch_size: int, *, history: int, frameskip: int) -> Array:
    """Draw clips uniformly over all starts, with replacement, on the device.

    Args:
        data: what to draw from.
        key: typed JAX key.
        batch_size: clips B.
        history: frames T before the last.
        frameskip: control steps from one frame to the next.

    Returns:
        int32 (B, T + 1), the steps of their frames.
    """
    chosen = seeds.randint(key, (batch_size,), 0, len(data.starts))
    return frame_steps(data.starts[chosen], history=history, frameskip=frameskip)


def action_statistics(action: np.ndarray) -> dict[str, np.ndarray]:
    """Moments of actions (N, A) for a normalizer, with the unbiased standard deviation; rows with NaN do not count."""
    known = action[~np.isnan(action).any(axis=1)].astype(np.float64)
    spread = known.std(axis=0, ddof=1) if len(known) > 1 else np.zeros(action.shape[1])
    return {"min": known.min(axis=0), "max": known.max(axis=0), "mean": known.mean(axis=0), "std": spread}
