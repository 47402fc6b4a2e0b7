"""Scripted expert of ALOHA's transfer: the right hand lifts the cube, the left takes it, the right lets go."""

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.experts.aloha_common import (
    CLOSED,
    EMPTY,
    GRASP,
    OPEN,
    UPRIGHT,
    ArmExpert,
    ArmState,
    Pose,
    carry,
    choose,
    gripper_at,
    hand_quaternion,
    poses,
)

CUBE_HALF_SIZE = 0.02
"""Half the edge of the cube [m]."""

MEET = (0.0, 0.5, 0.22)
"""Place of the cube at the hand-over, ours [m]."""

RIGHT_PITCH = 1.2
"""How far the right hand points down, ours [rad]; the left hand is level."""

RIGHT_GRASP = (0.008, 0.0, 0.006)
LEFT_GRASP = (-0.012, 0.0, -0.006)
"""Points between the fingertips on the cube, from its middle, ours [m]: each hand leaves the other its half."""

LEFT_POSTURE = (0.0, -0.7, 1.0, 0.0, -0.3, 0.0)
RIGHT_POSTURE = (0.0, -0.1, 0.8, 0.0, 0.5, 0.0)
"""Postures from which inverse kinematics starts, ours [rad]."""

CLEARANCE = 0.08
"""Way on which a hand approaches the cube straight, along its fingers, ours [m]."""

RETREAT = 0.12
"""Way by which the right hand draws back after the hand-over, ours [m]."""

NEAR = 0.015
"""A hand is at the beginning of its approach within this distance, ours [m]."""

REACHED = 0.006
"""A hand is at its grasp within this distance, ours [m]."""

HELD = gripper_at(CUBE_HALF_SIZE) + 0.03
"""A closing gripper holds the cube below this opening, ours."""

RELEASED = HELD + 0.15
"""A hand has let go above this opening, ours."""


class AlohaTransferExpert(ArmExpert):
    """Waypoints of both hands, chosen by phase."""

    # Phases: 0 over the cube, 1 descend, 2 close right, 3 carry, 4 left approaches, 5 close left, 6 open right,
    # 7 retreat.
    phases = 8

    def act(self, state: ArmState, output: StepOutput) -> tuple[ArmState, jax.Array]:
        """The next memory and the action, float32 (B, 14)."""
        hands = jnp.asarray(output.end_effector)
        cube = poses(jnp.asarray(output.env_state))
        gripper = jnp.asarray(output.state).reshape(-1, 2, 7)[..., 6]
        phase = state.phase
        shape = cube.position.shape
        meet = jnp.broadcast_to(jnp.array(MEET), shape)
        upright = jnp.broadcast_to(jnp.array(UPRIGHT), cube.quaternion.shape)
        pitched = jnp.broadcast_to(hand_quaternion(1, RIGHT_PITCH), cube.quaternion.shape)
        right_forward = jnp.array([-np.cos(RIGHT_PITCH), 0.0, -np.sin(RIGHT_PITCH)])
        left_forward = jnp.array([1.0, 0.0, 0.0])

        right_grasp = cube.position + jnp.array(RIGHT_GRASP) - GRASP * right_forward
        left_offset = jnp.array(LEFT_GRASP) - GRASP * left_forward
        left_grasp = cube.position + left_offset
        left_wait = meet + left_offset - CLEARANCE * left_forward
        lifted = carry(poses(hands[:, 1]), cube, Pose(meet, upright))
        away = meet + jnp.array(RIGHT_GRASP) - (GRASP + RETREAT) * right_forward

        right = choose(
            phase,
            [
                right_grasp - CLEARANCE * right_forward,
                right_grasp,
                right_grasp,
                lifted.position,
                lifted.position,
                lifted.position,
                lifted.position,
                away,
            ],
        )
        left = choose(phase, [left_wait] * 4 + [left_grasp] * 4)
        right_turn = choose(phase, [pitched] * 3 + [lifted.quaternion] * 3 + [pitched] * 2)
        target = Pose(jnp.stack([left, right], axis=1), jnp.stack([upright, right_turn], axis=1))
        goal = self._reach((LEFT_POSTURE, RIGHT_POSTURE), target)
        goal = jnp.where(jnp.stack([phase >= 5, (phase == 2) | (phase == 6)], axis=1)[..., None], state.joints, goal)
        off_left = jnp.linalg.norm(hands[:, 0, :3] - left, axis=-1)
        off_right = jnp.linalg.norm(hands[:, 1, :3] - right, axis=-1)
        advance = choose(
            phase,
            [
                (off_right < NEAR) & (gripper[:, 1] > RELEASED),
                off_right < REACHED,
                gripper[:, 1] < HELD,
                (off_right < NEAR) & (off_left < NEAR),
                off_left < REACHED,
                gripper[:, 0] < HELD,
                gripper[:, 1] > RELEASED,
                jnp.zeros_like(phase, bool),
            ],
        )
        holding = jnp.stack([phase >= 6, (phase >= 3) & (phase <= 5)], axis=1)
        lost = (holding & (gripper < gripper_at(CUBE_HALF_SIZE) - EMPTY)).any(-1)
        opening = jnp.stack(
            [
                choose(phase, [jnp.full_like(gripper[:, 0], value) for value in [OPEN] * 5 + [CLOSED] * 3]),
                choose(
                    phase, [jnp.full_like(gripper[:, 1], value) for value in [OPEN] * 2 + [CLOSED] * 4 + [OPEN] * 2]
                ),
            ],
            axis=1,
        )
        return self._move(state, output, goal, opening, advance, lost)
