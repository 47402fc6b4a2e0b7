"""Scripted expert of the transfer: waypoints in end-effector space, chosen by a phase machine from what is observed.

The expert is a pure function of (its own state, the last output of the simulation), batched over scenes. It moves a
commanded pose towards the waypoint of the current phase at a limited speed and goes to the next phase when the
*measured* scene has arrived, so it also recovers from disturbances.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.robots.diana.model import GRASP_Z, MAX_OPENING
from imf_jax.sim.tasks.transfer import BOX_HALF_SIZE

SPEED = 0.009
"""Largest travel of a commanded hand position per control step [m]: 0.45 m/s at 50 Hz."""

APPROACH = 0.18
"""Share of the remaining way taken per control step, which slows the hand down near a waypoint."""

TURN = 0.04
"""Largest rotation of a commanded hand per control step [rad]."""

GRIP_SPEED = 0.006
"""Largest change of a commanded gripper opening per control step [m]."""

GRASP_OFFSET = 0.085
"""Distance of both grasps from the middle of the box, along its length [m]."""

HANDOVER = (0.46, 0.0, 0.20)
"""Place of the middle of the box at the hand-over [m]."""

WAIT_LEFT = (0.46, 0.26, 0.36)
"""Place where the left hand waits [m] (position of link7)."""

CLEARANCE = 0.09
"""Height above a grasp from which a hand descends [m]."""

OPEN = MAX_OPENING - 0.005
CLOSED = 2 * BOX_HALF_SIZE[0] - 0.02
"""Commanded openings [m]; closing commands less than the width of the box so that the fingers press."""

HELD_OPENING = 2 * BOX_HALF_SIZE[0] + 0.004
"""A gripper commanded to close on the box holds it below this opening [m]."""


class ExpertState(NamedTuple):
    """Memory of the expert of B scenes.

    Attributes:
        phase: int32 (B,).
        command: float32 (B, 2, 4) commanded hand position [m] and yaw [rad] per arm.
        opening: float32 (B, 2) commanded gripper openings [m].
        waited: int32 (B,) control steps spent in the phase.
    """

    phase: jax.Array
    command: jax.Array
    opening: jax.Array
    waited: jax.Array


class TransferExpert:
    """Right hand grasps one end of the box and lifts it; left hand grasps the other end; right hand lets go."""

    # Phases: 0 over the box, 1 descend, 2 close right, 3 carry, 4 left descends, 5 close left, 6 open right, 7 retreat.
    phases = 8

    def start(self, output: StepOutput) -> ExpertState:
        """Memory of B scenes that have just begun: the hands are commanded to stay where they are, open."""
        hands = jnp.asarray(output.end_effector)
        yaw = 2 * jnp.arctan2(hands[..., 6], hands[..., 3])
        count = hands.shape[0]
        return ExpertState(
            phase=jnp.zeros(count, jnp.int32),
            command=jnp.concatenate([hands[..., :3], _wrap(yaw)[..., None]], axis=-1).astype(jnp.float32),
            opening=jnp.full((count, 2), OPEN, jnp.float32),
            waited=jnp.zeros(count, jnp.int32),
        )

    def act(self, state: ExpertState, output: StepOutput) -> tuple[ExpertState, jax.Array]:
        """The next memory and the action, float32 (B, 16)."""
        box = jnp.asarray(output.env_state)
        hands = jnp.asarray(output.end_effector)[..., :3]
        measured_opening = jnp.asarray(output.state).reshape(-1, 2, 8)[..., 7]
        yaw = _wrap(2 * jnp.arctan2(box[:, 6], box[:, 3]))
        along = jnp.stack([-jnp.sin(yaw), jnp.cos(yaw), jnp.zeros_like(yaw)], axis=-1)
        up = jnp.array([0.0, 0.0, 1.0])
        lift_hand = -GRASP_Z * up  # from the grasped point to link7
        end_right = box[:, :3] - GRASP_OFFSET * along + lift_hand
        end_left = box[:, :3] + GRASP_OFFSET * along + lift_hand
        carry = jnp.array(HANDOVER) + jnp.array([0.0, -GRASP_OFFSET, 0.0]) + lift_hand
        carry = jnp.broadcast_to(carry, end_right.shape)
        wait = jnp.broadcast_to(jnp.array(WAIT_LEFT), end_left.shape)
        over_left = end_left + CLEARANCE * up
        zero = jnp.zeros_like(yaw)
        phase = state.phase

        def choose(options: list[jax.Array]) -> jax.Array:
            stacked = jnp.stack(options, axis=1)
            index = phase.reshape(-1, *([1] * (stacked.ndim - 1)))
            return jnp.take_along_axis(stacked, index, axis=1)[:, 0]

        held = state.command[:, 0, :3], state.command[:, 1, :3]
        right_target = choose(
            [
                end_right + CLEARANCE * up,
                end_right,
                held[1],
                carry,
                carry,
                carry,
                carry,
                carry + jnp.array([0.0, -0.10, 0.10]),
            ]
        )
        left_target = choose([wait, wait, wait, over_left, end_left, held[0], held[0], held[0]])
        right_yaw = choose([yaw, yaw, yaw, zero, zero, zero, zero, zero])
        left_yaw = choose(
            [zero, zero, zero, zero, yaw, state.command[:, 0, 3], state.command[:, 0, 3], state.command[:, 0, 3]]
        )
        right_open = choose([zero + OPEN] * 2 + [zero + CLOSED] * 4 + [zero + OPEN] * 2)
        left_open = choose([zero + OPEN] * 5 + [zero + CLOSED] * 3)

        position = jnp.stack([left_target, right_target], axis=1)
        turn = jnp.stack([left_yaw, right_yaw], axis=1)
        opening_target = jnp.stack([left_open, right_open], axis=1)
        command = jnp.concatenate(
            [
                _towards(state.command[..., :3], position, SPEED),
                state.command[..., 3:] + jnp.clip(_wrap(turn - state.command[..., 3])[..., None], -TURN, TURN),
            ],
            axis=-1,
        )
        opening = state.opening + jnp.clip(opening_target - state.opening, -GRIP_SPEED, GRIP_SPEED)

        off_right = jnp.linalg.norm(hands[:, 1] - right_target, axis=-1)
        off_left = jnp.linalg.norm(hands[:, 0] - left_target, axis=-1)
        holds = measured_opening < HELD_OPENING
        opened = measured_opening > HELD_OPENING + 0.012
        advance = choose(
            [
                (off_right < 0.02) & (jnp.abs(_wrap(right_yaw - state.command[:, 1, 3])) < 0.02),
                off_right < 0.006,
                holds[:, 1],
                (off_right < 0.012) & (off_left < 0.02),
                off_left < 0.006,
                holds[:, 0],
                opened[:, 1],
                jnp.zeros_like(phase, bool),
            ]
        )
        advance &= phase < self.phases - 1
        next_phase = jnp.where(advance, phase + 1, phase).astype(jnp.int32)
        waited = jnp.where(advance, 0, state.waited + 1).astype(jnp.int32)
        return ExpertState(next_phase, command, opening, waited), to_action(command, opening)

    def anchor(self, state: ExpertState, command: jax.Array) -> ExpertState:
        """Memory as if the expert had given the command, float32 (B, 16)."""
        arms = command.reshape(-1, 2, 8)
        w, z = arms[..., 3], arms[..., 6]
        yaw = jnp.arctan2(2 * w * z, w * w - z * z)  # downward hands turn about z only
        pose = jnp.concatenate([arms[..., :3], yaw[..., None]], axis=-1)
        return state._replace(command=pose.astype(jnp.float32), opening=arms[..., 7].astype(jnp.float32))


def to_action(command: jax.Array, opening: jax.Array) -> jax.Array:
    """Actions (B, 16) of downward hands: command (B, 2, 4) position [m] and yaw [rad], opening (B, 2) [m]."""
    half = command[..., 3:] / 2
    zero = jnp.zeros_like(half)
    arms = jnp.concatenate([command[..., :3], jnp.cos(half), zero, zero, jnp.sin(half), opening[..., None]], axis=-1)
    return arms.reshape(arms.shape[0], 16)


def _towards(start: jax.Array, target: jax.Array, speed: float) -> jax.Array:
    """A point nearer to the target by a share of the way, at most `speed`."""
    way = APPROACH * (target - start)
    length = jnp.linalg.norm(way, axis=-1, keepdims=True)
    return start + way * jnp.minimum(1.0, speed / jnp.maximum(length, 1e-9))


def _wrap(angle: jax.Array) -> jax.Array:
    """The angle in [-pi, pi), [rad]."""
    return jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
