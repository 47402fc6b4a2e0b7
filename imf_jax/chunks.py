"""Arithmetic of actions and chunks of them, in NumPy or JAX, whichever the arrays are.

The compiled loops and the client on a robot (`imf_jax.client`), which does without JAX, execute chunks by these
functions.
"""

from collections.abc import Callable
from typing import Any

from imf_jax.config import require
from imf_jax.spaces import RobotSpaces

Array = Any
"""NumPy or JAX."""

SMALLEST_QUATERNION = 1e-6
"""Norm under which a predicted quaternion has no direction and becomes the identity rotation."""


def quaternions(action: Array, spaces: RobotSpaces) -> Array:
    """The N quaternions of actions (..., A), as (..., N, 4)."""
    return action.__array_namespace__().stack([action[..., place] for place in spaces.quaternions], axis=-2)


def change_quaternions(change: Callable[[Array], Array], action: Array, spaces: RobotSpaces) -> Array:
    """Replace the N quaternions of actions (..., A) by what `change` makes of them; the other entries stay.

    Args:
        change: maps (..., N, 4) to (..., N, 4).
        action: float32 (..., A).
        spaces: say where the quaternions are.
    """
    if not spaces.quaternions:
        return action
    changed = change(quaternions(action, spaces))
    index = {place.start: n for n, place in enumerate(spaces.quaternions)}
    parts = [
        changed[..., index[place.start], :] if place.start in index else action[..., place]
        for _, place in spaces.action_parts
    ]
    return action.__array_namespace__().concatenate(parts, axis=-1)


def unit_quaternions(action: Array, spaces: RobotSpaces) -> Array:
    """Scale every quaternion of an action to unit length.

    Args:
        action: float32 (..., A).
        spaces: say where the quaternions are.

    Returns:
        The same, with unit quaternions; the other entries untouched.
    """
    xp = action.__array_namespace__()
    identity = xp.asarray([1.0, 0.0, 0.0, 0.0], dtype=action.dtype)

    def unit(quaternion: Array) -> Array:
        norm = xp.linalg.norm(quaternion, axis=-1, keepdims=True)
        return xp.where(norm > SMALLEST_QUATERNION, quaternion / xp.maximum(norm, SMALLEST_QUATERNION), identity)

    return change_quaternions(unit, action, spaces)


def same_hemisphere(actions: Array, reference: Array, spaces: RobotSpaces) -> Array:
    """Actions (..., A) with the sign of each quaternion that is nearer to `reference`; the rotation is the same."""
    if not spaces.quaternions:
        return actions
    xp = actions.__array_namespace__()
    near = quaternions(reference, spaces)

    def turn(values: Array) -> Array:
        towards = xp.sum(values * near, axis=-1, keepdims=True)
        return xp.where(towards < 0, -values, values)

    return change_quaternions(turn, actions, spaces)


def join(old: Array, new: Array, start: Any, spaces: RobotSpaces, blend_steps: int = 0) -> Array:
    """Join two chunks: the old one up to `start`, the new one from there on.

    Args:
        old: float32 (B, H, A) actions.
        new: float32 (B, H, A) actions of the same control steps.
        start: whole number, index of the first step at which the new chunk counts.
        spaces: of the robot.
        blend_steps: from there on, so many steps are mixtures in which the share of the new chunk grows evenly:
            quaternions linearly and then normalised, everything else linearly.

    Returns:
        float32 (B, H, A).
    """
    xp = old.__array_namespace__()
    step = xp.arange(old.shape[1])[:, None]
    joined = xp.where(step < start, old, new)
    if blend_steps:
        share = (step - start + 1).astype(new.dtype) / (blend_steps + 1)
        mixed = unit_quaternions(new + (1 - share) * (same_hemisphere(old, new, spaces) - new), spaces)
        joined = xp.where((step >= start) & (step < start + blend_steps), mixed, joined)
    return joined


def place(chunk: Array, first: Any, length: int, spaces: RobotSpaces, *, extrapolate: bool) -> Array:
    """Place chunks at step `first` of `length` steps, which reach as far as they do or farther; see `advance`.

    Args:
        chunk: float32 (B, H, A) actions.
        first: whole number, or one for each of them (B,): index of the step of the first action.
        length: steps L.
        spaces: of the robot.
        extrapolate: beyond the end go on by the last increment; else repeat the last action.

    Returns:
        float32 (B, L, A); before `first` it is the first action.
    """
    xp = chunk.__array_namespace__()
    end = chunk.shape[1] - 1
    step = xp.arange(length)[None] - xp.reshape(xp.asarray(first), (-1, 1))
    placed = xp.take_along_axis(chunk, xp.clip(step, 0, end)[..., None], axis=1)
    if not extrapolate:
        return placed
    beyond = (step - end)[..., None]
    last = chunk[:, -1:]
    increment = last - same_hemisphere(chunk[:, -2:-1], last, spaces)
    onwards = unit_quaternions(last + beyond.astype(chunk.dtype) * increment, spaces)
    return xp.where(beyond > 0, onwards, placed)


def advance(timeline: Array, steps: int, spaces: RobotSpaces, *, extrapolate: bool) -> Array:
    """Advance a timeline (B, H, A) by `steps` and extrapolate its end, where nothing is planned.

    Args:
        timeline: float32 (B, H, A) actions.
        steps: control steps that have passed.
        spaces: of the robot.
        extrapolate: go on by the last increment, which takes H >= 2; else repeat the last action.
    """
    xp = timeline.__array_namespace__()
    last = timeline[:, -1:]
    beyond = xp.repeat(last, steps, axis=1)
    if extrapolate:
        increment = last - same_hemisphere(timeline[:, -2:-1], last, spaces)
        ahead = xp.arange(1, steps + 1)[:, None].astype(timeline.dtype)
        beyond = unit_quaternions(beyond + ahead * increment, spaces)
    return xp.concatenate([timeline[:, steps:], beyond], axis=1)


def require_within_chunk(usable: int, every: int, delay: int, blend: int, horizons: str, latest_start: int = 0) -> None:
    """Refuse an execution that reaches beyond the chunks of a policy.

    Args:
        usable: actions of a chunk for the time of its observation and later.
        every: control steps between two plans.
        delay: control steps from the observation to the takeover.
        blend: actions within which an old chunk goes over into a new one.
        horizons: where `usable` comes from, for the message.
        latest_start: control steps by which a chunk can begin later than its observation, as late as it comes.

    Raises:
        ArgumentError: names the flag.
    """
    require(
        every <= usable,
        f"--replan-every {every} is more actions than a chunk has; choose 1..{usable} ({horizons} + 1)",
    )
    begin = min(delay, latest_start)
    require(
        delay < usable + begin,
        f"--delay-steps {delay} is beyond the chunk; this policy allows 0..{usable - 1 + latest_start} ({horizons})",
    )
    overlap = max(0, usable + begin - every - delay)
    require(
        blend <= overlap,
        f"--blend-steps {blend} is longer than two chunks overlap: {overlap} actions ({horizons} + 1 - "
        f"replan-every {every} - delay-steps {delay})",
    )
