"""Scripted expert of ALOHA's insertion: the right hand takes the peg, the left the socket, and they meet in the air."""

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
    along_x,
    angle_between,
    carry,
    choose,
    compose,
    gripper_at,
    hand_quaternion,
    inverse,
    poses,
)

HALF_LENGTH = 0.06
"""Half the length of the peg and of the socket [m]."""

PEG_HALF_WIDTH = 0.01
SOCKET_HALF_WIDTH = 0.022
"""Half the outer width of the peg and of the socket [m]."""

PIN_HALF_LENGTH = 0.04
"""Half the length of the pin in the middle of the socket [m]."""

TOUCH = HALF_LENGTH + PIN_HALF_LENGTH
"""Distance of the middle of the peg from that of the socket, along its axis, where the peg touches the pin [m]."""

MEET = (-0.06, 0.5, 0.15)
"""Place of the socket at the insertion, ours [m]; its axis lies along x, as at the start."""

PITCH = 1.2
"""How far both hands point down, ours [rad]."""

PEG_GRASP = (0.02, 0.0, 0.004)
SOCKET_GRASP = (-0.02, 0.0, 0.0)
"""Points between the fingertips on the peg and on the socket, from their middles, ours [m]."""

POSTURE = (0.0, -0.1, 0.8, 0.0, 0.5, 0.0)
"""Posture of each arm from which inverse kinematics starts, ours [rad]."""

CLEARANCE = 0.08
"""Way on which a hand approaches its object straight, along its fingers, ours [m]."""

GAP = 0.03
"""Distance of the peg from the mouth of the socket before it is inserted, ours [m]."""

LOOK_AHEAD = 0.015
"""Largest distance by which the goal of the peg is ahead of it during insertion, ours [m]."""

PRESS = 0.003
"""Distance by which the goal of the peg lies behind the face of the pin, ours [m]."""

GAIN = 5.0
"""Share of the gap between peg and pin by which the goal lies further behind, ours: it closes again quickly."""

MAX_PRESS = 0.015
"""Largest distance by which the goal of the peg lies behind the face of the pin, ours [m]."""

SLIP = 0.04
"""Slip of the hand along the peg over which the pressing fades, ours [m]: the servos are stronger than the grip."""

LEAST = 0.15
"""Share of the pressing that never fades, ours."""

NEAR = 0.015
"""A hand is at the beginning of its approach, or the socket where they meet, within this distance, ours [m]."""

REACHED = 0.006
"""A hand is at its grasp within this distance, ours [m]."""

ALIGNED = 0.006
"""The end of the peg that enters goes on at full speed within this distance from the axis of the socket, ours [m]; the
play is 0.008."""

OFF_AXIS = 0.012
"""Before the mouth of the socket the peg stops where it is so far off the axis; farther off it draws back, ours [m].
More than the play: a peg that waits until it is exact teaches a policy that is a little off to wait for ever."""

GUIDED = 2 * HALF_LENGTH - 0.006
"""Nearer than this distance of the middles the walls of the socket guide the peg, ours [m]."""

TOUCHING = (gripper_at(SOCKET_HALF_WIDTH), gripper_at(PEG_HALF_WIDTH))
"""Gripper of the left hand on the socket and of the right hand on the peg."""

HELD = 0.03
"""A closing gripper holds its object if it is at most this much wider than `TOUCHING`, ours."""

OPENED = 0.85
"""A gripper is open enough to descend above this opening, ours."""


class AlohaInsertionExpert(ArmExpert):
    """Waypoints of both hands, chosen by phase.

    From the grasp on, what a hand does depends on where the objects are, not on a remembered phase: a policy sees it.
    """

    # Phases: 0 over the objects, 1 descend, 2 close, 3 lift, align, insert and press.
    phases = 4

    def act(self, state: ArmState, output: StepOutput) -> tuple[ArmState, jax.Array]:
        """The next memory and the action, float32 (B, 14)."""
        hands = poses(jnp.asarray(output.end_effector))
        gripper = jnp.asarray(output.state).reshape(-1, 2, 7)[..., 6]
        objects = poses(jnp.asarray(output.env_state).reshape(-1, 2, 7)[:, ::-1])  # as the hands: socket, peg
        socket, peg = (Pose(objects.position[:, i], objects.quaternion[:, i]) for i in range(2))
        phase = state.phase
        forward = jnp.array([[np.cos(PITCH), 0.0, -np.sin(PITCH)], [-np.cos(PITCH), 0.0, -np.sin(PITCH)]])
        downward = jnp.broadcast_to(jnp.stack([hand_quaternion(i, PITCH) for i in range(2)]), hands.quaternion.shape)
        grasp = objects.position + jnp.array([SOCKET_GRASP, PEG_GRASP]) - GRASP * forward

        # The peg in the frame of the socket: both axes are x. The end that enters decides whether they meet.
        relative = compose(inverse(socket), peg)
        entering = compose(relative, along_x(-HALF_LENGTH)).position
        off_axis = jnp.sqrt(jnp.sum(entering[:, 1:] ** 2, axis=-1))

        # Where the hands hold their objects. Pressing lets the peg slip in the hand, and fades with it.
        held = compose(inverse(objects), compose(hands, along_x(GRASP)))
        gap = jnp.maximum(relative.position[:, 0] - TOUCH, 0.0)
        fade = jnp.clip((held.position[:, 1, 0] - PEG_GRASP[0] + SLIP) / SLIP, LEAST, 1.0)
        press = jnp.minimum(fade * PRESS + GAIN * gap, MAX_PRESS)
        apart = 2 * HALF_LENGTH + GAP
        centred = jnp.clip((OFF_AXIS - off_axis) / (OFF_AXIS - ALIGNED), -1.0, 1.0)
        centred = jnp.where(relative.position[:, 0] < GUIDED, 1.0, centred)
        inserted = jnp.clip(relative.position[:, 0] - LOOK_AHEAD * centred, TOUCH - press, apart)

        # The peg goes to where the socket will be, and follows the socket itself once that is near.
        upright = jnp.broadcast_to(jnp.array(UPRIGHT), peg.quaternion.shape)
        meet = Pose(jnp.broadcast_to(jnp.array(MEET), peg.position.shape), upright)
        short = jnp.sqrt(jnp.sum((socket.position - meet.position) ** 2, axis=-1))
        short = short + HALF_LENGTH * angle_between(socket.quaternion, upright)
        near = jnp.clip(2 - short / NEAR, 0.0, 1.0)[:, None]
        turned = jnp.where(jnp.sum(socket.quaternion * upright, -1, keepdims=True) < 0, -1.0, 1.0) * socket.quaternion
        axis = Pose(*(a + near * (b - a) for a, b in zip(meet, (socket.position, turned), strict=True)))
        axis = axis._replace(quaternion=axis.quaternion / jnp.linalg.norm(axis.quaternion, axis=-1, keepdims=True))
        peg_goal = compose(axis, along_x(apart + near[:, 0] * (inserted - apart)))
        goal = Pose(*(jnp.stack(pair, axis=1) for pair in zip(meet, peg_goal, strict=True)))
        # In the air the hands turn their objects straight. In the socket the walls do, and a hand that turned against
        # them would tip the peg over: there it keeps its own pitch.
        free = carry(hands, objects, goal)
        guided = Pose(compose(goal, held).position - GRASP * forward, downward)
        inside = (relative.position[:, 0] < 2 * HALF_LENGTH)[:, None, None]
        carried = Pose(*(jnp.where(inside, a, b) for a, b in zip(guided, free, strict=True)))

        of_phase = phase[:, None, None]
        position = jnp.where(
            of_phase == 0, grasp - CLEARANCE * forward, jnp.where(of_phase < 3, grasp, carried.position)
        )
        target = Pose(position, jnp.where(of_phase < 3, downward, carried.quaternion))
        joints = jnp.where(of_phase == 2, state.joints, self._reach((POSTURE, POSTURE), target))
        off = jnp.sqrt(jnp.sum((hands.position - position) ** 2, axis=-1))
        advance = choose(
            phase,
            [
                ((off < NEAR) & (gripper > OPENED)).all(-1),
                (off < REACHED).all(-1),
                (gripper < jnp.array(TOUCHING) + HELD).all(-1),
                jnp.zeros_like(phase, bool),
            ],
        )
        lost = ((phase >= 3)[:, None] & (gripper < jnp.array(TOUCHING) - EMPTY)).any(-1)
        opening = jnp.broadcast_to(jnp.where(phase < 2, OPEN, CLOSED)[:, None], gripper.shape)
        return self._move(state, output, joints, opening, advance, lost)
