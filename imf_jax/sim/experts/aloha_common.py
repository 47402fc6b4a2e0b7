"""What the scripted experts of the two ALOHA scenes share: hands that follow waypoints by joint targets.

The waypoint of a phase is a pose of each hand. Inverse kinematics, started from one fixed posture, turns it into joint
angles, towards which the commanded angles move with limited speed and acceleration: straight in joint space, where the
arms have no singularities. The servos of the arms are soft, with much friction and no damping, and follow their targets
with a lag of 0.04 to 0.2 s, so the action leads: it exceeds the wanted angles by `LEAD` times what the arm is measured
to lack. That also corrects what noise, gravity and contacts do to the arm.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.sim import quaternions
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.kinematics import SerialArms, inverse_kinematics, serial_arms
from imf_jax.sim.robots.aloha.model import ARM_JOINTS, FINGER_CLOSE, FINGER_OPEN, SCENES, SIDES, START_ARM, load_scene

SPEED = 0.035
"""Largest travel of the commanded joint angles of an arm per control step, ours [rad] (Euclidean over its joints)."""

ACCELERATION = 0.004
"""Largest change of that travel per control step, ours [rad]."""

BRAKING = 0.0025
"""Change of that travel per control step with which an arm slows down before its waypoint, ours [rad]."""

APPROACH = 0.3
"""Largest share of the remaining way taken per control step, ours."""

GRIP_SPEED = 0.1
"""Largest change of a commanded gripper per control step, ours [1 = fully open]."""

LEAD = (1.5, 1.5, 2.0, 2.0, 2.0, 0.0)
"""Share of the measured lag of a joint that its target adds to the wanted angle, ours."""

MAX_LEAD = (0.03, 0.02, 0.04, 0.25, 0.15, 0.25)
"""Largest amount by which a joint target leads, ours [rad]. A servo whose force exceeds the friction of its joint
(50/800, 60/1600, 60/800 rad of error in the first three) has no damping left and oscillates."""

ITERATIONS = 10
"""Newton steps of inverse kinematics from the fixed posture of a phase, ours."""

OPEN = 1.0
"""Commanded gripper of an open hand."""

CLOSED = 0.0
"""Commanded gripper of a hand that presses on what it holds; the servo presses with 200 N per metre it lacks."""

FINGER_PAD = 0.0224
"""Position of a finger at which its pad would touch the middle of the hand [m], measured on the meshes."""

GRASP = 0.145
"""Distance from `gripper_link` to the point between the fingertips that is placed on an object, ours [m]; the
fingers end at 0.154."""

UPRIGHT = (1.0, 0.0, 0.0, 0.0)
"""Orientation of the objects at the start of an episode, wxyz."""

EMPTY = 0.08
"""A gripper that should hold an object has lost it if it is closed by so much more than the object allows, ours."""


class ArmState(NamedTuple):
    """Memory of an expert of B scenes. Arms: left, right.

    Attributes:
        phase: int32 (B,).
        joints: float32 (B, 2, 6) commanded joint angles, without the lead [rad].
        velocity: float32 (B, 2, 6) their travel in the last control step [rad].
        gripper: float32 (B, 2) commanded grippers, 0 closed to 1 open.
        waited: int32 (B,) control steps spent in the phase.
    """

    phase: jax.Array
    joints: jax.Array
    velocity: jax.Array
    gripper: jax.Array
    waited: jax.Array


class Pose(NamedTuple):
    """Poses: position (..., 3) [m] and unit quaternion (..., 4), wxyz."""

    position: jax.Array
    quaternion: jax.Array


@cache
def aloha_arms() -> SerialArms:
    """Kinematics of both arms, left then right; the end effector is `gripper_link`. All scenes have the same arms.

    Raises:
        ArgumentError: the package with the models is not installed or has changed.
    """
    arms = [f"vx300s_{side}" for side in SIDES]
    joints = [[f"{arm}/{joint}" for joint in ARM_JOINTS] for arm in arms]
    with jax.ensure_compile_time_eval():  # experts are made while programs are traced
        rest = np.tile(np.array(START_ARM, np.float32), (2, 1))
        return serial_arms(load_scene(SCENES[0]).compile(), joints, [f"{arm}/gripper_link" for arm in arms], rest)


class ArmExpert:
    """Base of the experts: starting, taking over, and moving the hands."""

    def __init__(self) -> None:
        self.arms = aloha_arms()

    def start(self, output: StepOutput) -> ArmState:
        """Memory of B scenes that have just begun: the hands are commanded to stay as they are."""
        state = jnp.asarray(output.state).reshape(-1, 2, 7)
        count = state.shape[0]
        return ArmState(
            phase=jnp.zeros(count, jnp.int32),
            joints=state[..., :6],
            velocity=jnp.zeros((count, 2, 6), jnp.float32),
            gripper=jnp.clip(state[..., 6], 0.0, 1.0),
            waited=jnp.zeros(count, jnp.int32),
        )

    def anchor(self, state: ArmState, action: jax.Array) -> ArmState:
        """The memory of an expert that takes over after `action` (B, 14): its commanded hands rest where that led."""
        command = jnp.asarray(action).reshape(-1, 2, 7)
        joints = jnp.clip(command[..., :6], self.arms.lower, self.arms.upper)
        return state._replace(
            joints=joints, velocity=jnp.zeros_like(joints), gripper=jnp.clip(command[..., 6], 0.0, 1.0)
        )

    def _reach(self, seed: Sequence[Sequence[float]], target: Pose) -> jax.Array:
        """Joint angles (B, 2, 6) of poses (B, 2) of the hands, found from the posture `seed` (2, 6) [rad]."""
        start = jnp.broadcast_to(jnp.array(seed, jnp.float32), (target.position.shape[0], 2, 6))
        return inverse_kinematics(self.arms, start, *target, max_step=np.pi, iterations=ITERATIONS, posture_gain=0.0)[0]

    def _move(
        self,
        state: ArmState,
        output: StepOutput,
        goal: jax.Array,
        gripper: jax.Array,
        advance: jax.Array,
        lost: jax.Array,
    ) -> tuple[ArmState, jax.Array]:
        """One control step.

        Args:
            state: the memory before.
            output: the scenes as they are.
            goal: (B, 2, 6) joint angles towards which the commanded ones move [rad].
            gripper: (B, 2) grippers towards which the commanded ones move.
            advance: bool (B,) go to the next phase.
            lost: bool (B,) begin again: a hand that should hold an object is empty.
        """
        measured = jnp.asarray(output.state).reshape(-1, 2, 7)[..., :6]
        velocity = state.velocity + _clip_length(_travel(goal - state.joints) - state.velocity, ACCELERATION)
        joints = jnp.clip(state.joints + velocity, self.arms.lower, self.arms.upper)
        lead = jnp.clip(jnp.array(LEAD) * (joints - measured), -jnp.array(MAX_LEAD), jnp.array(MAX_LEAD))
        command = jnp.clip(joints + lead, self.arms.lower, self.arms.upper)
        gripper = state.gripper + jnp.clip(gripper - state.gripper, -GRIP_SPEED, GRIP_SPEED)
        action = jnp.concatenate([command, gripper[..., None]], axis=-1).reshape(-1, 14)
        phase = jnp.where(lost, 0, jnp.where(advance, state.phase + 1, state.phase)).astype(jnp.int32)
        waited = jnp.where(lost | advance, 0, state.waited + 1).astype(jnp.int32)
        return ArmState(phase, joints, velocity, gripper, waited), action


def choose(phase: jax.Array, options: Sequence[jax.Array]) -> jax.Array:
    """Per scene the option (B, ...) of its phase (B,)."""
    stacked = jnp.stack(options, axis=1)
    return jnp.take_along_axis(stacked, phase.reshape(-1, *([1] * (stacked.ndim - 1))), axis=1)[:, 0]


def gripper_at(half_width: float) -> float:
    """The gripper, 0 to 1, whose fingers touch both sides of an object of that half width [m]."""
    return (FINGER_PAD + half_width - FINGER_CLOSE) / (FINGER_OPEN - FINGER_CLOSE)


def hand_quaternion(side: int, pitch: float) -> np.ndarray:
    """Orientation (4,) of the left (0) or right (1) hand that faces the other arm and points down by `pitch` [rad]."""
    c, s = np.cos(pitch / 2), np.sin(pitch / 2)
    return np.array([c, 0.0, s, 0.0] if side == 0 else [0.0, -s, 0.0, c], np.float32)


def poses(rows: jax.Array) -> Pose:
    """Rows (..., 7) of position and quaternion as poses."""
    return Pose(rows[..., :3], rows[..., 3:])


def along_x(distance: float | jax.Array) -> Pose:
    """The pose that lies `distance` (...,) along the x axis and is not turned [m]."""
    zero = jnp.zeros_like(jnp.asarray(distance, jnp.float32))
    return Pose(jnp.stack([zero + distance, zero, zero], axis=-1), jnp.stack([zero + 1, zero, zero, zero], axis=-1))


def compose(a: Pose, b: Pose) -> Pose:
    """The pose `b`, given in the frame `a`, in the frame in which `a` is given."""
    quaternion = jnp.asarray(quaternions.multiply(a.quaternion, b.quaternion))
    return Pose(a.position + quaternions.rotate(a.quaternion, b.position), quaternion)


def inverse(pose: Pose) -> Pose:
    """The inverse transformation."""
    quaternion = jnp.asarray(quaternions.conjugate(pose.quaternion))
    return Pose(jnp.asarray(-quaternions.rotate(quaternion, pose.position)), quaternion)


def carry(hand: Pose, thing: Pose, goal: Pose) -> Pose:
    """Where a hand must go so that the object it holds comes to `goal`, from the measured poses of both."""
    return compose(goal, compose(inverse(thing), hand))


def angle_between(a: jax.Array, b: jax.Array) -> jax.Array:
    """Angle (...,) between orientations (..., 4), wxyz [rad]."""
    return 2.0 * jnp.arccos(jnp.minimum(jnp.abs(jnp.sum(a * b, axis=-1)), 1.0))


def _travel(way: jax.Array) -> jax.Array:
    """The part of a way (..., 3) to be taken in one control step."""
    length = jnp.sqrt(jnp.sum(way * way, axis=-1, keepdims=True))
    speed = jnp.minimum(jnp.minimum(SPEED, APPROACH * length), jnp.sqrt(2 * BRAKING * length))
    return way * (speed / jnp.maximum(length, 1e-9))


def _clip_length(vector: jax.Array, longest: float) -> jax.Array:
    length = jnp.sqrt(jnp.sum(vector * vector, axis=-1, keepdims=True))
    return vector * jnp.minimum(1.0, longest / jnp.maximum(length, 1e-9))
