"""Outcome of episodes: one rule for both loops, in numpy on the host and in JAX in the compiled program."""

from typing import NamedTuple

import numpy as np

from imf_jax.rollout.episode import Status
from imf_jax.sim.backends.base import Array, StepOutput


class StepOutcome(NamedTuple):
    """Outcome of control steps for their episodes; bool arrays of one shape, numpy or JAX.

    Attributes:
        ended: the episode ends with this step; for one of the next three reasons, or else by its time limit.
        diverged: the physics is not finite; the step does not count.
        success: the task is done.
        failure: the task cannot be done any more.
    """

    ended: Array
    diverged: Array
    success: Array
    failure: Array


def step_outcome(output: StepOutput, steps: Array, max_steps: int) -> StepOutcome:
    """Evaluate control steps whose episodes were running before.

    Args:
        output: output after the steps, `success`, `failure` and `finite` bool (...).
        steps: whole numbers (...), control steps of the episode up to this one.
        max_steps: control steps after which an episode is a timeout.
    """
    success = output.finite & output.success
    failure = output.finite & output.failure & ~output.success
    ended = ~output.finite | success | failure | (steps >= max_steps)
    return StepOutcome(ended, ~output.finite, success, failure)


class ChunkOutcome(NamedTuple):
    """Outcome of K control steps for A episodes, numpy arrays (A,).

    Attributes:
        steps: int64 control steps that belong to the episode and have a finite outcome.
        ended, diverged, success, failure: see `StepOutcome`, of the last step that belongs to the episode.
    """

    steps: np.ndarray
    ended: np.ndarray
    diverged: np.ndarray
    success: np.ndarray
    failure: np.ndarray


def chunk_outcome(output: StepOutput, steps: np.ndarray, max_steps: int) -> ChunkOutcome:
    """Find the ends of episodes within a chunk; steps after an end are ignored.

    Args:
        output: numpy leaves (A, K, ...).
        steps: int64 (A,) steps of each episode before the chunk.
        max_steps: see `step_outcome`.
    """
    scenes, length = output.success.shape
    each = step_outcome(output, steps[:, None] + np.arange(1, length + 1), max_steps)
    ends = np.asarray(each.ended)
    last = np.where(ends.any(axis=1), ends.argmax(axis=1), length - 1)
    ended, diverged, success, failure = (np.asarray(values)[np.arange(scenes), last] for values in each)
    return ChunkOutcome(last + 1 - diverged, ended, diverged, success, failure)


def episode_status(*, diverged: bool, success: bool, failure: bool, steps: int) -> tuple[Status, str | None]:
    """Status and error of an episode that has ended after `steps` control steps with a finite outcome."""
    if diverged:
        return "error", f"the physics is not finite after step {steps}"
    if success:
        return "success", None
    return ("failure" if failure else "timeout"), None


POLICY_ERROR = "the policy gave no plan: "
"""Beginning of the error of an episode whose policy, in another process or of others, failed; it can be run again."""


def unplannable_error(replan: int, finite: bool, reason: str | None = None) -> str:
    """Error of an episode that ends because it has no usable plan.

    Args:
        replan: plans made before in the episode.
        finite: the scene is finite.
        reason: why there is no plan, where the policy says so.
    """
    if not finite:
        return "the scene after its reset is not finite"
    return f"{POLICY_ERROR}{reason} (plan {replan})" if reason else f"plan {replan} is not finite"
