"""Running scenes of a rollout as one batched pytree, and how a chunk of control steps updates them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.rollout.planner import Observations
from imf_jax.sim.backends.base import Backend, SimState, StepOutput


class Scenes(NamedTuple):
    """A running scenes; every leaf has the leading axis A, all but `sim` are numpy arrays.

    Attributes:
        episode: int64 episode index.
        slot: int64 index among the scenes simulated at once.
        steps: int64 control steps so far.
        replans: int64 plans executed so far.
        total_reward: float64 sum of rewards so far.
        max_reward: float64 largest reward so far, -inf before the first step.
        max_stage: int64 highest stage so far.
        max_ik_error: float64 largest distance [m] by which a command was moved to become reachable.
        overflow_steps: int64 steps with more contacts or constraints than the buffers hold.
        observations: the last `obs_horizon` observations, oldest first.
        output: the newest output.
        sim: state of the simulation.
    """

    episode: np.ndarray
    slot: np.ndarray
    steps: np.ndarray
    replans: np.ndarray
    total_reward: np.ndarray
    max_reward: np.ndarray
    max_stage: np.ndarray
    max_ik_error: np.ndarray
    overflow_steps: np.ndarray
    observations: Observations
    output: StepOutput
    sim: SimState


def take_rows(tree: Any, rows: np.ndarray | list[int]) -> Any:
    """Take rows (indices or a mask) of every leaf of a batched pytree."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def join_rows(first: Any, second: Any) -> Any:
    """Concatenate two batched pytrees of the same structure."""

    def join(a: Any, b: Any) -> Any:
        return np.concatenate([a, b]) if isinstance(a, np.ndarray) else jnp.concatenate([a, b])

    return jax.tree.map(join, first, second)


def start_scenes(episodes: np.ndarray, slots: np.ndarray, sim: SimState, output: StepOutput, horizon: int) -> Scenes:
    """Scenes right after their reset; the missing history is the first observation, repeated `horizon` times."""
    count = len(episodes)
    counter = np.zeros(count, np.int64)
    return Scenes(
        episode=episodes,
        slot=slots,
        steps=counter,
        replans=counter,
        total_reward=np.zeros(count),
        max_reward=np.full(count, -np.inf),
        max_stage=counter,
        max_ik_error=np.zeros(count),
        overflow_steps=counter,
        observations={
            "state": np.repeat(output.state[:, None], horizon, axis=1),
            "env_state": np.repeat(output.env_state[:, None], horizon, axis=1),
        },
        output=output,
        sim=sim,
    )


def with_images(scenes: Scenes, images: np.ndarray) -> Scenes:
    """Add the pictures that the next plan reads, uint8 (A, To, C, H, W, 3)."""
    return scenes._replace(observations=scenes.observations | {"images": images})


def advance_scenes(scenes: Scenes, sim: SimState, output: StepOutput, count: np.ndarray) -> Scenes:
    """Update scenes by a chunk, of which `count` (A,) steps belong to each. `output`: leaves (A, K, ...).

    Pictures stay as they were: they are rendered later, see `imf_jax.rollout.frames`.
    """
    length = output.reward.shape[1]
    valid = np.arange(length) < count[:, None]
    reward = np.where(valid, output.reward, 0.0).astype(np.float64)
    ik_error = np.where(valid, output.ik_error.max(axis=-1), 0.0)
    horizon = scenes.observations["state"].shape[1]
    newest = {"state": output.state, "env_state": output.env_state}
    return scenes._replace(
        steps=scenes.steps + count,
        replans=scenes.replans + 1,
        # A cumulative sum adds in order of time, whatever the memory layout, so that totals are reproducible.
        total_reward=scenes.total_reward + reward.cumsum(axis=1)[:, -1],
        max_reward=np.maximum(scenes.max_reward, np.where(valid, output.reward, -np.inf).max(axis=1)),
        max_stage=np.maximum(scenes.max_stage, np.where(valid, output.stage, 0).max(axis=1)),
        max_ik_error=np.maximum(scenes.max_ik_error, ik_error.max(axis=1)),
        overflow_steps=scenes.overflow_steps + (valid & output.overflow).sum(axis=1),
        observations=scenes.observations
        | {
            name: np.concatenate([scenes.observations[name], values], axis=1)[:, -horizon:]
            for name, values in newest.items()
        },
        output=take_last(output),
        sim=sim,
    )


def take_last(output: StepOutput) -> StepOutput:
    """Take the newest of K outputs: leaves (A, K, ...) -> (A, ...)."""
    return jax.tree.map(lambda leaf: leaf[:, -1], output)


def run_chunk(backend: Backend, state: SimState, actions: np.ndarray) -> tuple[SimState, StepOutput]:
    """Execute `actions`, float32 (A, K, D): the final state, and outputs as numpy arrays (A, K, ...)."""
    chunk = getattr(backend, "run_chunk", None)
    if chunk is not None:
        state, output = chunk(state, actions)
        return state, jax.tree.map(np.asarray, output)
    outputs = []
    for k in range(actions.shape[1]):
        state, output = backend.step(state, actions[:, k])
        outputs.append(jax.tree.map(np.asarray, output))
    return state, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *outputs)
