"""Scripted expert of `insert`: the left hand holds the ring up, the right hand pushes the bar through it.

The command of a control step follows from what is observed and from the last command, whose change is limited: what a
hand does depends on where it and its object are, not on a remembered phase. So every disturbance is answered, and a
policy sees all that the expert's action depends on.

Both hands lean away from each other, about the axis along which their fingers close, so that they have room above
the ring.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.quaternions import Array, compose, conjugate, invert, multiply, rotate
from imf_jax.sim.robots.diana.model import GRASP_Z, MAX_OPENING
from imf_jax.sim.tasks.insert import APERTURE, BAR_HALF_SIZE, RING_OUTER, RING_THICKNESS

SPEED = 0.007
"""Largest travel of a commanded hand position per control step [m]: 0.35 m/s at 50 Hz."""

TURN = 0.03
"""Largest rotation of a commanded hand per control step [rad]."""

GRIP_SPEED = 0.008
"""Largest change of a commanded gripper opening per control step [m]."""

SHARE = 0.9
"""Share of the remaining way taken per control step. Near 1: with a small one, what a hand does next follows from the
last command, which a policy does not see."""

FEEDBACK = 0.25
"""Share of the measured deviation from its goal that is added to a command, and its limits [m] and [rad]."""
FEEDBACK_LIMIT = (0.012, 0.08)

LEAN = 0.42
"""Angle between a hand and the vertical [rad]."""

_LEANS = np.array([-LEAN, LEAN], np.float32)  # left, right, about the axis along which the fingers close

GRASP = np.array([[0.0, 0.0, 0.010], [0.0, -0.044, 0.014]], np.float32)
"""Points of ring and bar, in their frames, at which the left and the right hand hold them [m]."""

WIDTH = np.array([RING_OUTER, 2 * BAR_HALF_SIZE[0]], np.float32)
"""Width of ring and bar between the fingers [m]."""

SQUEEZE = 0.02
"""Closing commands less than the width by this so that the fingers press [m]."""

CLEARANCE = 0.08
"""Distance from a grasp, along the hand, from which the hand descends [m]."""

DESCENT_TOLERANCE = np.array([0.005, 0.014], np.float32)
"""Deviation across the fingers above which they would hit ring or bar on the way down [m]."""

MEETING = np.array([0.58, 0.05, 0.24], np.float32)
MEETING_YAW = -0.6
"""Position [m] and yaw [rad] of the ring at the insertion: turned, so that the front camera sees the aperture."""

GAP = 0.01
STANDOFF = -(RING_THICKNESS / 2 + BAR_HALF_SIZE[1] + GAP)
"""Distance [m] between the ring and the bar that waits to be inserted, and the place of the bar's middle along the axis
of the ring then. Inserted, the bar's middle is the ring's."""

PLAY = APERTURE / 2 - BAR_HALF_SIZE[0]
"""Deviation at which the bar meets a wall of the aperture [m]."""

LOOK_AHEAD = 0.015
"""Distance by which the goal of the bar is ahead of it along the axis of the ring [m]: it never jumps, so that what a
hand does changes little with what is measured."""

STOP = 1.75
"""The bar stops before the ring at a deviation of so many times the play; nearer it goes on, farther it draws back.
More than the play: a bar that waits until it is exact teaches a policy that is a little off to wait for ever."""


_H = np.sqrt(0.5)
_SYMMETRIES = np.array(
    [
        *([1, 0, 0, 0], [_H, 0, _H, 0], [0, 0, 1, 0], [_H, 0, -_H, 0]),
        *([0, 0, 0, 1], [0, _H, 0, _H], [0, 1, 0, 0], [0, -_H, 0, _H]),
    ],
    np.float32,
)
"""Rotations after which ring and bar look the same: quarter turns about y, and half turns that exchange its ends."""


class InsertState(NamedTuple):
    """Memory of the expert of B scenes.

    Attributes:
        phase: int32 (B,), see `InsertExpert`.
        command: float32 (B, 2, 7) commanded poses of the hands.
        opening: float32 (B, 2) commanded gripper openings [m].
        waited: int32 (B,) control steps spent in the phase.
    """

    phase: jax.Array
    command: jax.Array
    opening: jax.Array
    waited: jax.Array


class InsertExpert:
    """Each hand grasps its object and brings it to the meeting place; there the right hand inserts the bar.

    A hand is commanded as position [m] and quaternion wxyz. The phase only tells how long nothing has advanced:
    per hand 0 above the object, 1 descending, 2 closing or 3 holding, summed; 7 while the bar is being inserted.
    """

    def start(self, output: StepOutput) -> InsertState:
        """Memory of B scenes that have just begun: the hands are commanded to stay where they are, open."""
        hands = jnp.asarray(output.end_effector, jnp.float32)
        zero = jnp.zeros(hands.shape[0], jnp.int32)
        return InsertState(zero, hands, jnp.full(hands.shape[:2], MAX_OPENING, jnp.float32), zero)

    def anchor(self, state: InsertState, command: jax.Array) -> InsertState:
        """The memory as if the expert had given `command`, float32 (B, 16), so that it goes on from there."""
        arms = command.reshape(-1, 2, 8).astype(jnp.float32)
        norm = jnp.linalg.norm(arms[..., 3:7], axis=-1, keepdims=True)
        pose = jnp.concatenate([arms[..., :3], arms[..., 3:7] / jnp.maximum(norm, 1e-6)], axis=-1)
        return state._replace(command=pose, opening=arms[..., 7])

    def act(self, state: InsertState, output: StepOutput) -> tuple[InsertState, jax.Array]:
        """The next memory and the action, float32 (B, 16)."""
        objects = jnp.asarray(output.env_state)[:, :14].reshape(-1, 2, 7)
        hands = jnp.asarray(output.end_effector)
        opening = jnp.asarray(output.state).reshape(-1, 2, 8)[..., 7]
        objects = objects.at[..., 3:].set(nearest_orientations(objects[..., 3:], hands[..., 3:]))

        grasp = grasp_poses(objects)
        off = rotate(conjugate(grasp[..., 3:]), hands[..., :3] - grasp[..., :3])  # in the frame of the grasp
        distance = jnp.linalg.norm(off, axis=-1)
        gripping = opening < MAX_OPENING - 0.004
        upright = rotate(objects[..., 3:], _unit(2, objects))[..., 2] > 0.9  # a ring that lies flat cannot be grasped
        close = ((distance < 0.007) & upright) | (gripping & (distance < 0.03))
        holds = close & (opening < WIDTH + 0.003)
        descend = jnp.clip(2 - 2 * jnp.abs(off[..., 0]) / DESCENT_TOLERANCE, 0, 1)
        descend = jnp.where((off[..., 2] < 0.02) | close, 1.0, descend) * upright
        above = (1 - descend)[..., None] * CLEARANCE * rotate(grasp[..., 3:], _unit(2, grasp))
        reach = jnp.concatenate([grasp[..., :3] + above, grasp[..., 3:]], axis=-1)

        places, insert = object_goals(objects, holds.all(axis=-1))
        carry = compose(places, compose(invert(objects), hands))  # the objects may have slipped in the hands
        goal = jnp.where(holds[..., None], carry, reach)

        command = towards(state.command, with_feedback(goal, hands), SHARE)
        target = jnp.where(close, WIDTH - SQUEEZE, MAX_OPENING)
        grip = state.opening + jnp.clip(target - state.opening, -GRIP_SPEED, GRIP_SPEED)

        doing = (jnp.where(close, 2, jnp.where(descend > 0.5, 1, 0)) + holds).sum(axis=-1)
        phase = (doing + (insert > 0.5)).astype(jnp.int32)
        waited = jnp.where(phase == state.phase, state.waited + 1, 0).astype(jnp.int32)
        action = jnp.concatenate([command, grip[..., None]], axis=-1).reshape(-1, 16)
        return InsertState(phase, command, grip, waited), action


def nearest_orientations(objects: jax.Array, hands: jax.Array) -> jax.Array:
    """Of the orientations in which an object looks the same, the ones (B, 2, 4) nearest to its hand's without the lean.

    What was dropped may lie on another side, or the other way round.
    """
    same = multiply(objects[..., None, :], _SYMMETRIES)
    unleaned = multiply(hands, conjugate(_about(0, jnp.broadcast_to(_LEANS, hands.shape[:2]))))
    likeness = jnp.abs((same * unleaned[..., None, :]).sum(axis=-1))
    nearest = jnp.argmax(likeness, axis=-1)[..., None, None]
    return jnp.take_along_axis(same, nearest, axis=2)[..., 0, :]


def grasp_poses(objects: jax.Array) -> jax.Array:
    """Poses (B, 2, 7) of the left hand that holds the ring and of the right hand that holds the bar."""
    yaw = 2 * jnp.arctan2(objects[..., 6], objects[..., 3])
    quaternion = multiply(_about(2, yaw), _about(0, jnp.broadcast_to(_LEANS, yaw.shape)))
    point = objects[..., :3] + rotate(objects[..., 3:], jnp.broadcast_to(GRASP, objects[..., :3].shape))
    return jnp.concatenate([point - GRASP_Z * rotate(quaternion, _unit(2, quaternion)), quaternion], axis=-1)


def object_goals(objects: jax.Array, held: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Goals (B, 2, 7) of ring and bar, and the speed, (B,) in [-0.5, 1], at which the bar goes on into the ring.

    Args:
        objects: (B, 2, 7) poses of ring and bar.
        held: bool (B,) both are held.
    """
    ring, bar = objects[:, 0], objects[:, 1]
    yaw = jnp.full(ring.shape[:1], MEETING_YAW)
    meeting = jnp.concatenate([jnp.broadcast_to(MEETING, ring[:, :3].shape), _about(2, yaw)], axis=-1)
    # The bar goes to where the ring will be, and follows the ring itself once that is near.
    apart = jnp.linalg.norm(ring[:, :3] - meeting[:, :3], axis=-1) + 0.1 * rotation_angle(meeting[:, 3:], ring[:, 3:])
    near = (jnp.clip(2 - apart / 0.02, 0, 1) * held)[:, None]
    axis = meeting + near * (jnp.concatenate([ring[:, :3], _same_sign(ring[:, 3:], meeting[:, 3:])], -1) - meeting)
    axis = axis.at[:, 3:].divide(jnp.linalg.norm(axis[:, 3:], axis=-1, keepdims=True))
    end = bar[:, :3] + BAR_HALF_SIZE[1] * rotate(bar[:, 3:], _unit(1, bar))
    tip = rotate(conjugate(ring[:, 3:]), end - ring[:, :3])  # in the frame of the ring
    miss = jnp.abs(tip[:, [0, 2]]).max(axis=-1) + BAR_HALF_SIZE[0] * rotation_angle(ring[:, 3:], bar[:, 3:])
    inside = (tip[:, 1] > -RING_THICKNESS / 2 + 0.002) & (miss < 2 * PLAY)
    speed = jnp.where(inside, 1.0, jnp.clip(STOP - miss / PLAY, -0.5, 1.0))
    along = rotate(conjugate(ring[:, 3:]), bar[:, :3] - ring[:, :3])[:, 1]
    ahead = jnp.clip(along + LOOK_AHEAD * speed, STANDOFF, 0.0)
    offset = (STANDOFF + near[:, 0] * (ahead - STANDOFF))[:, None] * rotate(axis[:, 3:], _unit(1, axis))
    through = jnp.concatenate([axis[:, :3] + offset, axis[:, 3:]], axis=-1)
    return jnp.stack([meeting, through], axis=1), speed * near[:, 0]


def with_feedback(goal: jax.Array, measured: jax.Array) -> jax.Array:
    """Goals (..., 7) moved on by the deviation of the measured poses from them, within `FEEDBACK_LIMIT`."""
    way = FEEDBACK * (goal[..., :3] - measured[..., :3])
    length = jnp.linalg.norm(way, axis=-1, keepdims=True)
    way = way * jnp.minimum(1.0, FEEDBACK_LIMIT[0] / jnp.maximum(length, 1e-9))
    turn = _rotation_between(measured[..., 3:], goal[..., 3:], FEEDBACK, FEEDBACK_LIMIT[1])
    return jnp.concatenate([goal[..., :3] + way, multiply(turn, goal[..., 3:])], axis=-1)


def towards(command: jax.Array, goal: jax.Array, share: float) -> jax.Array:
    """Poses (..., 7) nearer to the goals by a share of the way, at most `SPEED` and `TURN`."""
    way = share * (goal[..., :3] - command[..., :3])
    length = jnp.linalg.norm(way, axis=-1, keepdims=True)
    position = command[..., :3] + way * jnp.minimum(1.0, SPEED / jnp.maximum(length, 1e-9))
    quaternion = multiply(_rotation_between(command[..., 3:], goal[..., 3:], share, TURN), command[..., 3:])
    quaternion = quaternion / jnp.linalg.norm(quaternion, axis=-1, keepdims=True)
    return jnp.concatenate([position, quaternion], axis=-1)


def rotation_angle(start: Array, end: Array) -> jax.Array:
    """Angle (...,) in [0, pi] between two orientations [rad]."""
    between = multiply(end, conjugate(start))
    return 2 * jnp.arctan2(jnp.linalg.norm(between[..., 1:], axis=-1), jnp.abs(between[..., 0]))


def _rotation_between(start: jax.Array, end: jax.Array, share: float, limit: float) -> jax.Array:
    """Quaternion (..., 4) that turns `start` towards `end` by a share of the way, at most `limit` [rad]."""
    between = multiply(end, conjugate(start))
    between = jnp.where(between[..., :1] < 0, -between, between)
    sine = jnp.linalg.norm(between[..., 1:], axis=-1, keepdims=True)
    half = jnp.minimum(share * jnp.arctan2(sine, between[..., :1]), limit / 2)
    axis = between[..., 1:] / jnp.maximum(sine, 1e-9)
    return jnp.concatenate([jnp.cos(half), jnp.sin(half) * axis], axis=-1)


def _about(axis: int, angle: jax.Array) -> jax.Array:
    """Quaternions (..., 4) of rotations about a coordinate axis by angles (...,) [rad]."""
    zero = jnp.zeros_like(angle)
    parts = [jnp.cos(angle / 2), zero, zero, zero]
    parts[axis + 1] = jnp.sin(angle / 2)
    return jnp.stack(parts, axis=-1)


def _unit(axis: int, like: Array) -> jax.Array:
    """Unit vectors (..., 3) along a coordinate axis, with the leading axes of `like`."""
    return jnp.broadcast_to(jnp.eye(3)[axis], (*like.shape[:-1], 3))


def _same_sign(quaternion: jax.Array, reference: jax.Array) -> jax.Array:
    """Quaternions (..., 4) of the same rotations on the side of the reference."""
    return jnp.where((quaternion * reference).sum(-1, keepdims=True) < 0, -quaternion, quaternion)
